"""References on the learner ranks: their scores, what of them leaves the driver, and several ranks against one."""

import asyncio
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.contracts import Column
from actors.learner_reference import LearnerReference
from actors.learning.rank_parts import plan_scores, plan_updates
from actors.local import LocalLearner, LocalReference
from actors.reference import References
from configs.load import load
from configs.objective import ObjectiveConfig
from objectives.diagnostics import means, merge
from orchestrator.placement import held_by_learner, needed_roles, references_of_learner, scoring_references
from orchestrator.references import Anchors
from tests.actors.learning.frozen_ranks import DIVIDED, RANKS, RANKS_S, TERMS, compared_batch, exact_batch, learner_of
from tests.actors.learning.learner_ranks import assert_near, config_of, gradients_of, run_script, step
from tests.actors.random_batch import random_batch
from trajectories.batch import Batch

CERTAIN = Column(term="divergence", reference="teacher", kind="certainty", certainty="negentropy")
ACTIVATION = Column(term="teacher", reference="teacher", kind="activation")


def on_learner(policy: Path, other: Path, others: Any = None, held: Sequence[str] = ()) -> LearnerReference:
    """The starting policy as `reference` and the `other` one as `teacher`, held by a learner, unless `held` says."""
    named = {"reference": {str(policy): 1.0}, "teacher": {str(other): 1.0}}
    learner = learner_of(str(policy), named, objective=ObjectiveConfig())
    return LearnerReference(LocalLearner(learner, checksum=False), held or list(named), others)


def actors(policy: Path, other: Path) -> LocalReference:
    named = {"reference": {str(policy): 1.0}, "teacher": {str(other): 1.0}}
    return LocalReference(References(named, config=config_of(), dtype="float32", temperature=0.7, device="cpu"))


def assert_equal_columns(found: Batch, expected: Batch) -> None:
    for each in fields(Batch):
        one, two = getattr(found, each.name), getattr(expected, each.name)
        if isinstance(two, dict):
            assert one.keys() == two.keys(), each.name
        for a, b in zip(one.values(), two.values(), strict=True) if isinstance(two, dict) else [(one, two)]:
            if isinstance(b, torch.Tensor):
                torch.testing.assert_close(a, b, rtol=0, atol=2e-5, equal_nan=True)


def test_a_learner_scores_as_a_reference_actor_and_keeps_stored_log_probs(
    tiny_policy: Path, other_policy: Path
) -> None:
    batch = random_batch(rehearsed=2)
    request: Any = (["reference", "teacher"], [], [CERTAIN, ACTIVATION])
    expected = asyncio.run(actors(tiny_policy, other_policy).score(batch, *request))
    found = asyncio.run(on_learner(tiny_policy, other_policy).score(batch, *request))
    assert_equal_columns(found, expected)
    assert found.logp_reference is not None and batch.logp_reference is not None
    stored = (batch.route != 0)[batch.seq]
    assert stored.any() and torch.equal(found.logp_reference[stored], batch.logp_reference[stored])
    for column in (found.anchors["teacher"], found.certainty["divergence"], found.activation["teacher"]):
        assert column[stored].isnan().all()


def test_a_batch_of_stored_answers_alone_needs_no_forward_pass(tiny_policy: Path, other_policy: Path) -> None:
    batch = random_batch(rehearsed=2)
    batch = batch.select([i for i, route in enumerate(batch.route.tolist()) if route])
    scored = asyncio.run(on_learner(tiny_policy, other_policy).score(batch, ["teacher"], [], [CERTAIN]))
    assert scored.anchors["teacher"].isnan().all() and len(scored.certainty["divergence"]) == len(batch.tokens)


def test_references_that_the_learner_does_not_hold_score_on_actors(tiny_policy: Path, other_policy: Path) -> None:
    batch, role = random_batch(), actors(tiny_policy, other_policy)
    mixed = on_learner(tiny_policy, other_policy, role, held=["reference"])
    request: Any = (["reference", "teacher"], ["teacher"], [CERTAIN])
    assert_equal_columns(asyncio.run(mixed.score(batch, *request)), asyncio.run(role.score(batch, *request)))


