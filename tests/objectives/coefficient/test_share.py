"""DistiLLM's share of own answers, and what it leaves to the others."""

import json
import math
from dataclasses import asdict

import pytest

from configs.load import load
from configs.objective import ObjectiveConfig
from configs.terms import CoefficientConfig, DivergenceConfig
from objectives.coefficient.adaptive_fraction import ShareState, looked, observed
from objectives.coefficient.controllers import ObjectiveState, advance, initial_state
from tests.objectives.ragged_batch import objective


def distillm(over: int = 2) -> ObjectiveConfig:
    own = DivergenceConfig(
        name="skew_kl",
        wiring="vocabulary",
        estimator="exact",
        coefficient=CoefficientConfig(kind="share", value=0.2, over=over),
    )
    data = DivergenceConfig(
        name="skew_kl", samples="rehearsal", coefficient=CoefficientConfig(kind="rest", of="divergence")
    )
    return objective(divergence=own, divergences={"data": data})


def shares(losses: list[float], over: int = 2) -> list[float]:
    cfg = distillm(over)
    state = initial_state(cfg, 100)
    found = []
    for step, loss in enumerate(losses, start=1):
        state = advance(state, cfg, {"divergence": loss}, trajectories=8, step=step, steps=100)
        assert state.coefficients["divergence"] + state.coefficients["data"] == pytest.approx(1)
        found.append(state.coefficients["divergence"])
    return found


def test_the_share_rises_by_a_tenth_when_the_mean_since_the_last_look_is_a_tenth_above_that_of_the_last_rise() -> None:
    # Looks after steps 2, 4, 6, 8 at means 1.0 (the first: remembered), 1.05 (less than 0.1 above it), 1.12 (0.12
    # above 1.0: rises, remembers 1.12), 1.2 (0.08 above 1.12).
    losses = [0.9, 1.1, 1.0, 1.1, 1.1, 1.14, 1.2, 1.2]
    assert shares(losses) == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3])


def test_the_share_never_falls_and_never_passes_one() -> None:
    rising = shares([float(step) for step in range(1, 13)], over=1)
    assert rising == pytest.approx([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0, 1.0, 1.0])
    assert shares([3.0, 2.0, 1.0, 0.0], over=1) == [0.2] * 4


def test_a_step_that_was_not_measured_does_not_count() -> None:
    state = ShareState(share=0.5, loss=1.0)
    assert observed(state, math.nan) == state
    assert looked(state) == state
    assert shares([1.0, math.nan, math.nan, math.nan, 1.2, 1.2]) == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.2, 0.3])


def test_the_share_survives_a_checkpoint() -> None:
    cfg = distillm(over=3)
    state = initial_state(cfg, 100)
    for step in range(1, 6):
        state = advance(state, cfg, {"divergence": 0.2 * step}, trajectories=8, step=step, steps=100)
    restored = ObjectiveState.restored(json.loads(json.dumps(asdict(state))))
    assert restored == state
    ends = [advance(s, cfg, {"divergence": 2.0}, trajectories=8, step=6, steps=100) for s in (state, restored)]
    assert ends[0] == ends[1]
    assert ends[0].coefficients["divergence"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["objective.divergence.coefficient.over=0"], "over: must be positive for a share"),
        (["objective.divergence.coefficient.value=1.5"], "value: must be at most 1 for a share"),
        (["objective.divergences.data.coefficient.of=teacher"], "must be another term (divergence) for a rest"),
        (["objective.divergence.coefficient.of=data"], "must be another term (divergence) for a rest, and empty"),
        (
            ["objective.divergences.data.coefficient={kind: share, over: 5, of: ''}"],
            "must not be 'share' on stored answers",
        ),
    ],
)
def test_a_share_that_could_not_be_told_is_refused(settings: list[str], words: str) -> None:
    with pytest.raises(ValueError) as refused:
        load(["method=distillm", *settings])
    assert words in str(refused.value)
