"""FsdpLearner: an update against plain torch, schedules, guards, checkpoints, and two ranks against one."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_policy
from learner_ranks import (
    COEFFICIENT,
    OBJECTIVE,
    ONE_ANSWER,
    RANKS_S,
    RATE,
    TOKEN_BUDGET,
    UPDATES,
    batch_of,
    config_of,
    gradients_of,
    joined,
    spoiled,
    step,
    weights_of,
)
from random_batch import SHAPES, random_trajectory, untrained
from transformers import AutoModelForCausalLM, AutoTokenizer

from actors.contracts import HostWeights, WeightsInfo
from actors.host_weights import check_payload, named_views
from actors.learner import FsdpLearner, learning_rate, plan_updates
from actors.local import LocalLearner
from actors.policy import Policy, load_model
from configs.schema import LearnerConfig
from objectives.diagnostics import Stats, means, merge
from objectives.objective import loss
from orchestrator.warm_start import CROSS_ENTROPY
from trajectories.batch import deal, pack, partition

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS_ATOL = 0.02 * RATE
"""AdamW divides a gradient by its own size, rounding and all: a weight whose gradient is next to nothing moves by a part
of the rate that depends on the order of additions."""

Weights = dict[str, torch.Tensor]


def assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    assert not [name for name, value in expected.items() if not torch.equal(found[name], value)]


def assert_near(found: Weights, expected: Weights, atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def parameters_of(model: Any) -> Weights:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# One rank, against plain torch.


def test_updates_are_those_of_a_hand_written_loop_number_for_number(tiny_policy: Path) -> None:
    config = config_of(
        learning_rate=1e-3, weight_decay=0.1, beta2=0.95, max_grad_norm=0.05, warmup_steps=2, schedule="linear"
    )
    learner = joined(str(tiny_policy), config=config)
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    policy = Policy(model, layout="pad", logits_chunk=8, temperature=0.7)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    for update, rate in enumerate([5e-4, 1e-3, 1e-3]):
        batch = batch_of(update)
        stats = means(step(learner, batch))
        optimizer.zero_grad()
        total = 0.0
        for part in partition(batch, 1, TOKEN_BUDGET)[0]:
            value, _ = loss(policy(part)[0], part, OBJECTIVE, COEFFICIENT)
            value.backward()
            total += value.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert (stats["loss"], stats["grad_norm"], stats["learning_rate"]) == (total, float(norm), rate)
        assert stats["skipped_updates"] == 0
    assert_equal(weights_of(learner), parameters_of(model))


def test_microbatches_layout_and_gradient_checkpointing_change_no_gradient(tiny_policy: Path) -> None:
    batch, found = batch_of(0), []
    choices: list[dict[str, Any]] = [
        {"token_budget": 10_000},
        {"token_budget": TOKEN_BUDGET},
        {"layout": "pack"},
        {"gradient_checkpointing": True},
    ]
    for choice in choices:
        learner = joined(str(tiny_policy), config=config_of(**choice))
        found.append((len(plan_updates(batch, learner.config, 1)[0][0]), means(step(learner, batch)), learner))
    assert [parts for parts, _, _ in found] == [1, 3, 3, 3]
    _, stats, whole = found[0]
    for _, other_stats, other in found[1:]:
        assert other_stats == pytest.approx(stats, rel=2e-5, abs=1e-6)
        assert_near(gradients_of(other), gradients_of(whole), atol=1e-6)


def test_gradient_checkpointing_computes_the_layers_again_and_keeps_dropout_off(
    tiny_policy: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_policy, tmp_path / "policy"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    expected = means(step(joined(str(tiny_policy)), batch_of(0)))
    for checkpointing, calls in ((False, 3), (True, 6)):
        learner = joined(str(folder), config=config_of(gradient_checkpointing=checkpointing))
        seen: list[int] = []
        learner.policy.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        assert means(step(learner, batch_of(0))) == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert len(seen) == calls


def test_entropy_is_the_mean_over_explored_tokens(tiny_policy: Path) -> None:
    learner, batch = joined(str(tiny_policy)), batch_of(0)
    with torch.no_grad():
        entropy = learner.policy(batch)[1][batch.on_route("explore")].mean()
    assert means(step(learner, batch))["entropy"] == pytest.approx(float(entropy), rel=1e-6)


def test_cross_entropy_is_that_of_torch_on_the_answers(tiny_policy: Path) -> None:
    rows = [random_trajectory(shape, seed, "rehearse") for seed, shape in enumerate(SHAPES)]
    rows = [replace(row, logp_reference=np.zeros(len(row.tokens), dtype=np.float32)) for row in rows]
    learner = joined(str(tiny_policy), objective=CROSS_ENTROPY, temperature=1.0)
    [updates] = plan_updates(pack([], rows), learner.config, 1)
    stats = means(learner.update(updates, 1.0))
    model = load_model(str(tiny_policy))
    logits = [model(input_ids=torch.tensor(row.tokens)[None].long()).logits[0, :-1] for row in rows]
    targets = [torch.tensor(np.where(row.mask, row.tokens, -100))[1:].long() for row in rows]
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets))
    expected.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), torch.inf)
    assert stats["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert stats["divergence"] == pytest.approx(expected.item(), rel=1e-5)
    assert stats["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_clipping_bounds_the_gradient_and_reports_its_norm_before(tiny_policy: Path) -> None:
    norms = {}
    for bound in (1e6, 1e-2):
        learner = joined(str(tiny_policy), config=config_of(max_grad_norm=bound))
        reported = means(step(learner, batch_of(0)))["grad_norm"]
        left = torch.cat([g.flatten() for g in gradients_of(learner).values()]).norm()
        norms[bound] = (reported, float(left))
    assert norms[1e6][0] == norms[1e-2][0] == pytest.approx(norms[1e6][1], rel=1e-5)
    assert norms[1e-2][0] > 0.1
    assert norms[1e-2][1] == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]),
        ("cosine", [0.25, 0.5, 0.75, 1.0, 1.0, 0.8535533906, 0.5, 0.1464466094, 0.0]),
    ],
)
def test_the_rate_warms_up_then_follows_its_schedule_to_zero_at_the_end(schedule: Any, expected: list[float]) -> None:
    config = LearnerConfig(learning_rate=2.0, warmup_steps=4, schedule=schedule)
    assert [learning_rate(config, update, 8) / 2 for update in range(9)] == pytest.approx(expected)
    assert learning_rate(config, 50, 8) / 2 == pytest.approx(expected[-1]), "past the end it stays where it is"
    assert learning_rate(replace(config, warmup_steps=0), 0, 8) == 2.0


# The guard against what is not finite.


def test_an_update_that_is_not_finite_is_skipped_and_counted_and_a_good_one_forgives(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy), config=config_of(max_skipped_in_a_row=2))
    for _ in range(2):
        step(learner, batch_of(0))
        before, moments = weights_of(learner), str(learner.optimizer.state_dict())
        stats = means(step(learner, spoiled(batch_of(1))))
        assert stats["skipped_updates"] == 1
        assert "grad_norm" not in stats and "loss" not in stats
        assert_equal(weights_of(learner), before)
        assert str(learner.optimizer.state_dict()) == moments
    assert learner.updates == 4


def test_a_gradient_that_is_not_finite_is_enough(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy))
    learner.policy.model.model.norm.weight.register_hook(lambda g: g * torch.inf)
    before = weights_of(learner)
    assert means(step(learner, batch_of(0)))["skipped_updates"] == 1
    assert_equal(weights_of(learner), before)


def test_too_many_skipped_updates_in_a_row_stop_the_run_with_what_was_seen(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy), config=config_of(max_skipped_in_a_row=3))
    for _ in range(2):
        step(learner, spoiled(batch_of(1)))
    with pytest.raises(RuntimeError, match=r"3 successive updates .*loss nan, gradient norm nan"):
        step(learner, spoiled(batch_of(1)))


def test_a_batch_without_trained_tokens_is_an_update_with_loss_and_gradient_zero(tiny_policy: Path) -> None:
    stats = means(step(joined(str(tiny_policy)), untrained(batch_of(0))))
    assert (stats["loss"], stats["grad_norm"], stats["skipped_updates"]) == (0, 0, 0)


# Several updates that share a batch.


def test_two_updates_of_a_batch_are_an_update_of_each_of_its_parts(tiny_policy: Path) -> None:
    twice, batch = joined(str(tiny_policy), config=config_of(updates_per_batch=2)), batch_of(0)
    stats = step(twice, batch)
    assert twice.updates == 2 and stats["learning_rate"][1] == 2
    once = joined(str(tiny_policy))
    for part in deal(batch, 2):
        step(once, part)
    assert_equal(weights_of(twice), weights_of(once))


def test_the_learners_old_log_probs_are_from_before_the_first_update(tiny_policy: Path) -> None:
    objective = replace(OBJECTIVE, old_policy="learner")
    config = config_of(updates_per_batch=2, learning_rate=1e-2)
    twice, batch = joined(str(tiny_policy), objective=objective, config=config), batch_of(0)
    stats = means(step(twice, batch))
    assert stats["ratio"] != pytest.approx(1, abs=1e-3), "the second update has moved away from the old policy"

    by_hand = joined(str(tiny_policy), objective=objective, config=replace(config, updates_per_batch=1))
    shares = [partition(part, 1, TOKEN_BUDGET)[0] for part in deal(batch, 2)]
    with torch.no_grad():
        shares = [[replace(micro, logp_old=by_hand.policy(micro)[0]) for micro in share] for share in shares]
    for share in shares:
        by_hand.update([share], COEFFICIENT)
    assert_equal(weights_of(twice), weights_of(by_hand))


def test_one_update_needs_no_old_log_probs(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy), objective=replace(OBJECTIVE, old_policy="learner"))
    calls: list[int] = []
    learner.policy.register_forward_hook(lambda *_: calls.append(1))
    assert means(step(learner, batch_of(0)))["ratio"] == 1
    assert len(calls) == 3, "one forward per microbatch"


# What leaves the learner.


def test_weights_are_those_its_info_announces(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy))
    info, weights = learner.weights_info(), learner.weights(7, checksum=True)
    assert weights is not None and weights.version == 7 and weights.checksum is not None
    expected = parameters_of(learner.policy.model)
    assert info.names == tuple(expected) and info.dtype == "float32"
    assert info.shapes == tuple(tuple(p.shape) for p in expected.values())
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
    learner.save(str(tmp_path / "saved"))
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
def test_a_loaded_learner_continues_bit_for_bit(tiny_policy: Path, tmp_path: Path, dtype: str, updates: int) -> None:
    config = config_of(schedule="cosine", warmup_steps=1, weight_decay=0.1)
    learner = joined(str(tiny_policy), dtype=dtype, config=config)
    for update in range(updates):
        step(learner, batch_of(update))
    learner.save(str(tmp_path))
    loaded = joined(str(tiny_policy), dtype=dtype, config=config)
    if updates:
        step(loaded, batch_of(9))  # what it did before is forgotten
    loaded.load(str(tmp_path))
    uninterrupted = joined(str(tiny_policy), dtype=dtype, config=config)
    for update in range(updates):
        step(uninterrupted, batch_of(update))
    stats = [step(one, batch_of(updates)) for one in (learner, loaded, uninterrupted)]
    assert stats[0] == stats[1] == stats[2]
    for one in (learner, loaded):
        assert_equal(parameters_of_learner(one), parameters_of_learner(uninterrupted))
    learner.close()


def parameters_of_learner(learner: FsdpLearner) -> Weights:
    """Float32 whatever the compute dtype."""
    return {name: p.clone() for name, p in learner._full_parameters()}


def test_a_checkpoint_remembers_skipped_updates_even_where_none_was_taken(tiny_policy: Path, tmp_path: Path) -> None:
    config = config_of(max_skipped_in_a_row=2)
    learner = joined(str(tiny_policy), config=config)
    step(learner, spoiled(batch_of(0)))
    learner.save(str(tmp_path))
    loaded = joined(str(tiny_policy), config=config)
    loaded.load(str(tmp_path))
    with pytest.raises(RuntimeError, match="2 successive"):
        step(loaded, spoiled(batch_of(0)))


def test_a_checkpoint_without_a_policy_is_refused(tiny_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"policy\.path"):
        joined(str(tiny_policy)).load(str(tmp_path))


def test_the_local_learner_keeps_the_contract(tiny_policy: Path, tmp_path: Path) -> None:
    class Receiver:
        """The part of a generator that takes weights."""

        async def init_weights(self, info: WeightsInfo) -> None:
            self.info = info

        async def update_weights(self, weights: HostWeights) -> int:
            check_payload(self.info, weights)
            self.weights = dict(named_views(self.info, weights.data))
            return weights.version

    async def run(receivers: list[Any]) -> Stats:
        local, again = (LocalLearner(joined(str(tiny_policy)), checksum=True) for _ in range(2))
        stats = await local.update(batch_of(0), COEFFICIENT)
        await local.save(str(tmp_path))
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


# bfloat16, alone in a process group of its own.


@pytest.mark.parametrize("layout", ["pad", "pack"])
def test_a_bfloat16_policy_keeps_float32_weights_and_finite_numbers(tiny_policy: Path, layout: str) -> None:
    exact = joined(str(tiny_policy))
    expected = means(step(exact, batch_of(0)))
    learner = joined(str(tiny_policy), dtype="bfloat16", config=config_of(layout=layout, gradient_checkpointing=True))
    try:
        stats = means(step(learner, batch_of(0)))
        assert {p.dtype for p in learner.policy.parameters()} == {torch.float32}
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients_of(learner).values())
        assert stats["loss"] == pytest.approx(expected["loss"], rel=0.05)
        assert stats["grad_norm"] == pytest.approx(expected["grad_norm"], rel=0.1)
        assert learner.weights_info().dtype == "bfloat16"
        exactly = parameters_of_learner(learner)
        assert_equal(weights_of(learner), {name: p.bfloat16() for name, p in exactly.items()})
        assert any(not torch.equal(p, p.bfloat16().float()) for p in exactly.values())
    finally:
        learner.close()
    assert not torch.distributed.is_initialized()


# Two ranks, each a process.


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def one(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one rank does, and its checkpoint after UPDATES of them."""
    folder = tmp_path_factory.mktemp("ranks")
    learner = joined(str(tiny_policy))
    stats = [step(learner, batch_of(update)) for update in range(UPDATES)]
    found = {"folder": folder, "stats": stats, "gradients": gradients_of(learner), "weights": weights_of(learner)}
    learner.save(str(folder / "of_one"))
    step(learner, batch_of(UPDATES))
    return found | {"continued": weights_of(learner)}


