"""FsdpLearner on one rank: an update against plain torch, schedules, guards, several updates of one batch."""

import asyncio
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import plan_updates
from actors.learning.schedule import learning_rate
from actors.local import LocalLearner
from actors.policy_files.reading import load_model
from actors.scoring.policy import Policy
from configs.learner import LearnerConfig
from configs.warm_start import WarmStartConfig
from objectives.diagnostics import means
from objectives.objective import Scores, loss
from orchestrator.warm_start import supervised_objective
from tasks.characters import VOCABULARY_SIZE
from tests.actors.learning.learner_ranks import (
    COEFFICIENTS,
    OBJECTIVE,
    RICH,
    TOKEN_BUDGET,
    assert_equal,
    assert_near,
    batch_of,
    config_of,
    gradients_of,
    joined,
    parameters_of,
    rich_batch,
    step,
    weights_of,
    with_nan_advantage,
)
from tests.actors.random_batch import SHAPES, logits_megabytes, random_trajectory, untrained
from trajectories.batch import pack
from trajectories.split import deal, partition


def test_updates_equal_those_of_a_hand_written_loop_bit_for_bit(tiny_policy: Path) -> None:
    config = config_of(
        learning_rate=1e-3, weight_decay=0.1, beta2=0.95, max_grad_norm=0.05, warmup_steps=2, schedule="linear"
    )
    learner = joined(str(tiny_policy), config=config)
    model = AutoModelForCausalLM.from_pretrained(tiny_policy, dtype=torch.float32)
    policy = Policy(model, layout="pad", logits_megabytes=logits_megabytes(8), temperature=0.7)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    for update, rate in enumerate([5e-4, 1e-3, 1e-3]):
        batch = replace(batch_of(update), in_loss=None)  # every answer is scored
        stats = means(step(learner, batch))
        optimizer.zero_grad()
        total = 0.0
        for part in partition(batch, 1, TOKEN_BUDGET)[0]:
            logp, entropy = policy(part)[:2]
            scores = Scores(logp=logp, entropy=entropy, log_vocabulary=math.log(VOCABULARY_SIZE))
            value, _ = loss(scores, part, OBJECTIVE, COEFFICIENTS)
            value.backward()
            total += value.item()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert (stats["loss"], stats["grad_norm"], stats["learning_rate"]) == (total, float(norm), rate)
        assert stats["skipped_updates"] == 0
    assert_equal(weights_of(learner), parameters_of(model))


def test_gradients_do_not_depend_on_microbatches_layout_or_gradient_checkpointing(tiny_policy: Path) -> None:
    batch, found = batch_of(0), []
    choices: list[dict[str, Any]] = [
        {"token_budget": 10_000},
        {"token_budget": TOKEN_BUDGET},
        {"layout": "pack"},
        {"layout": "varlen"},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "layout": "varlen"},
    ]
    for choice in choices:
        learner = joined(str(tiny_policy), config=config_of(**choice))
        found.append((len(plan_updates(batch, learner.config, 1)[0][0]), means(step(learner, batch)), learner))
    assert [parts for parts, _, _ in found] == [1, 3, 3, 3, 3, 3]
    _, stats, whole = found[0]
    for _, other_stats, other in found[1:]:
        assert other_stats == pytest.approx(stats, rel=2e-5, abs=1e-6)
        assert_near(gradients_of(other), gradients_of(whole), atol=1e-6)


def test_gates_token_weights_and_entropy_bonus_do_not_depend_on_microbatches_or_layout(tiny_policy: Path) -> None:
    batch, found = rich_batch(), []
    for choice in ({"token_budget": 10_000}, {"token_budget": TOKEN_BUDGET}, {"layout": "pack"}, {"layout": "varlen"}):
        learner = joined(str(tiny_policy), objective=RICH, config=config_of(**choice))
        found.append((means(step(learner, batch)), learner))
    for stats, learner in found[1:]:
        assert stats == pytest.approx(found[0][0], rel=2e-5, abs=1e-6)
        assert_near(gradients_of(learner), gradients_of(found[0][1]), atol=1e-6)


