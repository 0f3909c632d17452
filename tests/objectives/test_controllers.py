import json
import math
from dataclasses import asdict

import pytest
from ragged_batch import divergence, objective

from configs.objective_schema import CoefficientConfig
from objectives.controllers import KL_PER_TRAJECTORY, ObjectiveState, advance, initial_state

ADAPTIVE = objective(
    divergence=divergence(
        "reverse_kl",
        wiring="reward",
        estimator="k1",
        coefficient=CoefficientConfig(kind="adaptive", value=0.15, target=6.0, horizon=10_000),
    )
)


@pytest.mark.parametrize(
    ("kl", "expected"), [(9.0, 0.151536), (3.0, 0.148464), (6.0, 0.15), (6.6, 0.15 * (1 + 0.1 * 0.0512))]
)
def test_zieglers_controller_follows_the_kl(kl: float, expected: float) -> None:
    state = advance(initial_state(ADAPTIVE), ADAPTIVE, {KL_PER_TRAJECTORY: kl}, trajectories=512)
    assert state.coefficient == pytest.approx(expected, abs=1e-12)


def test_the_controller_is_pure() -> None:
    state = initial_state(ADAPTIVE)
    advance(state, ADAPTIVE, {KL_PER_TRAJECTORY: 9.0}, trajectories=512)
    assert state == ObjectiveState(coefficient=0.15)


@pytest.mark.parametrize("stats", [{}, {"reward": 1.0}, {KL_PER_TRAJECTORY: math.nan}, {KL_PER_TRAJECTORY: math.inf}])
def test_without_a_measured_kl_the_coefficient_stays(stats: dict[str, float]) -> None:
    assert advance(ObjectiveState(coefficient=0.3), ADAPTIVE, stats, 512) == ObjectiveState(coefficient=0.3)


def test_a_constant_coefficient_stays() -> None:
    cfg = objective(divergence=divergence("forward_kl", samples="rehearsal", coefficient=CoefficientConfig(value=0.7)))
    assert advance(initial_state(cfg), cfg, {KL_PER_TRAJECTORY: 99.0}, 512) == ObjectiveState(coefficient=0.7)


def test_a_horizon_too_short_for_the_step_is_refused_with_its_name() -> None:
    with pytest.raises(ValueError, match=r"coefficient\.horizon.*100000 trajectories.*10000"):
        advance(initial_state(ADAPTIVE), ADAPTIVE, {KL_PER_TRAJECTORY: 1.0}, trajectories=100_000)


def test_the_state_survives_json() -> None:
    state = ObjectiveState(coefficient=0.1 + 0.2)
    assert ObjectiveState(**json.loads(json.dumps(asdict(state)))) == state
