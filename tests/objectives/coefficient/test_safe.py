"""SAFE's controller (arXiv:2602.04651): smoothed KL, entropy gate, and a threshold by reward velocity and phase."""

import itertools
import json
import math
import random
from dataclasses import asdict, replace

import pytest
import torch

from configs.coefficient import CoefficientConfig
from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import KL_PER_TOKEN, ObjectiveState, advance, initial_state
from objectives.coefficient.safe import SafeState, coefficient, gate, observed, phase, threshold
from objectives.credit import credit
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective


def after(rewards: list[float], kl: float = 0.0, entropy: float = 1.0, smoothing: float = 0.9) -> list[SafeState]:
    """Return the states after each of the rewards."""

    def step(state: SafeState, reward: float) -> SafeState:
        return observed(state, kl=kl, reward=reward, entropy=entropy, smoothing=smoothing)

    return list(itertools.accumulate(rewards, step, initial=SafeState()))[1:]


def test_the_pid_follows_the_velocity_of_the_smoothed_reward() -> None:
    # .5 is the first smoothed reward; then .505: e = .004, I = .004, D = .004: .0012 + .00004 + .0002 = .00144
    outputs = [state.output for state in after([0.5, 0.6, 0.6, 0.4])]
    assert outputs == pytest.approx([0, 0.00144, 0.00119, -0.0024455], abs=1e-7)


def test_the_integral_is_bounded() -> None:
    assert after([0.0] + [100.0] * 50)[-1].integral == 1.0
    assert after([0.0] + [-100.0] * 50)[-1].integral == -1.0


def penalty(state: SafeState) -> float:
    """Return the paper's penalty, 0.1 g (KL_s - tau)+^2."""
    return 0.1 * gate(state) * max(0.0, state.kl - threshold(state)) ** 2


@pytest.mark.parametrize(("entropy", "expected"), [(1.0, 4.5455e-4), (4.0, 1.25e-4)])
def test_the_penalty_has_the_values_computed_by_hand(entropy: float, expected: float) -> None:
    # warm-up: tau = .3 * 1.5 = .45; .1 (.5 - .45)^2 max(.5, 2 / (H + .1))
    state = SafeState(kl=0.5, entropy=entropy)
    assert threshold(state) == pytest.approx(0.45)
    assert penalty(state) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("entropy", [0.0, 0.3, 1.0, 3.9, 8.0])
def test_the_coefficient_is_the_slope_of_the_penalty(entropy: float) -> None:
    def at(kl: float) -> float:
        return penalty(SafeState(kl=kl, entropy=entropy))

    slope = (at(0.7 + 1e-5) - at(0.7 - 1e-5)) / 2e-5
    assert coefficient(SafeState(kl=0.7, entropy=entropy)) == pytest.approx(slope, rel=1e-5)


@pytest.mark.parametrize("kl", [-3.0, 0.0, 0.449])
def test_below_the_threshold_penalty_and_coefficient_are_0(kl: float) -> None:
    assert penalty(SafeState(kl=kl)) == coefficient(SafeState(kl=kl)) == 0


def test_the_kl_is_smoothed_with_factor_0_9() -> None:
    states = after([0.5, 0.5, 0.5], kl=1.0)
    assert [state.kl for state in states] == pytest.approx([0.1, 0.19, 0.271])


def test_without_smoothing_the_coefficient_is_the_slope_of_the_penalty_by_the_kl_of_the_step() -> None:
    assert [state.kl for state in after([0.5, 0.5], kl=1.0, smoothing=0.0)] == [1.0, 1.0]
    found = advance_safe(CoefficientConfig(kind="safe", value=1.0, smoothing=0.0))
    # Warm-up: tau = .45; gate 2 / (1 + .1): .2 x 1.818182 x (1 - .45)
    assert found == pytest.approx(0.2)
    smoothed = advance_safe(CoefficientConfig(kind="safe", value=1.0))
    assert smoothed == 0, "a tenth of the KL is below the threshold"


def advance_safe(cfg: CoefficientConfig) -> float:
    """Return the coefficient after one step with a KL of 1 nat per token, reward .5 and entropy 1."""
    whole = objective(terms={"divergence": divergence("reverse_kl", estimator="k2", coefficient=cfg)})
    stats = {KL_PER_TOKEN: 1.0, "reward": 0.5, "entropy": 1.0}
    state = advance(initial_state(whole, 100), whole, stats, trajectories=8, step=1, steps=100)
    return state.coefficients["divergence"]


def test_the_phase_depends_on_the_last_fifty_rewards_and_the_fifty_before() -> None:
    rising = [index / 100 for index in range(100)]
    assert phase(tuple(rising[:49])) == "warm_up"
    assert phase(tuple(rising)) == "climbing"
    assert phase((0.8,) * 100) == "converged"
    assert phase((0.5,) * 100) == "plateau", "steady, but not high"
    assert phase((0.6, 1.0) * 50) == "plateau", "high, but not steady"
    assert phase((0.79,) * 50 + (0.8,) * 50) == "converged", "a rise of 0.01 does not count"
    assert phase((0.1,) * 25 + (0.9,) * 25) == "plateau", "below 100 rewards the last 50 are compared with themselves"