def test_gradients_are_freed_after_an_update_which_changes_no_other(tiny_policy: Path) -> None:
    keeps = joined(str(tiny_policy))
    frees = FsdpLearner(
        str(tiny_policy), total_steps=10, config=keeps.config, objective=OBJECTIVE, dtype="float32", temperature=0.7
    )
    frees.join()
    for seed in range(2):
        assert step(frees, batch_of(seed)) == step(keeps, batch_of(seed))
        assert all(p.grad is None for p in frees.policy.parameters())
        assert all(p.grad is not None for p in keeps.policy.model.parameters())
    assert_equal(weights_of(frees), weights_of(keeps))


def test_with_a_learner_two_threads_sum_the_gradients_of_an_indexed_state_in_one_order(tiny_policy: Path) -> None:
    """As those of the hidden state that predicts the first token of each answer to a shared prompt. torch divides the
    indexed elements between threads from 32,768 on."""
    joined(str(tiny_policy))
    draw = torch.Generator().manual_seed(0)
    states, slopes = torch.randn(64, 64, generator=draw), torch.randn(1024, 64, generator=draw)
    at = torch.arange(1024) // 16
    at[504:520] = 0  # in the parts of both threads
    found = set()
    try:
        torch.set_num_threads(2)
        for _ in range(200):
            leaf = states.clone().requires_grad_()
            leaf[at].backward(slopes)
            assert leaf.grad is not None
            found.add(leaf.grad.numpy().tobytes())
    finally:
        torch.set_num_threads(1)
    assert len(found) == 1


def test_the_gradient_of_the_entropy_bonus_is_that_of_the_mean_entropy(tiny_policy: Path) -> None:
    silent = replace(OBJECTIVE, terms={})
    bonus = replace(silent, entropy_bonus=0.3)
    batch = batch_of(0)
    batch = replace(batch, advantage=torch.zeros(len(batch.tokens)), in_loss=None)
    learner = joined(str(tiny_policy), objective=bonus, config=config_of(max_grad_norm=1e6))
    step(learner, batch)
    model = load_model(str(tiny_policy))
    policy = Policy(model, layout="pad", logits_megabytes=logits_megabytes(8), temperature=0.7, entropy_gradient=True)
    (-0.3 * policy(batch).entropy[batch.on_route("explore")].mean()).backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_near(gradients_of(learner), expected, atol=1e-6)
    without = joined(str(tiny_policy), objective=silent)
    step(without, batch)
    assert max(float(g.abs().max()) for g in gradients_of(without).values()) == 0


def test_gradient_checkpointing_recomputes_the_layers_and_keeps_dropout_off(tiny_policy: Path, tmp_path: Path) -> None:
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
    learner, batch = joined(str(tiny_policy)), replace(batch_of(0), in_loss=None)
    with torch.no_grad():
        entropy = learner.policy(batch)[1][batch.on_route("explore")].mean()
    assert means(step(learner, batch))["entropy"] == pytest.approx(float(entropy), rel=1e-6)


