"""The Pass@k chart: points of the policy with their intervals, and of the base from the change since it."""

import math

import pytest

from orchestrator.sinks.wandb_charts import curve_rows


def test_a_measurement_is_a_curve_of_the_policy_its_interval_and_the_base() -> None:
    values = {
        "heldout/pass@16": 0.8, "heldout/pass@16/low": 0.7, "heldout/pass@16/high": 0.9,
        "heldout/pass@2": 0.5, "heldout/pass@2/low": 0.4, "heldout/pass@2/high": 0.6,
        "heldout/change/pass@16": -0.1, "heldout/change/pass@2": 0.2, "heldout/pass@2/sql": 0.3,
    }  # fmt: skip
    rows = curve_rows(20, values)
    policy = [(row["k"], row["value"], row["low"], row["high"]) for row in rows if row["series"] == "policy"]
    assert policy == [(2, 0.5, 0.4, 0.6), (16, 0.8, 0.7, 0.9)]
    assert [row["value"] for row in rows if row["series"] == "base"] == pytest.approx([0.3, 0.9])
    assert {row["series"] for row in rows} == {"policy", "base", "interval, low end", "interval, high end"}
    assert all(set(row) == set(rows[0]) and row["at"] == 20 for row in rows)


def test_values_that_were_not_measured_make_no_points() -> None:
    assert curve_rows(20, {"reward": 0.5}) == []
    assert curve_rows(20, {"heldout/pass@64": math.nan}) == []
    [row] = curve_rows(0, {"heldout/pass@1": 0.5, "heldout/change/pass@1": math.nan})
    assert row["series"] == "policy"
