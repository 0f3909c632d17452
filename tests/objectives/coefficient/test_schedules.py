"""Schedules of a coefficient, which depend on the step only."""

import pytest

from configs.coefficient import CoefficientConfig
from objectives.coefficient.controllers import ObjectiveState, advance, initial_state
from objectives.wording import describe_coefficient
from tests.objectives.coefficient.coefficient_path import coefficient_path, scheduled
from tests.objectives.ragged_batch import objective


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [1.0, 1.5, 2.0, 2.5, 3.0, 3.0]),
        # 1 + 2 (1 - cos(pi s / 4)) / 2: 1 - cos 45 degrees = .2928932
        ("cosine", [1.0, 1.2928932, 2.0, 2.7071068, 3.0, 3.0]),
        ("step", [1.0, 1.0, 1.0, 1.0, 3.0, 3.0]),
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_each_schedule_changes_from_value_to_final(kind: str, expected: list[float]) -> None:
    assert coefficient_path(scheduled(kind=kind, value=1.0, final=3.0, over=4), 100, 5) == pytest.approx(expected)
    over_the_run = coefficient_path(scheduled(kind=kind, value=1.0, final=3.0), 4, 5)
    assert over_the_run == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["linear", "cosine", "step"])
def test_a_schedule_with_equal_ends_is_constant(kind: str) -> None:
    assert coefficient_path(scheduled(kind=kind, value=0.04, final=0.04), 10, 12) == pytest.approx([0.04] * 13)


@pytest.mark.parametrize("kind", ["linear", "cosine", "step"])
def test_the_coefficient_of_a_resumed_run_depends_on_the_step_and_not_on_the_state(kind: str) -> None:
    cfg = scheduled(kind=kind, value=1.0, final=3.0, over=7)
    whole = coefficient_path(cfg, 10, 9)
    state = ObjectiveState(coefficients={"divergence": 99.0})
    assert advance(state, cfg, {}, trajectories=8, step=5, steps=10).coefficients["divergence"] == whole[5]


def test_each_term_has_its_own_schedule() -> None:
    falling = scheduled(kind="linear", value=1.0, over=2).terms["divergence"]
    rising = scheduled(kind="linear", final=1.0, over=4).terms["divergence"]
    cfg = objective(terms={"divergence": falling, "rising": rising})
    state = initial_state(cfg, 10)
    assert state.coefficients == {"divergence": 1.0, "rising": 0.0}
    state = advance(state, cfg, {}, trajectories=8, step=1, steps=10)
    assert state.coefficients == {"divergence": 0.5, "rising": 0.25}


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"value": 0.04}, "0.04, constant"),
        ({"kind": "linear", "final": 0.04}, "from 0 to 0.04 over 100 steps, linear"),
        ({"kind": "cosine", "value": 0.2, "final": 0.01, "over": 60}, "from 0.2 to 0.01 over 60 steps, cosine"),
        ({"kind": "safe", "value": 1.0}, "SAFE: 1 x the smoothed KL above a threshold"),
    ],
)
def test_a_schedule_is_described(choices: dict[str, object], words: str) -> None:
    assert describe_coefficient(CoefficientConfig(**choices), 100).startswith(words)  # type: ignore[arg-type]
