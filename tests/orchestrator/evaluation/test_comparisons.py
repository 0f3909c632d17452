"""Problems lost and gained with their intervals, values by difficulty, and the series over steps."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.evaluation.comparisons import coverage, levels_of, problems, series, wilson, write_json
from orchestrator.evaluation.writing import steps_of
from orchestrator.watch.bootstrap import UNDEFINED, Interval
from orchestrator.watch.measurement import Measurement
from tests.orchestrator.heldout.test_votes import result
from trajectories.trajectory import Prompt

TOTAL = 100


def measured(name: str, *rights: int) -> Measurement:
    rows = tuple(result(f"p{i}", TOTAL, (), (right,)) for i, right in enumerate(rights))
    return Measurement(name=name, step=0, temperature=1.0, answers=TOTAL, prompts=rows)


def levels(base: Measurement, *problem_fields: dict[str, Any]) -> dict[str, Any]:
    return coverage(base, {}, [1], levels_of(prompts(*problem_fields)))


def prompts(*problem_fields: dict[str, Any]) -> list[Prompt]:
    return [
        Prompt(id=f"p{i}", position=i, text="", verifier="math", problem=fields)
        for i, fields in enumerate(problem_fields)
    ]


def test_the_interval_of_a_rate_has_wilsons_values() -> None:
    # (0.25 + z^2/40 -+ z sqrt(0.25 * 0.75 / 20 + z^2 / 1600)) / (1 + z^2/20) with z = 1.959964
    assert wilson(5, 20) == pytest.approx((0.11186, 0.46870), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.27754), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((0.72246, 1.0), abs=1e-5)
    assert wilson(0, 0) == (0.0, 1.0)


def test_lost_and_gained_problems_are_counted_and_those_that_chance_explains_are_not_clear() -> None:
    base, policy = measured("base", 50, 1, 0, 0, 30), measured("new", 0, 0, 40, 1, 20)
    found = problems(base, {"new": policy})["policies"]["new"]
    lost, gained = found["lost"], found["gained"]
    assert [one["prompt_id"] for one in lost["problems"]] == ["p0", "p1"]
    assert (lost["count"], lost["clear"], gained["count"], gained["clear"]) == (2, 1, 2, 1)
    assert [one["clear"] for one in lost["problems"]] == [True, False], "1 of 100 against 0 of 100 is chance"
    low, high = wilson(50, TOTAL)
    assert lost["problems"][0]["base"] == {"correct": 50, "total": TOTAL, "low": low, "high": high}
    assert found["retention"][0] == pytest.approx(1 / 3), "of three solved problems one is still solved"
    assert found["expansion"][0] == 1.0


def test_values_by_the_bases_pass_rate_are_those_of_its_problems_with_paired_changes() -> None:
    base, policy = measured("base", 0, 5, 10, 11, 95, 100), measured("new", 10, 15, 20, 11, 100, 90)
    found = coverage(base, {"new": policy}, [1, 4], levels_of(prompts(*[{}] * 6)))
    bins = {one["bin"]: one for one in found["by_base_rate"]}
    assert {name: one["prompts"] for name, one in bins.items()} == {
        "0": 1,
        "0 to 0.1": 2,
        "0.1 to 0.3": 1,
        "0.9 to 1": 2,
    }
    easy = bins["0 to 0.1"]["policies"]
    assert easy["base"]["pass@1"][0] == pytest.approx(0.075)
    assert easy["new"]["change/pass@1"] == pytest.approx([0.1, 0.1, 0.1]), "both rise by 0.1"
    assert bins["0"]["policies"]["new"]["expansion"][0] == 1.0
    alone = bins["0.1 to 0.3"]["policies"]["new"]["change/pass@1"]
    assert alone == [pytest.approx(0.0), None, None], "every resample of one problem is that problem"
    assert bins["0"]["policies"]["new"]["retention"] == [None, None, None], "the base solved none of them"
    assert (found["field"], found["by_level"]) == ("", [])


def test_values_by_a_field_of_the_problems_are_in_the_order_of_its_values() -> None:
    base = measured("base", *[10] * 5)
    found = levels(base, {"level": 5}, {"level": 2}, {"level": 5}, {"level": None}, {"level": float("nan")})
    assert [(one["bin"], one["prompts"]) for one in found["by_level"]] == [("2", 1), ("5", 2)]
    named = levels(base, *({"difficulty": text} for text in ("easy", "hard", "easy", "hard", "hard")))
    assert named["field"] == "difficulty"
    assert [(one["bin"], one["prompts"]) for one in named["by_level"]] == [("easy", 2), ("hard", 3)]
    many = measured("base", *[10] * 40)
    quarters = levels(many, *({"level": i} for i in range(40)))["by_level"]
    assert [one["prompts"] for one in quarters] == [10, 10, 10, 10]
    assert levels(many, *({"level": f"kind {i}"} for i in range(40)))["by_level"] == []


def test_few_problems_whose_pass_rate_did_not_change_are_clearly_lost() -> None:
    for total in (8, 32, 128):
        least = next(c for c in range(1, total + 1) if wilson(c, total)[0] > wilson(0, total)[1])
        for rate in np.linspace(0.005, 0.9, 180):
            chances = [math.comb(total, c) * rate**c * (1 - rate) ** (total - c) for c in range(total + 1)]
            assert chances[0] * sum(chances[least:]) < 1 / 700


def test_the_series_has_the_checkpoints_in_the_order_of_their_steps_and_is_strict_json(tmp_path: Path) -> None:
    paths = {
        "base": "/models/a",
        "late": "/runs/x/checkpoints/step-000100/policy",
        "step-000020": "/runs/x/checkpoints/step-000020/policy",
        "foreign": "/runs/y/checkpoints/step-000030/policy",
    }
    assert steps_of(paths) == {"late": 100, "step-000020": 20}
    value = Interval(value=0.5, low=0.4, high=0.6, prompts=3)
    values = {name: {"pass@1": value, "retention": UNDEFINED} for name in paths}
    found = series({"base": 0, **steps_of(paths)}, values)
    assert [(point["step"], point["policy"]) for point in found["points"]] == [
        (0, "base"),
        (20, "step-000020"),
        (100, "late"),
    ]
    write_json(tmp_path / "series.json", found)
    read = json.loads((tmp_path / "series.json").read_text(), parse_constant=pytest.fail)
    assert read["points"][0]["values"] == {"pass@1": [0.5, 0.4, 0.6], "retention": [None, None, None]}
