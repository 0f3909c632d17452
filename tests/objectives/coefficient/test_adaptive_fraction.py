"""DistiLLM's adaptive fraction of student-generated answers in the distillation loss, and its complement."""

import json
import math
from dataclasses import asdict

import pytest

from configs.coefficient import CoefficientConfig
from configs.load import load
from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from objectives.coefficient.adaptive_fraction import FractionState, compared, observed
from objectives.coefficient.controllers import ObjectiveState, advance, initial_state
from tests.objectives.ragged_batch import objective


def distillm(over: int = 2) -> ObjectiveConfig:
    explore = TermConfig(
        name="skew_kl",
        wiring="vocabulary",
        estimator="exact",
        coefficient=CoefficientConfig(kind="adaptive_fraction", value=0.2, over=over),
    )
    data = TermConfig(
        name="skew_kl", route="rehearse", coefficient=CoefficientConfig(kind="complement", of="divergence")
    )
    return objective(terms={"divergence": explore, "data": data})


def fractions(losses: list[float], over: int = 2) -> list[float]:
    cfg = distillm(over)
    state = initial_state(cfg, 100)
    found = []
    for step, loss in enumerate(losses, start=1):
        state = advance(state, cfg, {"terms/divergence/value": loss}, trajectories=8, step=step, steps=100)
        assert state.coefficients["divergence"] + state.coefficients["data"] == pytest.approx(1)
        found.append(state.coefficients["divergence"])
    return found


def test_the_fraction_rises_by_0_1_when_the_mean_loss_is_0_1_above_that_of_the_last_rise() -> None:
    # Comparisons after steps 2, 4, 6, 8 of means 1.0 (the first, stored), 1.05 (less than 0.1 above it), 1.12 (0.12
    # above 1.0: the fraction rises, and 1.12 is stored), 1.2 (0.08 above 1.12).
    losses = [0.9, 1.1, 1.0, 1.1, 1.1, 1.14, 1.2, 1.2]
    assert fractions(losses) == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3])


def test_the_fraction_never_falls_and_is_at_most_1() -> None:
    rising = fractions([float(step) for step in range(1, 13)], over=1)
    assert rising == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0, 1.0])
    assert fractions([3.0, 2.0, 1.0, 0.0], over=1) == [0.2] * 4


def test_a_step_without_a_loss_does_not_count() -> None:
    state = FractionState(fraction=0.5, loss=1.0)
    assert observed(state, math.nan) == state
    assert compared(state) == state
    assert fractions([1.0, math.nan, math.nan, math.nan, 1.2, 1.2]) == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.2, 0.3])


def test_the_state_of_the_fraction_survives_json() -> None:
    cfg = distillm(over=3)
    state = initial_state(cfg, 100)
    for step in range(1, 6):
        state = advance(state, cfg, {"terms/divergence/value": 0.2 * step}, trajectories=8, step=step, steps=100)
    restored = ObjectiveState.restored(json.loads(json.dumps(asdict(state))))
    assert restored == state
    ends = [
        advance(s, cfg, {"terms/divergence/value": 2.0}, trajectories=8, step=6, steps=100) for s in (state, restored)
    ]
    assert ends[0] == ends[1]
    assert ends[0].coefficients["divergence"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["objective.terms.divergence.coefficient.over=0"], "over: must be positive for kind adaptive_fraction"),
        (["objective.terms.divergence.coefficient.value=1.5"], "value: must be at most 1 for kind adaptive_fraction"),
        (["objective.terms.data.coefficient.of=teacher"], "must be another term (divergence) for kind=complement"),
        (
            ["objective.terms.divergence.coefficient.of=data"],
            "must be another term (divergence) for kind=complement, and empty",
        ),
        (
            ["objective.terms.data.coefficient={kind: adaptive_fraction, over: 5, of: ''}"],
            "must not be 'adaptive_fraction' on rehearsed answers",
        ),
    ],
)
def test_settings_without_a_computable_fraction_are_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ValueError) as refused:
        load(["method=distillm", *settings])
    assert words in str(refused.value)
