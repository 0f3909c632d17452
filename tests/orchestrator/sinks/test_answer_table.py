"""The table of sampled answers: its rows are bounded and name each token."""

from dataclasses import replace

import numpy as np
from logbook_runs import group

from orchestrator.sinks.answer_table import TOKEN_LIMIT, table_row
from orchestrator.watch.answer_rows import answer_row


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
