"""SAFE's controller, arXiv:2602.04651: how strongly the KL is held, from the KL, the entropy and the reward.

As a coefficient: the paper's penalty is 0.1 (KL_s - tau)^2 g, of which the official code takes no gradient; here the
loss is its gradient, g 0.2 (KL_s - tau)+ grad KL, with the gate g and the threshold tau held fixed.
"""

from dataclasses import dataclass
from statistics import fmean, pstdev

SMOOTHING = 0.9
SLOPE = 0.2
"""Twice the paper's 0.1."""
BASE_THRESHOLD, LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 0.3, 0.1, 0.6
"""Nats per token."""
ENTROPY_FLOOR = 2.0
"""Nats; with LEAST_GATE it makes the gate 0.5 for a policy of much entropy, and large for one of little."""
LEAST_GATE = 0.5
REWARD_SMOOTHING, WANTED_VELOCITY = 0.95, 0.001
PROPORTIONAL, INTEGRAL, DERIVATIVE = 0.3, 0.01, 0.05
WINDOW = 50
"""Steps of the two reward windows that the phase is read from."""
PHASES = {"warm_up": 1.5, "climbing": 1.2, "converged": 1.0, "plateau": 0.8}


@dataclass(frozen=True)
class SafeState:
    """What the controller remembers. JSON after `dataclasses.asdict`."""

    kl: float = 0.0
    reward: float | None = None
    """Smoothed."""
    integral: float = 0.0
    error: float = 0.0
    output: float = 0.0
    rewards: tuple[float, ...] = ()
    """The last 100."""
    entropy: float = ENTROPY_FLOOR


def observed(state: SafeState, *, kl: float, reward: float, entropy: float) -> SafeState:
    """The state after a step with this mean KL to the reference (nats per token), reward and entropy (nats)."""
    rewards = (*state.rewards, reward)[-2 * WINDOW :]
    if state.reward is None:
        pid = {"reward": reward}
    else:
        smoothed = REWARD_SMOOTHING * state.reward + (1 - REWARD_SMOOTHING) * reward
        error = smoothed - state.reward - WANTED_VELOCITY
        integral = min(max(state.integral + error, -1.0), 1.0)
        output = PROPORTIONAL * error + INTEGRAL * integral + DERIVATIVE * (error - state.error)
        pid = {"reward": smoothed, "error": error, "integral": integral, "output": output}
    smoothed_kl = SMOOTHING * state.kl + (1 - SMOOTHING) * kl
    before = {"integral": state.integral, "error": state.error, "output": state.output}
    return SafeState(kl=smoothed_kl, rewards=rewards, entropy=entropy, **{**before, **pid})


def phase(rewards: tuple[float, ...]) -> str:
    """Where training is: warm_up until 50 steps were seen, then by the last 50 rewards and the 50 before."""
    if len(rewards) < WINDOW:
        return "warm_up"
    recent = rewards[-WINDOW:]
    previous = rewards[-2 * WINDOW : -WINDOW] if len(rewards) == 2 * WINDOW else recent
    if fmean(recent) > fmean(previous) + 0.01:
        return "climbing"
    if pstdev(recent) < 0.02 and fmean(recent) > 0.7:
        return "converged"
    return "plateau"


def threshold(state: SafeState) -> float:
    """tau, in nats per token: always in [0.1, 0.6]."""
    tau = (BASE_THRESHOLD + state.output) * PHASES[phase(state.rewards)]
    return min(max(tau, LOWEST_THRESHOLD), HIGHEST_THRESHOLD)


def coefficient(state: SafeState) -> float:
    """0.2 max(0.5, 2 / (H + 0.1)) (KL_s - tau)+: the weight of a term whose gradient is that of the reverse KL."""
    gate = max(LEAST_GATE, ENTROPY_FLOOR / (state.entropy + 0.1))
    return SLOPE * gate * max(0.0, state.kl - threshold(state))


def penalty(state: SafeState) -> float:
    """The paper's own number, 0.1 g (KL_s - tau)+^2, for comparison."""
    gate = max(LEAST_GATE, ENTROPY_FLOOR / (state.entropy + 0.1))
    return SLOPE / 2 * gate * max(0.0, state.kl - threshold(state)) ** 2