def test_cross_entropy_is_that_of_torch_on_the_answers(tiny_policy: Path) -> None:
    rows = [random_trajectory(shape, seed, "rehearse") for seed, shape in enumerate(SHAPES)]
    rows = [replace(row, logp_reference=np.zeros(len(row.tokens), dtype=np.float32)) for row in rows]
    learner = joined(str(tiny_policy), objective=supervised_objective(WarmStartConfig()), temperature=1.0)
    [updates] = plan_updates(pack([], rows), learner.config, 1)
    stats = means(learner.update(updates, {"divergence": 1.0}))
    model = load_model(str(tiny_policy))
    logits = [model(input_ids=torch.tensor(row.tokens)[None].long()).logits[0, :-1] for row in rows]
    targets = [torch.tensor(np.where(row.mask, row.tokens, -100))[1:].long() for row in rows]
    expected = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets))
    expected.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), torch.inf)
    assert stats["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert stats["terms/divergence/value"] == pytest.approx(expected.item(), rel=1e-5)
    assert stats["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_clipping_bounds_the_gradient_and_reports_its_norm_before(tiny_policy: Path) -> None:
    norms = {}
    for bound in (1e6, 1e-2):
        learner = joined(str(tiny_policy), config=config_of(max_grad_norm=bound))
        reported = means(step(learner, batch_of(0)))["grad_norm"]
        clipped = torch.cat([g.flatten() for g in gradients_of(learner).values()]).norm()
        norms[bound] = (reported, float(clipped))
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
    assert learning_rate(config, 50, 8) / 2 == pytest.approx(expected[-1]), "after the last update it does not change"
    assert learning_rate(replace(config, warmup_steps=0), 0, 8) == 2.0


# Non-finite losses and gradients.


def test_a_non_finite_update_is_skipped_and_counted_and_a_finite_one_resets_the_count(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy), config=config_of(max_skipped_in_a_row=2))
    for _ in range(2):
        step(learner, batch_of(0))
        before, moments = weights_of(learner), str(learner.optimizer.state_dict())
        stats = means(step(learner, with_nan_advantage(batch_of(1))))
        assert stats["skipped_updates"] == 1
        assert "grad_norm" not in stats and "loss" not in stats
        assert_equal(weights_of(learner), before)
        assert str(learner.optimizer.state_dict()) == moments
    assert learner.updates == 4


def test_an_update_with_a_finite_loss_and_a_non_finite_gradient_is_skipped(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy))
    learner.policy.model.model.norm.weight.register_hook(lambda g: g * torch.inf)
    before = weights_of(learner)
    assert means(step(learner, batch_of(0)))["skipped_updates"] == 1
    assert_equal(weights_of(learner), before)


def test_too_many_skipped_updates_in_a_row_raise_with_the_last_loss_and_gradient_norm(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy), config=config_of(max_skipped_in_a_row=3))
    for _ in range(2):
        step(learner, with_nan_advantage(batch_of(1)))
    with pytest.raises(RuntimeError, match=r"3 successive updates .*loss nan, gradient norm nan"):
        step(learner, with_nan_advantage(batch_of(1)))


def test_a_batch_without_trained_tokens_is_an_update_with_loss_and_gradient_zero(tiny_policy: Path) -> None:
    stats = means(step(joined(str(tiny_policy)), untrained(batch_of(0))))
    assert (stats["loss"], stats["grad_norm"], stats["skipped_updates"]) == (0, 0, 0)


# Several updates per batch.


def test_two_updates_per_batch_equal_one_update_on_each_half(tiny_policy: Path) -> None:
    twice, batch = joined(str(tiny_policy), config=config_of(updates_per_batch=2)), batch_of(0)
    stats = step(twice, batch)
    assert twice.updates == 2 and stats["learning_rate"][1] == 2
    once = joined(str(tiny_policy))
    for part in deal(batch, 2):
        step(once, part)
    assert_equal(weights_of(twice), weights_of(once))


def test_logp_old_is_computed_before_the_first_update(tiny_policy: Path) -> None:
    objective = replace(OBJECTIVE, old_policy="learner")
    config = config_of(updates_per_batch=2, learning_rate=1e-2)
    learner, batch = joined(str(tiny_policy), objective=objective, config=config), batch_of(0)
    with torch.no_grad():
        before = learner.policy(batch)
    scored = asyncio.run(LocalLearner(learner, checksum=False).score(batch))
    assert scored.logp_old is not None and scored.entropy_old is not None
    torch.testing.assert_close(scored.logp_old, before.logp)
    torch.testing.assert_close(scored.entropy_old, before.entropy)

    assert means(step(learner, scored))["ratio"] != pytest.approx(1, abs=1e-3), (
        "the second update sees other weights than logp_old"
    )
    with torch.no_grad():
        after = learner.policy(batch)
    assert not torch.allclose(after.logp, before.logp, atol=1e-3)


def test_a_single_update_per_batch_needs_no_forward_for_logp_old(tiny_policy: Path) -> None:
    learner = joined(str(tiny_policy), objective=replace(OBJECTIVE, old_policy="learner"))
    calls: list[int] = []
    learner.policy.register_forward_hook(lambda *_: calls.append(1))
    assert means(step(learner, batch_of(0)))["ratio"] == 1
    assert len(calls) == 3, "one forward per microbatch"
