"""A policy must be writable as a checkpoint, which is checked before a run."""

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GenerationConfig

from actors.contracts import GenerationJob
from actors.learning.learner import FsdpLearner
from actors.policy_files import writing
from actors.policy_files.reading import load_model, load_tokenizer
from actors.policy_files.writing import check_saving, policy_part, write_settings
from configs.learner import LearnerConfig
from configs.objective import ObjectiveConfig
from tests.actors.generation.collected import answers
from tests.actors.generation.generator_process import GeneratorServer
from tests.conftest import make_policy


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    return make_policy(tmp_path / "policy")


def set_generation_config(policy: Path, **values: object) -> None:
    file = policy / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def saved(policy: Path, folder: Path, dtype: str = "float32") -> Path:
    """The policy as a learner writes it."""
    learner = FsdpLearner(
        str(policy),
        config=LearnerConfig(),
        objective=ObjectiveConfig(),
        dtype="float32",
        temperature=1.0,
        total_steps=1,
    )
    learner.join()
    learner.save_policy(str(folder), dtype)
    return folder


def test_contradictory_generation_settings_are_left_out_of_a_checkpoint(policy: Path, tmp_path: Path) -> None:
    set_generation_config(policy, do_sample=False, temperature=0.6, eos_token_id=[1, 7])
    check_saving(str(policy), load_tokenizer(str(policy)))
    folder = saved(policy, tmp_path / "saved")
    config = GenerationConfig.from_pretrained(folder)
    assert (config.eos_token_id, config.pad_token_id, config.temperature) == ([1, 7], 0, None)
    weights = load_model(str(folder)).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_model(str(policy)).state_dict().items())


def test_valid_generation_settings_are_in_a_checkpoint(policy: Path, tmp_path: Path) -> None:
    set_generation_config(policy, do_sample=True, temperature=0.6, top_p=0.9)
    check_saving(str(policy), load_tokenizer(str(policy)))
    config = GenerationConfig.from_pretrained(saved(policy, tmp_path / "saved"))
    assert (config.do_sample, config.temperature, config.top_p) == (True, 0.6, 0.9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_says_in_which_dtype_its_weights_are(policy: Path, tmp_path: Path, dtype: str) -> None:
    folder = saved(policy, tmp_path / "saved", dtype)
    expected = getattr(torch, dtype)
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {expected}
    assert AutoModelForCausalLM.from_pretrained(folder, dtype="auto").dtype == expected


def test_a_saved_policy_replaces_all_files_of_the_one_before(policy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text("{}")
    (folder / "model-00001-of-00002.safetensors").touch()
    saved(policy, folder)
    assert [file.name for file in folder.glob("model*")] == ["model.safetensors"]


@pytest.mark.parametrize("ranks", [1, 2, 3, 9])
def test_large_files_are_divided_and_every_tensor_is_written_by_one_rank(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    monkeypatch.setattr(writing, "FILE_BYTES", 100_000)
    model = load_model(str(policy))
    parts = [policy_part(model, model.named_parameters(), "float32", rank=r, ranks=ranks) for r in range(ranks)]
    for part in parts:
        part.write(tmp_path / "saved")
    model.config.save_pretrained(tmp_path / "saved")
    written = [name for part in parts for tensors in part.files.values() for name in tensors]
    assert sorted(written) == sorted(load_file(policy / "model.safetensors"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())
    (tmp_path / "saved" / "tokenizer_config.json").write_text("{}")
    again = load_model(str(tmp_path / "saved")).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in loaded.items())
    files = sorted((tmp_path / "saved").glob("*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"


@pytest.mark.ray
def test_vllm_loads_the_files_that_several_ranks_have_written(
    policy: Path, tmp_path: Path, vllm: GeneratorServer
) -> None:
    model, folder = load_model(str(policy)), tmp_path / "saved"
    write_settings(folder, model, load_tokenizer(str(policy)), "float32")
    for rank in range(3):
        policy_part(model, model.named_parameters(), "float32", rank=rank, ranks=3).write(folder)
    assert len(list(folder.glob("*.safetensors"))) == 3
    generator = vllm.fork().build(folder, max_length=64, max_sequences=4)
    prompt = np.arange(2, 12, dtype=np.int32)
    fields = {"temperature": 1.0, "max_new_tokens": 12}
    job = GenerationJob(key="a", prompt_id="a", prompt_tokens=prompt, seeds=(1, 2), **fields)
    try:
        found = answers(generator, [job])
    finally:
        asyncio.run(generator.close())
    for _, answer in found:
        tokens = torch.from_numpy(answer.tokens.astype(np.int64))
        logps = torch.log_softmax(model(input_ids=tokens[None]).logits[0, :-1], -1).gather(-1, tokens[1:, None])[:, 0]
        sampled = torch.from_numpy(answer.logp_sampler[1:])[torch.from_numpy(answer.mask[1:])]
        torch.testing.assert_close(sampled, logps[torch.from_numpy(answer.mask[1:])].detach(), atol=1e-3, rtol=0)


def test_a_policy_whose_files_cannot_be_read_back_is_refused_before_a_run(policy: Path) -> None:
    (policy / "generation_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"policy\.path: checkpoints of the policy must be writable and readable, got"):
        check_saving(str(policy), load_tokenizer(str(policy)))
