"""References that score groups as they complete: the same batch as one that is scored at the step."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.local import LocalReference
from actors.reference import References
from configs.load import load
from orchestrator.constructors import reference_arguments
from orchestrator.references import Anchors, early_references, policies
from orchestrator.train import Run
from tasks.characters import VOCABULARY_SIZE
from tests.actors.learning.learner_ranks import config_of
from tests.orchestrator.test_lag import ALL_ANSWERS, ANY_ORDER, Crash, crash_in, places
from tests.orchestrator.test_train import config, train
from trajectories.batch import Batch, pack
from trajectories.trajectory import Grade, Group, Prompt, Trajectory

SLOW_CHECK = "objective.terms.slow={anchor: teacher, name: reverse_kl, wiring: loss, estimator: k2}"


class CountingReference(LocalReference):
    """Records the number of trajectories of each call, and the references."""

    def __init__(self, references: References) -> None:
        super().__init__(references)
        self.calls: list[tuple[int, list[str]]] = []

    async def score(self, batch: Batch, names: Sequence[str] = (), *more: Any) -> Batch:  # type: ignore[override]
        self.calls.append((len(batch.route), list(names)))
        return await super().score(batch, names, *more)


def groups(count: int = 3, solution: bool = False) -> list[Group]:
    draw = np.random.default_rng(0)

    def trajectory(group: int, index: int, **changed: Any) -> Trajectory:
        length = int(draw.integers(8, 30))
        given = Trajectory(
            prompt_id=f"toy/{group}",
            sample_index=index,
            tokens=draw.integers(2, VOCABULARY_SIZE, length).astype(np.int32),
            mask=np.arange(length) >= 4,
            logp_sampler=-draw.random(length).astype(np.float32),
            first_version=0,
            last_version=0,
            finish_reason="length" if index else "stop",
            seed=0,
            text="",
            grade=Grade(reward=None if group == index else float(index), status="correct"),
        )
        return replace(given, **changed)

    return [
        Group(
            prompt=Prompt(id=f"toy/{group}", position=group, text="", verifier="", problem={}),
            trajectories=tuple(trajectory(group, index) for index in range(3)),
            solution=trajectory(group, 3, route="imitate") if solution else None,
        )
        for group in range(count)
    ]


def anchors(policy: Path, other: Path, early: Sequence[str], *words: str) -> Anchors:
    named = {"reference": {str(policy): 1.0}, "teacher": {str(other): 1.0}}
    role = References(named, config=config_of(), dtype="float32", temperature=0.7, device="cpu")
    return Anchors(CountingReference(role), load(list(words)).objective, early=early)


def calls(scorer: Anchors) -> list[tuple[int, list[str]]]:
    assert isinstance(scorer.role, CountingReference)
    return scorer.role.calls


TWO = ("method=grpo_adaptive_kl", "references.teacher.path=t", SLOW_CHECK)


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("solutions", [False, True])
def test_a_batch_of_scored_groups_is_that_of_a_scored_batch(
    tiny_policy: Path, other_policy: Path, solutions: bool, truncated: bool
) -> None:
    words = (*TWO, f"objective.overlong.mask={str(truncated).lower()}")
    given = groups(solution=solutions)
    whole = anchors(tiny_policy, other_policy, (), *words)
    expected = asyncio.run(whole.score(pack(given, (), truncated)))
    early = anchors(tiny_policy, other_policy, ("reference", "teacher"), *words)

    async def streamed() -> Batch:
        complete = await asyncio.gather(*(early.score_group(replace(group, solution=None)) for group in given))
        with_solutions = [replace(one, solution=group.solution) for one, group in zip(complete, given, strict=True)]
        return await early.score(pack(with_solutions, (), truncated))

    found = asyncio.run(streamed())
    assert found.logp_reference is not None and expected.logp_reference is not None
    # Microbatches differ, and with them the last bits of a matrix product.
    torch.testing.assert_close(found.logp_reference, expected.logp_reference, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.anchors["teacher"], expected.anchors["teacher"], rtol=1e-6, atol=1e-6)
    assert bool((found.logp_reference[found.mask] < 0).all())
    at_the_step = [(3, ["reference", "teacher"])] if solutions else []
    assert calls(early) == [(3, ["reference", "teacher"])] * 3 + at_the_step
    assert calls(whole) == [(12 if solutions else 9, ["reference", "teacher"])]


def test_groups_that_were_not_scored_when_complete_are_scored_at_the_step(
    tiny_policy: Path, other_policy: Path
) -> None:
    given, early = groups(), anchors(tiny_policy, other_policy, ("teacher",), *TWO)
    given[1] = asyncio.run(early.score_group(given[1]))
    scored = asyncio.run(early.score(pack(given)))
    assert not scored.anchors["teacher"].isnan().any()
    assert calls(early) == [(3, ["teacher"]), (6, ["teacher"]), (9, ["reference"])]


def test_only_frozen_references_that_nothing_waits_for_score_groups_early() -> None:
    def early(*words: str) -> list[str]:
        return early_references(load(list(words)))

    kl = ("method=grpo_adaptive_kl",)
    assert early(*kl, "lag=1") == early(*kl, "scale=8gpu") == ["reference"]
    assert early(*kl) == [], "a repeatable run scores whole batches"
    assert early(*kl, "scale=1gpu", "placement.references_on=own") == [], "the engines would have to sleep"
    assert early(*kl, "lag=1", "placement.references_on=learners") == [], "the learner is at work"
    assert early("method=moving_kl", "lag=1") == [], "its values depend on the step"
    assert early("method=rapo", "lag=1") == [], "its columns depend on the rewards of whole groups"
    assert early("method=gkd", "lag=1") == [], "the learner holds the teacher"


def test_a_run_with_a_lag_scores_its_groups_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    score = LocalReference.score

    async def counting(self: LocalReference, batch: Batch, *more: Any) -> Batch:
        seen.append(len(batch.group.unique()))
        return await score(self, batch, *more)

    monkeypatch.setattr(LocalReference, "score", counting)
    batches: list[Batch] = []
    monkeypatch.setattr(Run, "credit", _keeping(batches, Run.credit))
    cfg = config(tmp_path, "method=grpo_adaptive_kl", "lag=1", "steps=3", "monitor.every=0", "name=early")
    train(cfg)
    assert len(batches) == 3 and all(batch.logp_reference is not None for batch in batches)
    assert seen and set(seen) == {1}
    assert all(not batch.logp_reference.isnan().any() for batch in batches)  # type: ignore[union-attr]


def test_a_crashed_run_that_scores_early_in_any_order_continues_with_its_ledger_and_scores_every_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("method=grpo_adaptive_kl", "steps=6", "monitor.every=0", "checkpoint.every=2", "name=r")
    cfg = config(tmp_path, *words, *ANY_ORDER, *ALL_ANSWERS)
    assert early_references(cfg) == ["reference"]
    batches: list[Batch] = []
    monkeypatch.setattr(Run, "credit", _keeping(batches, Run.credit))
    with monkeypatch.context() as patch:
        crash_in(patch, step=5)
        with pytest.raises(Crash):
            train(cfg)
    assert len(batches) == 5
    state = json.loads((tmp_path / "r" / "checkpoints" / "step-000004" / "state.json").read_text())
    ledger = {*range(state["position"]), *state["trained"]}
    records = train(cfg, resume=True)
    trained = places(tmp_path / "r")
    assert set().union(*(trained[step] for step in range(1, 5))) == ledger and len(ledger) == 4 * 4
    assert sorted(place for of_step in trained.values() for place in of_step) == list(range(6 * 4))
    assert [record["step"] for record in records] == list(range(1, 7))
    assert max(record["staleness_max"] for record in records) <= 2
    again = LocalReference(References(**reference_arguments(cfg, policies(cfg))))
    assert len(batches) == 5 + 2
    for batch in batches:
        scored = asyncio.run(again.score(replace(batch, logp_reference=None)))
        assert batch.logp_reference is not None and scored.logp_reference is not None
        torch.testing.assert_close(batch.logp_reference, scored.logp_reference, rtol=1e-5, atol=1e-5)


def _keeping(batches: list[Batch], credit: Any) -> Any:
    async def keeping(self: Run, batch: Batch) -> Batch:
        batches.append(batch)
        return await credit(self, batch)  # type: ignore[no-any-return]

    return keeping
