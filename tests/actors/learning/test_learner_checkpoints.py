"""Outputs of a learner: weights for generators, saved policies for transformers, and checkpoints."""

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.contracts import HostWeights, WeightsInfo
from actors.local import LocalLearner
from actors.weights.host import check_payload, named_views
from objectives.diagnostics import Stats
from tests.actors.learning.learner_ranks import (
    COEFFICIENTS,
    CRITIC,
    RANKS_S,
    assert_equal,
    batch_of,
    config_of,
    critic_batch,
    joined,
    parameters_of,
    parameters_of_learner,
    run_script,
    save,
    step,
    weights_of,
    with_nan_advantage,
)
from tests.actors.learning.resharding_ranks import CHOICES, whole_state
from tests.conftest import make_policy


def test_weights_have_the_names_shapes_and_dtype_of_weights_info(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy))
    info, weights = learner.weights_info(), learner.weights(7, checksum=True)
    assert weights is not None and weights.version == 7 and weights.checksum is not None
    expected = parameters_of(learner.policy.model)
    assert info.dtype == "float32"
    sizes = {name: tuple(p.shape) for name, p in expected.items()}
    assert dict(zip(info.names, info.shapes, strict=True)) == sizes
    assert_equal(weights_of(learner), expected)
    step(learner, batch_of(0))
    assert_equal(weights_of(learner), parameters_of(learner.policy.model))
    assert not torch.equal(weights_of(learner)[info.names[0]], expected[info.names[0]])


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
def test_a_saved_policy_loads_in_transformers_with_the_learners_weights(tmp_path: Path, tie: bool) -> None:
    start = make_policy(tmp_path / "start", tie=tie)
    (start / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 67]}))
    learner = joined(str(start))
    step(learner, batch_of(0))
    save(learner, tmp_path / "saved")
    folder = tmp_path / "saved" / "policy"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32 and model.generation_config.eos_token_id == [1, 67]
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tie
    assert_equal(parameters_of(model), weights_of(learner))
    text = "3,7,12=22:"
    assert tokenizer(text)["input_ids"] == AutoTokenizer.from_pretrained(start)(text)["input_ids"]
    assert tokenizer.eos_token_id == 1


