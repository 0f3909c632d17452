"""Rows of steps and measurements: stable columns, no line longer than the terminal, more of them where it is wide."""

import math

import pytest
from shown_runs import STEP, held_out

from orchestrator.console.rows import Rows


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_rows_fit_the_terminal_and_every_value_ends_where_its_label_ends(width: int) -> None:
    rows = Rows(1000, width=width)
    rows.choose(STEP)
    header, row = rows.header(), rows.step(7, STEP, "")
    assert len(header) == len(row) <= width

    def ends(line: str) -> list[int]:
        return [at for at in range(len(line)) if line[at] != " " and line[at + 1 : at + 3] in ("  ", "")]

    assert ends(row) == ends(header)


def test_a_narrow_terminal_shows_what_matters_most_and_a_wider_one_shows_more() -> None:
    labels = {}
    for width in (40, 80, 120, None):
        rows = Rows(1000, width=width)
        rows.choose(STEP)
        labels[width] = rows.header().split()
    assert labels[40] == ["step", "reward", "entropy", "s/step"]
    assert {"reward", "cut", "entropy", "KL", "tok/s", "s/step"} <= set(labels[80])
    assert set(labels[40]) < set(labels[80]) < set(labels[120]) | {"left"} <= set(labels[None])


def test_a_value_that_is_missing_or_not_a_number_leaves_the_columns_where_they_are() -> None:
    rows = Rows(1000)
    rows.choose(STEP)
    whole = rows.step(7, STEP, "0:10:00")
    partial = rows.step(8, {"reward": 0.4, "entropy": math.nan}, "0:10:00")
    assert len(whole) == len(partial) and partial.split()[:2] == ["8/1000", "0.400"]
    assert set(partial.split()[2:-1]) == {"-"}


def test_a_metric_that_the_run_does_not_have_gets_no_column() -> None:
    rows = Rows(1000)
    rows.choose({name: value for name, value in STEP.items() if "kl_reference" not in name})
    assert "KL" not in rows.header().replace("update KL", "")
    assert "KL: " not in rows.legend() and "cut: answers that reach the length limit" in rows.legend()


def test_a_measurement_breaks_between_values_and_stays_below_the_step() -> None:
    values = held_out(0.4, 0.9, 0.91, 0.3, 0.25, -0.06, change=(0.1, -0.08))
    narrow, wide = Rows(1000, width=80).measurement(4, values), Rows(1000).measurement(4, values)
    assert len(narrow) > 1 and all(len(line) <= 80 for line in narrow)
    assert [line.split() for line in wide] == [" ".join(narrow).split()]
    assert narrow[0].startswith("   4/1000  held out  Pass@1 0.400 (+0.100)  Pass@64 0.900 (-0.080)")
    assert all(line.startswith(" " * 21) for line in narrow[1:])
    assert "beyond sharpening @64 -0.060 (-0.11 to -0.02)" in wide[0]


def test_the_base_is_shown_without_a_change_since_itself() -> None:
    [line] = Rows(1000, width=80).measurement(0, held_out(0.3, 0.98, 1.0, 0.0, 0.0))
    assert line == "   0/1000  held out  Pass@1 0.300  Pass@64 0.980  (the base)"


@pytest.mark.parametrize("value", [2.1123e-7, -4.5e-12, 1.7e15])
def test_a_very_small_or_large_value_leaves_the_columns_where_they_are(value: float) -> None:
    rows = Rows(1000, width=80)
    rows.choose(STEP)
    odd = {"kl_reference_per_trajectory": value, "tokens_per_second": abs(value), "grad_norm": value}
    assert len(rows.step(7, {**STEP, **odd}, "")) == len(rows.header()) <= 80
