"""Controllers of a coefficient: Ziegler's adaptive KL, constants, and the state between steps."""

import json
import math
from dataclasses import asdict

import pytest

from configs.coefficient import CoefficientConfig
from configs.load import load
from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import (
    KL_PER_TOKEN,
    KL_PER_TRAJECTORY,
    ObjectiveState,
    advance,
    initial_state,
    resumed_state,
)
from tests.objectives.ragged_batch import divergence, objective, state_of

ADAPTIVE = objective(
    terms={
        "divergence": divergence(
            "reverse_kl",
            wiring="reward",
            estimator="k1",
            coefficient=CoefficientConfig(kind="adaptive", value=0.15, target=6.0, horizon=10_000),
        )
    }
)


def next_state(
    state: ObjectiveState, cfg: ObjectiveConfig, stats: dict[str, float], trajectories: int = 512
) -> ObjectiveState:
    return advance(state, cfg, stats, trajectories=trajectories, step=1, steps=100)


@pytest.mark.parametrize(
    ("kl", "expected"), [(9.0, 0.151536), (3.0, 0.148464), (6.0, 0.15), (6.6, 0.15 * (1 + 0.1 * 0.0512))]
)
def test_zieglers_controller_follows_the_kl(kl: float, expected: float) -> None:
    state = next_state(initial_state(ADAPTIVE, 100), ADAPTIVE, {KL_PER_TRAJECTORY: kl})
    assert state.coefficients == pytest.approx({"divergence": expected}, abs=1e-12)


def test_advancing_does_not_change_the_state_it_was_given() -> None:
    state = initial_state(ADAPTIVE, 100)
    next_state(state, ADAPTIVE, {KL_PER_TRAJECTORY: 9.0})
    assert state == state_of(0.15)


@pytest.mark.parametrize("stats", [{}, {"reward": 1.0}, {KL_PER_TRAJECTORY: math.nan}, {KL_PER_TRAJECTORY: math.inf}])
def test_without_a_measured_kl_the_coefficient_stays(stats: dict[str, float]) -> None:
    assert next_state(state_of(0.3), ADAPTIVE, stats) == state_of(0.3)


def test_a_constant_coefficient_stays() -> None:
    cfg = objective(
        terms={"divergence": divergence("forward_kl", route="rehearse", coefficient=CoefficientConfig(value=0.7))}
    )
    assert next_state(initial_state(cfg, 100), cfg, {KL_PER_TRAJECTORY: 99.0}) == state_of(0.7)


def test_a_horizon_too_short_for_the_trajectories_of_a_step_is_refused() -> None:
    rule = r"^objective\.terms\.divergence\.coefficient\.horizon: must be above 0\.2 x trajectories per step \(20000\)"
    with pytest.raises(ValueError, match=rule + ".*got 10000"):
        load(["method=grpo_adaptive_kl", "groups_per_step=10000", "sampling.group_size=10"])
    assert load(["method=grpo_adaptive_kl", "groups_per_step=4999", "sampling.group_size=10"]).lag == 0


def test_the_state_survives_json() -> None:
    state = ObjectiveState(coefficients={"divergence": 0.1 + 0.2, "teacher": 1e-17})
    assert ObjectiveState.restored(json.loads(json.dumps(asdict(state)))) == state


def test_each_term_has_its_own_coefficient() -> None:
    second = divergence("forward_kl", route="rehearse", coefficient=CoefficientConfig(value=0.7))
    cfg = objective(terms={"divergence": ADAPTIVE.terms["divergence"], "rehearse": second})
    state = initial_state(cfg, 100)
    assert state.coefficients == {"divergence": 0.15, "rehearse": 0.7}
    moved = next_state(state, cfg, {KL_PER_TRAJECTORY: 9.0})
    assert moved.coefficients == pytest.approx({"divergence": 0.151536, "rehearse": 0.7}, abs=1e-12)


def test_a_resumed_state_equals_the_saved_one_under_the_same_settings() -> None:
    for method in ("grpo_adaptive_kl", "safe", "distillm", "kdrl", "recap", "dph_f"):
        cfg = load([f"method={method}"]).objective
        saved = initial_state(cfg, 100)
        for step in range(1, 8):
            stats = {KL_PER_TRAJECTORY: 9.0, KL_PER_TOKEN: 0.7, "reward": 0.1 * step, "entropy": 0.4}
            saved = advance(saved, cfg, stats, trajectories=64, step=step, steps=100)
        assert resumed_state(saved, cfg, 7, 100) == saved, method


def test_a_run_resumed_with_more_steps_has_their_schedules_and_keeps_its_controllers() -> None:
    rising = divergence("reverse_kl", coefficient=CoefficientConfig(kind="linear", value=0.0, final=1.0))
    saved = ObjectiveState(coefficients={"divergence": 0.2, "rising": 0.5})
    cfg = objective(terms={"divergence": ADAPTIVE.terms["divergence"], "rising": rising})
    assert resumed_state(saved, cfg, 25, 100).coefficients == {"divergence": 0.2, "rising": 0.25}
