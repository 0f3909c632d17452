"""SAFE's controller of a KL coefficient, from the KL, the entropy and the reward (arXiv:2602.04651).

The paper's penalty is 0.1 g (KL_s - tau)^2, of which the official code takes no gradient. Here the coefficient is the
derivative of that penalty by the smoothed KL, 0.2 g (KL_s - tau)+, with the gate g and the threshold tau held fixed. It
is computed after a step, and weighs the KL of the next one.
"""

from dataclasses import dataclass
from statistics import fmean, pstdev

SLOPE = 0.2
"""Twice the paper's 0.1."""
BASE_THRESHOLD, LOWEST_THRESHOLD, HIGHEST_THRESHOLD = 0.3, 0.1, 0.6
"""Nats per token."""
ENTROPY_FLOOR = 2.0
"""Nats: numerator of the gate max(LEAST_GATE, ENTROPY_FLOOR / (H + 0.1)), which is large at low entropy H."""
LEAST_GATE = 0.5
REWARD_SMOOTHING, WANTED_VELOCITY = 0.95, 0.001
PROPORTIONAL, INTEGRAL, DERIVATIVE = 0.3, 0.01, 0.05
WINDOW = 50
"""Steps of each of the two reward windows that determine the phase."""
PHASES = {"warm_up": 1.5, "climbing": 1.2, "converged": 1.0, "plateau": 0.8}


@dataclass(frozen=True)
class SafeState:
    """State of the controller; `dataclasses.asdict` makes it JSON."""

    kl: float = 0.0
    reward: float | None = None
    """Smoothed reward; None before the first step."""
    integral: float = 0.0
    error: float = 0.0
    output: float = 0.0
    rewards: tuple[float, ...] = ()
    """The last 100 mean rewards, oldest first."""
    entropy: float = ENTROPY_FLOOR


def observed(state: SafeState, *, kl: float, reward: float, entropy: float, smoothing: float) -> SafeState:
    """Return the state after a step with this mean KL to the reference (nats per token), reward and entropy (nats).

    Args:
        smoothing: weight of the earlier steps in the smoothed KL; the paper's is 0.9.
    """
    rewards = (*state.rewards, reward)[-2 * WINDOW :]
    if state.reward is None:
        pid = {"reward": reward}
    else:
        smoothed = REWARD_SMOOTHING * state.reward + (1 - REWARD_SMOOTHING) * reward
        error = smoothed - state.reward - WANTED_VELOCITY
        integral = min(max(state.integral + error, -1.0), 1.0)
        output = PROPORTIONAL * error + INTEGRAL * integral + DERIVATIVE * (error - state.error)
        pid = {"reward": smoothed, "error": error, "integral": integral, "output": output}
    smoothed_kl = smoothing * state.kl + (1 - smoothing) * kl
    before = {"integral": state.integral, "error": state.error, "output": state.output}
    return SafeState(kl=smoothed_kl, rewards=rewards, entropy=entropy, **{**before, **pid})


def phase(rewards: tuple[float, ...]) -> str:
    """Return the phase of training: warm_up for 50 steps, then from the last 50 rewards and the 50 before."""
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
    """Return the threshold tau in nats per token, in [0.1, 0.6]."""
    tau = (BASE_THRESHOLD + state.output) * PHASES[phase(state.rewards)]
    return min(max(tau, LOWEST_THRESHOLD), HIGHEST_THRESHOLD)


def gate(state: SafeState) -> float:
    """Return g = max(0.5, 2 / (H + 0.1)): the lower the entropy H, the stronger the KL penalty."""
    return max(LEAST_GATE, ENTROPY_FLOOR / (state.entropy + 0.1))


def coefficient(state: SafeState) -> float:
    """Return 0.2 g (KL_s - tau)+, the coefficient of a reverse-KL term."""
    return SLOPE * gate(state) * max(0.0, state.kl - threshold(state))