@pytest.fixture(scope="module")
def two(tiny_policy: Path, one: dict[str, Any]) -> list[dict[str, Any]]:
    """What each of two ranks found in `learner_ranks.scenarios`."""
    script = Path(__file__).with_name("learner_ranks.py")
    done = subprocess.run(
        [sys.executable, str(script), free_address(), str(tiny_policy), str(one["folder"])],
        capture_output=True,
        text=True,
        timeout=3 * RANKS_S,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return [torch.load(one["folder"] / f"rank{rank}.pt") for rank in range(2)]


def test_two_ranks_have_the_gradient_and_the_weights_of_one(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    assert_near(two[0]["gradients"], one["gradients"], atol=1e-6)
    assert_equal(two[1]["gradients"], two[0]["gradients"])
    assert_near(two[0]["weights"], one["weights"], atol=WEIGHTS_ATOL)
    assert two[1]["weights"] == {}, "only the first rank hands weights over"


def test_the_metrics_of_two_ranks_add_up_to_those_of_one(one: dict[str, Any], two: list[dict[str, Any]]) -> None:
    for update in range(UPDATES):
        found, expected = merge(two[0]["stats"][update], two[1]["stats"][update]), one["stats"][update]
        assert {name: weight for name, (_, weight) in found.items()} == pytest.approx(
            {name: weight for name, (_, weight) in expected.items()}, rel=1e-6
        )
        found_means, expected_means = means(found), means(expected)
        assert found_means["grad_norm"] == pytest.approx(expected_means["grad_norm"], rel=1e-6)
        assert found_means == pytest.approx(expected_means, rel=1e-5, abs=1e-6)


def test_a_rank_without_trajectories_of_its_own_neither_hangs_nor_counts(
    tiny_policy: Path, two: list[dict[str, Any]]
) -> None:
    alone = joined(str(tiny_policy))
    expected = means(step(alone, batch_of(0, ONE_ANSWER)))
    assert means(merge(two[0]["idle_stats"], two[1]["idle_stats"])) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert_near(two[0]["idle_gradients"], gradients_of(alone), atol=1e-6)


def test_what_is_not_finite_on_one_rank_is_skipped_on_both(tiny_policy: Path, two: list[dict[str, Any]]) -> None:
    assert means(two[0]["spoiled_stats"])["skipped_updates"] == 1
    assert means(merge(two[0]["spoiled_stats"], two[1]["spoiled_stats"]))["skipped_updates"] == 1
    alone = joined(str(tiny_policy))
    step(alone, batch_of(0, ONE_ANSWER))
    assert_near(two[0]["idle_weights"], weights_of(alone), atol=WEIGHTS_ATOL)


def test_a_checkpoint_of_two_ranks_continues_on_one_and_the_reverse(
    tiny_policy: Path, one: dict[str, Any], two: list[dict[str, Any]]
) -> None:
    of_two = joined(str(tiny_policy))
    of_two.load(str(one["folder"] / "of_two"))
    assert_equal(weights_of(of_two), two[0]["weights"])
    assert of_two.updates == UPDATES
    step(of_two, batch_of(UPDATES))
    assert_near(weights_of(of_two), two[0]["continued"], atol=WEIGHTS_ATOL)
    assert_near(two[0]["continued_of_one"], one["continued"], atol=WEIGHTS_ATOL)


def test_two_bfloat16_ranks_with_checkpointed_packed_layers_agree(two: list[dict[str, Any]]) -> None:
    stats = means(merge(two[0]["half_stats"], two[1]["half_stats"]))
    assert stats["skipped_updates"] == 0
    assert stats["grad_norm"] == pytest.approx(means(two[0]["stats"][0])["grad_norm"], rel=0.1)
    assert two[0]["half_masters"] == two[1]["half_masters"] == {"torch.float32"}