@pytest.mark.parametrize("updates", [0, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("saved", ["float32", "bfloat16"])
def test_a_loaded_learner_continues_bit_for_bit(
    tiny_policy: Path, tmp_path: Path, dtype: str, updates: int, saved: str
) -> None:
    config = config_of(schedule="cosine", warmup_steps=1, weight_decay=0.1)
    learner = joined(str(tiny_policy), dtype=dtype, config=config, checkpoint_dtype=saved)
    for update in range(updates):
        step(learner, batch_of(update))
    save(learner, tmp_path)
    loaded = joined(str(tiny_policy), dtype=dtype, config=config)
    if updates:
        step(loaded, batch_of(9))  # `load` must undo this update
    loaded.load(str(tmp_path))
    uninterrupted = joined(str(tiny_policy), dtype=dtype, config=config)
    for update in range(updates):
        step(uninterrupted, batch_of(update))
    stats = [step(one, batch_of(updates)) for one in (learner, loaded, uninterrupted)]
    assert stats[0] == stats[1] == stats[2]
    for one in (learner, loaded):
        assert_equal(parameters_of_learner(one), parameters_of_learner(uninterrupted))
    learner.close()


@pytest.mark.slow
def test_a_checkpoint_passes_from_one_rank_to_two_to_four_and_back_without_a_change(
    tiny_policy: Path, tmp_path: Path
) -> None:
    learner = joined(str(tiny_policy), **CHOICES)
    for update in range(3):  # between the two steps of a pair
        step(learner, critic_batch(update))
    expected = whole_state(learner)
    kinds = {name.split("/")[0] for name in expected}
    assert kinds == {"counters", "step", "exp_avg", "exp_avg_sq", "weights", "kept"} and learner.pair.kept
    save(learner, tmp_path / "1")
    for source, ranks in (("1", "2"), ("2", "4")):
        folders = (tmp_path / source, tmp_path / ranks)
        run_script("resharding_ranks.py", tiny_policy, *folders, ranks, timeout_s=2 * RANKS_S)
        assert_equal(torch.load(tmp_path / ranks / "state.pt"), expected)
        assert len(list((tmp_path / ranks / "optimizer").iterdir())) == int(ranks)
    again = joined(str(tiny_policy), **CHOICES)
    again.load(str(tmp_path / "4"))
    assert_equal(whole_state(again), expected)
    for one in (learner, again):
        step(one, critic_batch(3))
    assert_equal(whole_state(again), whole_state(learner))


def test_what_follows_a_save_is_not_in_the_checkpoint(tiny_policy: Path, tmp_path: Path) -> None:
    learner = joined(str(tiny_policy), objective=CRITIC)
    step(learner, critic_batch(0))
    expected = whole_state(learner)
    waiting, written = threading.Event(), threading.Event()

    def blocked() -> None:
        waiting.set()
        written.wait(10)

    learner.checkpoints.writer.submit(blocked)  # nothing is written before the next step is done
    assert waiting.wait(10)
    learner.save(str(tmp_path))
    step(learner, critic_batch(1))
    assert not (tmp_path / "optimizer").exists()
    written.set()
    learner.saved()
    loaded = joined(str(tiny_policy), objective=CRITIC)
    loaded.load(str(tmp_path))
    assert_equal(whole_state(loaded), expected)


def test_an_error_of_the_writer_is_raised_by_the_one_who_waits(tiny_policy: Path, tmp_path: Path) -> None:
    learner = joined(str(tiny_policy))
    (tmp_path / "taken").write_text("a file where the folder is to be")
    learner.save(str(tmp_path / "taken"))
    with pytest.raises(OSError, match="taken"):
        learner.saved()
    learner.saved()  # raised once


@pytest.mark.parametrize("name", ["policy/model.safetensors", "optimizer/rank-00000-of-00001.safetensors"])
def test_a_truncated_file_of_a_checkpoint_is_named(tiny_policy: Path, tmp_path: Path, name: str) -> None:
    learner = joined(str(tiny_policy))
    save(learner, tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-8])
    with pytest.raises(ValueError, match=rf"{name} must be a whole safetensors file"):
        learner.load(str(tmp_path))


def test_a_checkpoint_restores_the_count_of_skipped_updates_before_the_first_step(
    tiny_policy: Path, tmp_path: Path
) -> None:
    config = config_of(max_skipped_in_a_row=2)
    learner = joined(str(tiny_policy), config=config)
    step(learner, with_nan_advantage(batch_of(0)))
    save(learner, tmp_path)
    loaded = joined(str(tiny_policy), config=config)
    loaded.load(str(tmp_path))
    with pytest.raises(RuntimeError, match="2 successive"):
        step(loaded, with_nan_advantage(batch_of(0)))


def test_a_checkpoint_without_a_policy_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"policy\.path"):
        joined(str(tiny_policy)).load(str(tmp_path))


def test_a_checkpoint_without_the_critic_of_the_settings_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    save(joined(str(tiny_policy)), tmp_path)
    with pytest.raises(ValueError, match=r"^checkpoint .*: must be of a learner with the same value heads .*critic\."):
        joined(str(tiny_policy), objective=CRITIC).load(str(tmp_path))


def test_the_local_learner_satisfies_the_contract(tiny_policy: Path, tmp_path: Path) -> None:
    class Receiver:
        """The methods of a generator that receive weights."""

        async def init_weights(self, info: WeightsInfo) -> None:
            self.info = info

        async def update_weights(self, weights: HostWeights) -> int:
            check_payload(self.info, weights)
            self.weights = dict(named_views(self.info, weights.data))
            return weights.version

    async def run(receivers: list[Any]) -> Stats:
        local, again = (LocalLearner(joined(str(tiny_policy)), checksum=True) for _ in range(2))
        stats = await local.update(batch_of(0), COEFFICIENTS)
        await local.save(str(tmp_path))
        await local.saved()
        await again.load(str(tmp_path))
        await local.connect(receivers[:2])
        await again.connect(receivers[2:])
        await asyncio.gather(local.publish(1), again.publish(1))
        await asyncio.gather(local.close(), again.close())
        return stats

    receivers = [Receiver() for _ in range(3)]
    expected = joined(str(tiny_policy))
    assert asyncio.run(run(receivers)) == step(expected, batch_of(0))
    for receiver in receivers:
        assert_equal(receiver.weights, weights_of(expected))