def test_only_the_last_hundred_rewards_are_kept() -> None:
    state = after([0.0] * 120 + [0.8] * 100)[-1]
    assert state.rewards == (0.8,) * 100


@pytest.mark.parametrize(
    ("rewards", "expected"), [((), 0.45), ((0.8,) * 100, 0.3), ((0.5,) * 100, 0.24), ((0.0,) * 50 + (0.5,) * 50, 0.36)]
)
def test_each_phase_scales_the_threshold(rewards: tuple[float, ...], expected: float) -> None:
    assert threshold(SafeState(rewards=rewards)) == pytest.approx(expected)


def test_the_threshold_stays_within_its_bounds() -> None:
    generator = random.Random(0)
    for scale in (1.0, 100.0):
        for state in after([generator.uniform(-scale, scale) for _ in range(300)]):
            assert 0.1 <= threshold(state) <= 0.6
    assert threshold(SafeState(output=-9.0)) == 0.1
    assert threshold(SafeState(output=9.0)) == 0.6


# As the controller of a term.

SAFE = objective(
    terms={
        "divergence": divergence("reverse_kl", estimator="k2", coefficient=CoefficientConfig(kind="safe", value=2.0))
    }
)


def steps(cfg: ObjectiveConfig, kls: list[float], state: ObjectiveState | None = None) -> ObjectiveState:
    state = state or initial_state(cfg, 100)
    for index, kl in enumerate(kls):
        stats = {KL_PER_TOKEN: kl, "reward": 0.5, "entropy": 1.0}
        state = advance(state, cfg, stats, trajectories=8, step=index + 1, steps=100)
    return state


def test_the_coefficient_is_0_until_the_smoothed_kl_is_above_the_threshold() -> None:
    assert initial_state(SAFE, 100).coefficients == {"divergence": 0.0}
    assert steps(SAFE, [2.0] * 2).coefficients["divergence"] == 0.0  # smoothed .38, tau about .45
    state = steps(SAFE, [2.0] * 10)
    safe = state.safe["divergence"]
    # PID on a constant reward: e = -.001 each step
    assert safe.kl == pytest.approx(2 * (1 - 0.9**10))
    assert state.coefficients["divergence"] == pytest.approx(2.0 * 0.2 * (2 / 1.1) * (safe.kl - threshold(safe)))


@pytest.mark.parametrize("missing", [KL_PER_TOKEN, "reward", "entropy"])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_step_without_a_finite_metric_changes_nothing(missing: str, value: float | None) -> None:
    state = steps(SAFE, [2.0] * 10)
    stats = {KL_PER_TOKEN: 3.0, "reward": 0.9, "entropy": 0.5}
    stats = {k: v for k, v in stats.items() if k != missing} | ({} if value is None else {missing: value})
    assert advance(state, SAFE, stats, trajectories=8, step=11, steps=100) == state


def test_a_state_restored_from_json_advances_like_the_original() -> None:
    cfg = replace(
        SAFE, terms=SAFE.terms | {"second": replace(SAFE.terms["divergence"], coefficient=CoefficientConfig(value=0.5))}
    )
    half = steps(cfg, [1.0, 2.0, 3.0] * 20)
    restored = ObjectiveState.restored(json.loads(json.dumps(asdict(half))))
    assert restored == half
    assert steps(cfg, [2.5, 0.1], restored) == steps(cfg, [2.5, 0.1], half)
    assert set(half.safe) == {"divergence"} and half.coefficients["second"] == 0.5


def test_the_term_has_the_gradient_of_the_penalty() -> None:
    # d/dtheta .1 g (KL_s - tau)^2, g and tau detached, is .2 g (KL_s - tau) grad KL, and k2 has the gradient of KL.
    logp = torch.tensor([-1.0, -2.0], requires_grad=True)
    batch = make_batch(
        [("explore", 0, 1.0, [1, 2])], logp_sampler=logp.detach(), logp_reference=torch.tensor([-1.5, -1.0])
    )
    state = steps(SAFE, [2.0] * 10)
    value, _ = loss_of(logp, credit(batch, SAFE, state), SAFE, state.coefficients["divergence"])
    (gradient,) = torch.autograd.grad(value, logp)
    assert gradient.tolist() == pytest.approx([state.coefficients["divergence"] * d / 2 for d in (0.5, -1.0)])


@pytest.mark.parametrize("kind", ["safe", "adaptive"])
def test_a_controller_is_refused_without_a_kl_on_explored_answers(kind: str) -> None:
    controlled = CoefficientConfig(kind=kind, value=0.1)
    rehearse = divergence("forward_kl", route="rehearse", coefficient=controlled)
    with pytest.raises(ValueError, match=r"coefficient\.kind: follows the KL to the reference.*got '" + kind):
        objective(terms={"divergence": rehearse})
    old = divergence("reverse_kl", estimator="ratio_weighted", anchor="old", coefficient=controlled)
    with pytest.raises(ValueError, match=r"coefficient\.kind: follows the KL to the reference"):
        objective(terms={"divergence": old})
    explore = divergence("reverse_kl", estimator="k2")
    assert objective(terms={"divergence": rehearse, "explore": explore}).anchors == ["reference"]