@pytest.mark.parametrize("method", ["gkd", "wpr", "tip", "mapo"])
def test_no_hidden_states_leave_the_driver(tiny_policy: Path, other_policy: Path, method: str) -> None:
    objective = load([f"method={method}"]).objective
    assert objective.head_anchors and not objective.hidden_anchors
    named = {name: {str(other_policy): 1.0} for name in {*objective.head_anchors, *objective.anchors}}
    learner = LocalLearner(learner_of(str(tiny_policy), named, objective=objective), checksum=False)
    batch = random_batch(rehearsed=2)
    scored = asyncio.run(Anchors(LearnerReference(learner, list(named), None), objective).score(batch))
    width = learner.learner.policy.width
    [updates] = plan_updates(scored, config_of(), 1)
    _, [part] = plan_scores(scored, config_of(), 1)
    for one in (scored, *part, *(micro for update in updates for micro in update)):
        assert not one.hidden
        tensors = [value for value in vars(one).values() if isinstance(value, torch.Tensor)]
        assert all(tensor.dim() == 1 and width not in tensor.shape[1:] for tensor in tensors)


def roles(*words: str) -> tuple[list[str], list[str], bool]:
    """The references that score, those of them that the learner holds, and whether reference actors start."""
    cfg = load(list(words))
    return scoring_references(cfg), references_of_learner(cfg), "reference" in needed_roles(cfg)


def test_what_the_learner_holds_needs_no_reference_actor() -> None:
    measured, alone = "monitor.kl_to_base=true", "monitor.kl_to_base=false"
    shared = "placement.references_on=learners"
    assert roles("method=grpo", alone) == ([], [], False)
    assert roles("method=grpo", measured) == (["reference"], [], True)
    assert roles("method=grpo", measured, shared) == (["reference"], ["reference"], False)
    assert roles("method=gkd", alone) == (["teacher"], ["teacher"], False)
    assert roles("method=gkd", measured) == (["teacher", "reference"], ["teacher"], True)
    assert roles("method=gkd", measured, shared) == (["teacher", "reference"], ["teacher", "reference"], False)
    # References that move, and those whose hidden states the driver reads, are on actors.
    assert roles("method=tr_dpo", alone, shared)[1:] == ([], True)
    assert roles("method=mapo", alone, shared)[1:] == (["reference"], False)
    assert roles("method=sparse_po", alone, shared)[1:] == ([], True)
    assert held_by_learner(load(["method=mapo"])) == ["reference"], "for its exact term"


@pytest.mark.slow
def test_ranks_that_share_references_have_the_scores_and_gradients_of_one(
    tiny_policy: Path, other_policy: Path, tmp_path: Path
) -> None:
    named = {"teacher": {str(other_policy): 0.5, str(tiny_policy): 0.5}}
    alone = learner_of(str(tiny_policy), named)
    divided, [part] = plan_scores(compared_batch(), alone.config, 1)
    order = [i for micro in divided[0] for i in micro]
    expected = torch.cat([one["anchors/teacher"] for one in alone.score_references(part, ["teacher"], [])])
    stats, gradients = means(step(alone, exact_batch())), gradients_of(alone)
    assert stats["terms/divergence/value"] > 0.01
    run_script("frozen_ranks.py", str(tiny_policy), str(other_policy), tmp_path, timeout_s=RANKS_S * len(DIVIDED))
    rows = compared_batch().token_rows(order)
    for name in DIVIDED:
        found = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=False) for rank in range(RANKS)]
        torch.testing.assert_close(found[0]["scored"][rows], expected, rtol=0, atol=2e-5, msg=name)
        assert_near(found[0]["gradients"], gradients, atol=2e-6)
        assert means(merge(*(one["stats"] for one in found)))["terms/divergence/value"] == pytest.approx(
            stats["terms/divergence/value"], rel=1e-4
        )
        held = [one["bytes"] for one in found]
        whole = sum(p.nbytes for p in alone.references.policies["teacher"].model.parameters())
        assert max(held) < 1.2 * DIVIDED[name].get("replicas", 1) * whole / RANKS
        idle = [one["idle"] for one in found]
        assert all(value == pytest.approx(idle[0]) for value in idle)


def test_every_term_that_compares_distributions_is_in_the_scenario() -> None:
    assert [term.exact for term in TERMS.values()] == [True] * len(TERMS)
    assert replace(exact_batch()).anchors.keys() == {"teacher"}
