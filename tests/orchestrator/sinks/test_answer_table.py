"""The table of sampled answers: each row has the advantage, entropy and log-probs of its own tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from logbook_runs import group

from orchestrator.sinks.answer_table import TOKEN_LIMIT, Signals, table_row
from orchestrator.watch.answer_rows import answer_row
from trajectories.batch import pack


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


def test_a_row_names_each_token_with_its_log_prob_and_is_bounded() -> None:
    answer = group("a").trajectories[0]
    row = table_row(answer_row(3, group("a"), answer, str), answer, lambda ids: chr(97 + ids[0]), {"advantage": 0.5})
    assert row["token_logps"] == "'c' -0.50  'd' -0.50  'e' -0.50"
    assert (row["advantage"], row["entropy"], row["logp"], row["length"]) == (0.5, None, -1.5, 3)
    assert row["status"] == "correct" and "problem" not in row
    many = 10 * TOKEN_LIMIT
    long = replace(
        answer,
        tokens=np.ones(many, dtype=np.int32),
        mask=np.ones(many, dtype=bool),
        logp_sampler=np.zeros(many, dtype=np.float32),
        text="x" * 100_000,
    )
    row = table_row(answer_row(3, group("a"), long, lambda ids: ""), long, lambda ids: "\ud800", {})
    assert len(row["answer"]) == 2_000 and row["token_logps"].count("  ") == TOKEN_LIMIT - 1
    row["token_logps"].encode()
