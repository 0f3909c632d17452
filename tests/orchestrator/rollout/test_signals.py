"""Signals of a step's tokens: each answer has its own, and a few are scored where the objective needs no scores."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from logbook_runs import group

from orchestrator.rollout.signals import Signals, signals_of
from trajectories.batch import Batch, pack


def test_a_row_has_the_signals_of_its_own_answer_also_beside_experience_and_stored_answers() -> None:
    groups = [group("a"), group("b")]
    old = replace(groups[0].trajectories[0], route="experience")
    stored = replace(groups[0].trajectories[0], route="rehearse")
    batch = pack([replace(groups[0], experience=(old,)), groups[1]], [stored])
    positions = torch.arange(len(batch.tokens), dtype=torch.float32)
    batch = replace(batch, advantage=positions, entropy_old=positions / 10, logp_reference=positions * 0 - 1.5)
    signals = Signals.of(batch)
    # Every trajectory has 5 tokens, of which 2 to 4 are the answer; the experience is the third one.
    rows = [signals.row(i, t) for i, t in enumerate(t for g in groups for t in g.trajectories)]
    assert [row["advantage"] for row in rows] == [3.0, 8.0, 18.0, 23.0]
    assert [row["entropy"] for row in rows] == pytest.approx([0.3, 0.8, 1.8, 2.3])
    # log-prob of the sampler minus that of the reference: 3 x (-0.5 + 1.5)
    assert [row["divergence"] for row in rows] == pytest.approx([3.0] * 4)


def test_signals_that_a_step_did_not_compute_are_missing() -> None:
    groups = [group("a")]
    row = Signals.of(pack(groups)).row(1, groups[0].trajectories[1])
    assert row == {"advantage": None, "entropy": None, "divergence": None}


class Scorer:
    """Scores each token with a tenth of its position in the batch it is given."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []

    async def score(self, batch: Batch) -> Batch:
        self.batches.append(batch)
        values = torch.arange(len(batch.tokens)) / 10
        return replace(batch, logp_old=-values, entropy_old=values)


def all_signals(batch: Batch, scorer: Scorer, chosen: Sequence[int]) -> Signals:
    return asyncio.run(signals_of(batch, scorer, lambda answers: chosen))  # type: ignore[arg-type]


def test_only_the_sampled_answers_are_scored_and_get_their_own_values() -> None:
    groups, scorer = [group("a"), group("b")], Scorer()
    stored = replace(groups[0].trajectories[0], route="rehearse")
    found = all_signals(pack(groups, [stored]), scorer, [1, 3])
    assert [len(batch.route) for batch in scorer.batches] == [2]
    answers = [t for g in groups for t in g.trajectories]
    # The second answer that is scored begins at token 5 of the batch of the learner, and its answer at token 7.
    values = found.tokens(3, answers[3])
    assert values["entropy"].tolist() == pytest.approx([np.nan, np.nan, 0.7, 0.8, 0.9], nan_ok=True)
    assert values["mismatch"][2:].tolist() == pytest.approx([-0.2, -0.3, -0.4])
    assert found.tokens(0, answers[0]) == {}


def test_nothing_is_scored_without_a_sample_or_if_the_objective_has_scored_already() -> None:
    batch, scorer = pack([group("a")]), Scorer()
    all_signals(batch, scorer, [])
    all_signals(replace(batch, logp_old=batch.logp_sampler, entropy_old=batch.logp_sampler), scorer, [0])
    assert scorer.batches == []


def test_tokens_that_are_not_trained_on_have_no_value() -> None:
    groups = [group("a")]
    batch = pack(groups)
    batch = replace(batch, advantage=torch.ones(10), mask=batch.mask & (torch.arange(10) != 3))
    values = Signals.of(batch).tokens(0, groups[0].trajectories[0])
    assert values["advantage"].tolist() == pytest.approx([np.nan, np.nan, 1.0, np.nan, 1.0], nan_ok=True)
