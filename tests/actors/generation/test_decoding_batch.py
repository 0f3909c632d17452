"""The transformers engine's batch: rows of other lengths come and go, and each answer is as if it were alone."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from actors.contracts import GenerationJob
from actors.finished import Finished
from actors.generation.key_values import SlotCache, WholeCache
from actors.generation.transformers_engine import TransformersEngine
from configs.generator import GeneratorConfig
from orchestrator.rollout.answers import trajectories
from tests.conftest import make_policy
from trajectories.trajectory import Trajectory

WINDOW = 12


def policy_with(folder: Path, window: bool, seed: int = 0) -> Path:
    """A policy whose layers attend to all tokens or, with `window`, the second one to the last WINDOW."""
    make_policy(folder, hidden=128, seed=seed)
    if window:
        config = json.loads((folder / "config.json").read_text())
        layers = ["full_attention", "sliding_attention"]
        config |= {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": layers, "max_window_layers": 1}
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def engine_of(policy: Path, max_sequences: int, mixed_with: str = "") -> TransformersEngine:
    config = GeneratorConfig(max_sequences=max_sequences)
    return TransformersEngine(
        str(policy), config=config, dtype="float32", max_length=256, device="cpu", mixed_with=mixed_with
    )


def job(key: str, prompt: int, answers: int, new: int) -> GenerationJob:
    tokens = np.random.default_rng(prompt).integers(2, 250, size=prompt).astype(np.int32)
    seeds = tuple(range(100 * prompt, 100 * prompt + answers))
    return GenerationJob(key=key, prompt_id=key, prompt_tokens=tokens, seeds=seeds, temperature=1.0, max_new_tokens=new)


def decode(engine: TransformersEngine, jobs: list[GenerationJob]) -> dict[str, Trajectory]:
    engine.submit(jobs)
    blocks = []
    while engine.busy:
        blocks.append(engine.step())
    return {t.key: t for t in trajectories(Finished.joined([b for b in blocks if b]), {j.key: j for j in jobs})}


@pytest.mark.parametrize(("window", "kind"), [(False, SlotCache), (True, WholeCache)], ids=["all", "sliding window"])
def test_log_probs_are_those_of_a_plain_forward_when_rows_join_leave_and_move(
    tmp_path: Path, window: bool, kind: type
) -> None:
    policy = policy_with(tmp_path, window)
    engine = engine_of(policy, max_sequences=6)
    jobs = [job("a", 3, 9, 60), job("b", 40, 5, 60), job("c", 17, 8, 60), job("d", 90, 7, 60)]
    found = decode(engine, jobs)
    assert engine._caches is not None and [type(cache) for cache in engine._caches.each] == [kind]
    assert len(found) == 29
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    for t in found.values():
        ids = torch.as_tensor(t.tokens, dtype=torch.long)
        with torch.no_grad():
            logps = torch.log_softmax(model(ids[None]).logits[0, :-1], -1).gather(-1, ids[1:, None]).squeeze(-1)
        np.testing.assert_allclose(t.logp_sampler[t.mask], logps[t.mask[1:]], atol=1e-4)


@pytest.mark.parametrize("windows", [(False, False), (False, True)], ids=["all", "second has a sliding window"])
def test_mixed_tokens_have_the_log_probs_of_the_mixture_and_other_jobs_those_of_the_policy(
    tmp_path: Path, windows: tuple[bool, bool]
) -> None:
    policies = [policy_with(tmp_path / str(seed), window, seed) for seed, window in enumerate(windows)]
    engine = engine_of(policies[0], max_sequences=6, mixed_with=str(policies[1]))
    models = [AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32) for policy in policies]
    plain = [job("a", 3, 9, 60), job("b", 40, 5, 60)]
    mixed = [replace(each, mixture=0.3) for each in [*plain, job("c", 17, 8, 60)]]
    found = decode(engine, plain), decode(engine, mixed), decode(engine, plain)
    for share, answers in zip((0.0, 0.3, 0.0), found, strict=True):
        for t in answers.values():
            ids = torch.as_tensor(t.tokens, dtype=torch.long)
            with torch.no_grad():
                rows = [torch.softmax(model(ids[None]).logits[0, :-1], -1) for model in models]
            mixture = (1 - share) * rows[0] + share * rows[1]
            logps = mixture.gather(-1, ids[1:, None]).squeeze(-1).log()
            np.testing.assert_allclose(t.logp_sampler[t.mask], logps[t.mask[1:]], atol=1e-4)
    alone = decode(engine_of(policies[0], max_sequences=6), plain)
    tokens = [{key: answers[key].tokens.tolist() for key in alone} for answers in (alone, *found)]
    assert tokens[0] == tokens[1] == tokens[3] != tokens[2]


def test_a_second_policy_with_another_vocabulary_is_refused(tmp_path: Path) -> None:
    policy, other = (policy_with(tmp_path / name, window=False) for name in "ab")
    config = AutoConfig.from_pretrained(policy, vocab_size=300)
    AutoModelForCausalLM.from_config(config).save_pretrained(other)
    with pytest.raises(ValueError, match=r"^sampling.mixed_with: must be a policy with the same vocabulary, got sizes"):
        engine_of(policy, max_sequences=2, mixed_with=str(other))


def test_answers_are_the_same_however_many_are_decoded_at_a_time(tmp_path: Path) -> None:
    policy = policy_with(tmp_path, window=False)
    jobs = [job("a", 3, 9, 40), job("b", 40, 5, 40)]
    alone, few, all_at_once = (decode(engine_of(policy, count), jobs) for count in (1, 4, 64))
    for key, t in alone.items():
        assert t.tokens.tolist() == few[key].tokens.tolist() == all_at_once[key].tokens.tolist()


def test_the_prompt_of_a_group_is_computed_once_and_finished_rows_are_not_computed(tmp_path: Path) -> None:
    policy = policy_with(tmp_path, window=False)
    engine = engine_of(policy, max_sequences=64)
    shapes: list[tuple[int, ...]] = []
    engine.model.register_forward_pre_hook(
        lambda _, __, inputs: shapes.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    jobs = [job("a", 20, 16, 1), replace(job("b", 20, 16, 5), key="b", max_new_tokens=5)]
    found = decode(engine, jobs)
    assert shapes[0] == shapes[1] == (1, 20), "one prompt for all answers of the group"
    lengths = np.array([t.answer_length for t in found.values() if t.prompt_id == "b"])
    assert shapes[2:] == [(int((lengths > step).sum()), 1) for step in range(1, 5)]


def test_a_key_that_is_masked_never_spoils_a_row_after_many_submissions(tmp_path: Path) -> None:
    engine = engine_of(policy_with(tmp_path, window=False), max_sequences=8)
    first = decode(engine, [job("a", 5, 6, 30)])
    decode(engine, [job("b", 100, 8, 90), job("c", 2, 8, 90)])
    again = decode(engine, [job("a", 5, 6, 30)])
    for key, t in first.items():
        assert t.tokens.tolist() == again[key].tokens.tolist()
        assert t.logp_sampler.tobytes() == again[key].logp_sampler.tobytes()
