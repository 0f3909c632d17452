"""Weights are read as transformers reads them, by every rank its own part, and damaged files are named."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from actors.policy_files.reading import empty_model, load_model, load_tokenizer
from actors.policy_files.writing import save_policy
from tasks.characters import VOCABULARY_SIZE, save_tokenizer
from tests.actors.learning.learner_ranks import free_address
from tests.actors.policy_files.reading_ranks import RANKS_S
from tests.conftest import make_mixture_of_experts, make_policy

ROOT = Path(__file__).resolve().parents[3]
MEGABYTE = 2**20


def everything(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def make_policy_with_buffers(folder: Path) -> Path:
    """A random DeepSeek-V3 policy, whose files hold buffers, which stay float32."""
    config = DeepseekV3Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=32,
        intermediate_size=32,
        moe_intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        n_routed_experts=4,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        first_k_dense_replace=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=16,
        v_head_dim=16,
        qk_nope_head_dim=16,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = DeepseekV3ForCausalLM(config)
        for _, buffer in model.named_buffers():
            if buffer.shape == (4,):
                buffer.uniform_(-0.1, 0.1)
        model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def loaded_by_ranks(
    policy: Path, folder: Path, ranks: int, *averaged: Path
) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
    """The weights and buffers that `ranks` processes have together, and the bytes that loading, and the copy of what
    each writes to `folder`/saved, took in each."""
    folder.mkdir()
    script = Path(__file__).with_name("reading_ranks.py")
    done = subprocess.run(
        [
            sys.executable,
            str(script),
            free_address(),
            os.pathsep.join(map(str, (policy, *averaged))),
            str(folder),
            str(ranks),
        ],
        capture_output=True,
        text=True,
        timeout=2 * RANKS_S,
        cwd=ROOT,
        # What is freed goes back to the system, and does not count as memory of the process.
        env=os.environ | {"PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr
    taken = [[int(n) for n in (folder / f"bytes-{rank}").read_text().split()] for rank in range(ranks)]
    return torch.load(folder / "weights.pt"), taken


@pytest.mark.slow
def test_a_rank_needs_the_memory_of_its_part_and_one_tensor(tmp_path: Path) -> None:
    shape = {"vocab_size": 4096, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 7}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 12, "tie_word_embeddings": True}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(Qwen2Config(**shape, **heads))
    model.save_pretrained(tmp_path / "policy", max_shard_size="50MB")
    (tmp_path / "policy" / "tokenizer_config.json").write_text("{}")
    size = sum(p.nbytes for p in model.parameters())
    largest = max(p.nbytes for p in model.parameters())
    layer = sum(p.nbytes for p in model.model.layers[0].parameters())
    assert size > 200e6 and len(list((tmp_path / "policy").glob("*.safetensors"))) > 3
    for ranks in (2, 4):
        weights, taken = loaded_by_ranks(tmp_path / "policy", tmp_path / str(ranks), ranks)
        assert_same(weights, everything(model))
        assert_same(everything(AutoModelForCausalLM.from_pretrained(tmp_path / str(ranks) / "saved")), weights)
        for loading, copying in taken:
            assert loading < size / ranks + largest + 8 * MEGABYTE, taken
            assert copying < size / ranks + layer + 3 * largest + 8 * MEGABYTE, taken
    halved = {name: p.data / 2 for name, p in model.named_parameters()}
    model.load_state_dict(halved, strict=False)
    model.save_pretrained(tmp_path / "half", max_shard_size="50MB")
    weights, taken = loaded_by_ranks(tmp_path / "policy", tmp_path / "soup", 2, tmp_path / "half")
    for name, half in halved.items():
        torch.testing.assert_close(weights[name], 1.5 * half)
    for loading, _ in taken:
        assert loading < size / 2 + 3 * largest + 8 * MEGABYTE, "a part of a tensor of each policy, and their sum"


@pytest.mark.slow
def test_ranks_load_and_save_stacked_experts_and_tied_heads_as_transformers_does(tmp_path: Path) -> None:
    ranks = 3  # so that no tensor is divided evenly
    for policy in (make_mixture_of_experts(tmp_path / "experts"), make_policy(tmp_path / "tied")):
        expected = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
        folder = tmp_path / f"by_ranks_{policy.name}"
        found, _ = loaded_by_ranks(policy, folder, ranks)
        assert_same(found, everything(expected))
        assert_same(everything(AutoModelForCausalLM.from_pretrained(folder / "saved")), found)
        assert len(list((folder / "saved").glob("*.safetensors"))) == ranks
        names = {name for file in (folder / "saved").glob("*.safetensors") for name in load_file(file)}
        assert names == load_file(policy / "model.safetensors").keys(), "named as in the policy's files"


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["tied", "untied", "experts", "buffers"])
def test_a_loaded_model_equals_that_of_transformers(
    tmp_path: Path, kind: str, stored: torch.dtype, wanted: torch.dtype
) -> None:
    make = {"experts": make_mixture_of_experts, "buffers": make_policy_with_buffers}
    policy = make[kind](tmp_path) if kind in make else make_policy(tmp_path, tie=kind == "tied")
    file = policy / "model.safetensors"
    as_stored = {name: t if "bias" in name else t.to(stored) for name, t in load_file(file).items()}
    save_file(as_stored, file, metadata={"format": "pt"})
    before = torch.random.get_rng_state()
    model = load_model(str(policy), wanted)
    assert torch.equal(torch.random.get_rng_state(), before), "nothing was initialised at random"
    expected = AutoModelForCausalLM.from_pretrained(policy, dtype=wanted)
    assert_same(everything(model), everything(expected))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (kind == "tied")
    tokens = torch.arange(2, 12)[None]
    assert torch.equal(model(input_ids=tokens).logits, expected(input_ids=tokens).logits)
    copied = tmp_path / "copied"
    save_policy(str(copied), model, load_tokenizer(str(policy)), str(wanted).removeprefix("torch."))
    again = load_file(copied / "model.safetensors")
    assert again.keys() == as_stored.keys(), "named as in the policy's files"
    assert_same(everything(AutoModelForCausalLM.from_pretrained(copied, dtype=wanted)), everything(expected))
    assert not model.training and model.generation_config.eos_token_id == expected.generation_config.eos_token_id


def test_an_empty_model_has_no_weights_in_memory(tiny_policy: Path) -> None:
    assert {p.device.type for p in empty_model(str(tiny_policy)).parameters()} == {"meta"}


def test_capped_logits_are_refused_whatever_the_weights(tmp_path: Path) -> None:
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 16}
    config = Gemma2Config(**shape, num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=30.0)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"policy\.path: .*capped or scaled.*Gemma2ForCausalLM"):
        load_model(str(tmp_path))


def sharded(tmp_path: Path) -> Path:
    """A policy in several files."""
    policy = make_policy(tmp_path / "policy")
    AutoModelForCausalLM.from_pretrained(policy).save_pretrained(policy, max_shard_size="100KB")
    (policy / "model.safetensors").unlink()
    return policy


def test_a_truncated_a_missing_and_a_malformed_file_is_named(tmp_path: Path) -> None:
    policy = sharded(tmp_path)
    file = sorted(policy.glob("*.safetensors"))[1]
    whole = file.read_bytes()
    for damage in (whole[:-1], whole[:4], b"", b"\xff" * 100):
        file.write_bytes(damage)
        with pytest.raises(ValueError, match=rf"^policy\.path: {file} must be a whole safetensors file, got "):
            load_model(str(policy))
    file.unlink()
    with pytest.raises(ValueError, match=rf"^policy\.path: must hold {file.name}, which its .*index\.json names, got "):
        load_model(str(policy))


def test_a_missing_and_a_malformed_index_is_named(tmp_path: Path) -> None:
    policy = sharded(tmp_path)
    index = policy / "model.safetensors.index.json"
    for damage in ("", "{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": '):
        index.write_text(damage)
        with pytest.raises(ValueError, match=rf"^policy\.path: {index} must be an index, which names the file of each"):
            load_model(str(policy))
    index.unlink()
    with pytest.raises(ValueError, match=r"^policy\.path: must hold model\.safetensors\.index\.json where it has no "):
        load_model(str(policy))


def test_files_without_a_weight_or_with_one_of_another_shape_are_refused(tmp_path: Path) -> None:
    policy = make_policy(tmp_path)
    file = policy / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: t for key, t in tensors.items() if key != name}, file)
    with pytest.raises(ValueError, match=rf"must hold all weights, got none for \['{name}'\]"):
        load_model(str(policy))
    save_file(tensors | {name: tensors[name][1:].contiguous()}, file)
    with pytest.raises(ValueError, match=rf"{name} must have the shape \(128, 64\) of config.json, got \(127, 64\)"):
        load_model(str(policy))


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    policy = make_policy(tmp_path)
    config = json.loads((policy / "config.json").read_text())
    (policy / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "fp8"}}))
    with pytest.raises(ValueError, match=r"^policy\.path: its weights must not be quantized"):
        load_model(str(policy))
