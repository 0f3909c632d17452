"""Coefficient controllers: small explicit states, advanced once per step on the driver from reduced scalars."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from configs.objective import ObjectiveConfig
from configs.terms import CoefficientConfig
from objectives.advantage.critic import RewardMoments
from objectives.advantage.estimators import shaped_reward
from objectives.coefficient.adaptive_fraction import ShareState, looked
from objectives.coefficient.adaptive_fraction import observed as observed_loss
from objectives.coefficient.recap import REPLAY, RecapState, domain_rewards, recap_weights
from objectives.coefficient.recap import observed as observed_objectives
from objectives.coefficient.safe import SafeState, observed
from objectives.coefficient.safe import coefficient as safe_coefficient
from trajectories.batch import Batch

KL_PER_TRAJECTORY = "kl_reference_per_trajectory"
"""Mean over explored trajectories of log pi_old - log pi_reference summed over their tokens, in nats."""
KL_PER_TOKEN = "kl_reference"
"""Mean over explored tokens of log pi_old - log pi_reference, in nats."""
ERROR_LIMIT = 0.2
"""Bound on the proportional error of one step."""


def term_metric(kind: str, term: str) -> str:
    """Name of a metric of a divergence term: the first one's is `kind` itself."""
    return kind if term == "divergence" else f"{kind}/{term}"


@dataclass(frozen=True)
class ObjectiveState:
    """What the objective remembers from step to step; `dataclasses.asdict` makes it JSON."""

    coefficients: Mapping[str, float]
    """Weight of each divergence term, by its name, and of the replay loss, under `replay`."""
    safe: Mapping[str, SafeState] = field(default_factory=dict)
    """SAFE's memory for each term it controls."""
    share: Mapping[str, ShareState] = field(default_factory=dict)
    """DistiLLM's memory for each term it controls."""
    recap: RecapState = field(default_factory=RecapState)
    """What the weights of the domains and of the replay loss come from."""
    rewards: RewardMoments = field(default_factory=RewardMoments)
    """Of all answers so far, where a critic needs them."""

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "ObjectiveState":
        """From what `dataclasses.asdict` and JSON made of a state."""
        memory = {name: SafeState(**{**s, "rewards": tuple(s["rewards"])}) for name, s in saved["safe"].items()}
        share = {name: ShareState(**s) for name, s in saved["share"].items()}
        rewards = RewardMoments(**saved["rewards"])
        recap = RecapState(values={name: tuple(values) for name, values in saved["recap"]["values"].items()})
        return cls(coefficients=dict(saved["coefficients"]), safe=memory, share=share, recap=recap, rewards=rewards)


def initial_state(cfg: ObjectiveConfig, steps: int) -> ObjectiveState:
    """The state before the first of `steps` steps."""
    coefficients, memory, share = {}, {}, {}
    for name, term in cfg.terms.items():
        coefficients[name] = _start(term.coefficient, steps)
        if term.coefficient.kind == "safe":
            memory[name] = SafeState()
        if term.coefficient.kind == "share":
            share[name] = ShareState(share=term.coefficient.value)
    if cfg.replays:
        coefficients[REPLAY] = cfg.replay_weight
    return with_rests(ObjectiveState(coefficients=coefficients, safe=memory, share=share), cfg)


def advance(
    state: ObjectiveState, cfg: ObjectiveConfig, stats: Mapping[str, float], *, trajectories: int, step: int, steps: int
) -> ObjectiveState:
    """The state for step number `step` of `steps`, from the mean metrics of the one before, of so many `trajectories`.

    Without a finite KL in `stats` nothing was measured (the learner skips and counts such a step) and what depends on
    it stays.
    """
    for name, term in cfg.terms.items():
        if term.coefficient.kind == "safe":
            state = _advance_safe(state, name, term.coefficient, stats)
        elif term.coefficient.kind == "share":
            state = _advance_share(state, name, term.coefficient, stats, step)
        else:
            value = _next(state.coefficients[name], term.coefficient, stats, trajectories, step, steps)
            state = replace(state, coefficients={**state.coefficients, name: value})
    return with_rests(state, cfg)


def with_rests(state: ObjectiveState, cfg: ObjectiveConfig) -> ObjectiveState:
    """The state with the coefficients that are what others leave of 1."""
    rests = {
        name: 1.0 - state.coefficients[term.coefficient.of]
        for name, term in cfg.terms.items()
        if term.coefficient.kind == "rest"
    }
    return replace(state, coefficients={**state.coefficients, **rests})


def with_rewards(state: ObjectiveState, cfg: ObjectiveConfig, batch: Batch) -> ObjectiveState:
    """The state after the rewards of a step's batch, where a critic needs their moments."""
    if cfg.advantage != "critic":
        return state
    return replace(state, rewards=state.rewards.seen(shaped_reward(batch, cfg.overlong)))


def with_recap(state: ObjectiveState, cfg: ObjectiveConfig, batch: Batch, stats: Mapping[str, float]) -> ObjectiveState:
    """The state after the domains' rewards in a step's batch and its replay loss, where they are weighed."""
    if not cfg.recap.window:
        return state
    measured = domain_rewards(batch)
    if "replay_loss" in stats:
        measured[REPLAY] = stats["replay_loss"]
    recap = observed_objectives(state.recap, measured, cfg.recap.window)
    coefficients = dict(state.coefficients)
    if cfg.replays:
        coefficients[REPLAY] = cfg.replay_weight * recap_weights(recap, cfg.recap).get(REPLAY, 1.0)
    return replace(state, coefficients=coefficients, recap=recap)


def _start(coefficient: CoefficientConfig, steps: int) -> float:
    if coefficient.kind == "safe":
        return 0.0
    if coefficient.scheduled:
        return scheduled(coefficient, 0, steps)
    return coefficient.value


def _next(
    value: float, coefficient: CoefficientConfig, stats: Mapping[str, float], trajectories: int, step: int, steps: int
) -> float:
    if coefficient.kind == "adaptive":
        return adapted(value, coefficient, stats.get(KL_PER_TRAJECTORY), trajectories)
    if coefficient.scheduled:
        return scheduled(coefficient, step, steps)
    return value


def scheduled(coefficient: CoefficientConfig, step: int, steps: int) -> float:
    """A pure function of the step, so that a resumed run goes on where it was. GRPO-D, arXiv:2503.16081, rises; KDRL's
    annealing, arXiv:2506.02208, falls."""
    over = coefficient.over or steps
    done = min(step / over, 1.0)
    if coefficient.kind == "step":
        done = float(step >= over)
    elif coefficient.kind == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return coefficient.value + (coefficient.final - coefficient.value) * done


def adapted(value: float, coefficient: CoefficientConfig, kl: float | None, trajectories: int) -> float:
    """beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) trajectories / horizon), Ziegler et al., arXiv:1909.08593,
    section 2.2. Raises ValueError when the horizon is so short that the coefficient could change sign."""
    if kl is None or not math.isfinite(kl):
        return value
    if ERROR_LIMIT * trajectories >= coefficient.horizon:
        raise ValueError(
            "objective.divergence.coefficient.horizon: must be above "
            f"{ERROR_LIMIT} * {trajectories} trajectories per step, got {coefficient.horizon}"
        )
    error = min(max(kl / coefficient.target - 1, -ERROR_LIMIT), ERROR_LIMIT)
    return value * (1 + error * trajectories / coefficient.horizon)


def _advance_safe(
    state: ObjectiveState, name: str, coefficient: CoefficientConfig, stats: Mapping[str, float]
) -> ObjectiveState:
    seen = {"kl": stats.get(KL_PER_TOKEN), "reward": stats.get("reward"), "entropy": stats.get("entropy")}
    known = {key: value for key, value in seen.items() if value is not None and math.isfinite(value)}
    if len(known) < len(seen):
        return state
    memory = observed(state.safe[name], **known)
    value = coefficient.value * safe_coefficient(memory)
    return replace(state, coefficients={**state.coefficients, name: value}, safe={**state.safe, name: memory})


def _advance_share(
    state: ObjectiveState, name: str, coefficient: CoefficientConfig, stats: Mapping[str, float], step: int
) -> ObjectiveState:
    memory = observed_loss(state.share[name], stats.get(term_metric("divergence", name), math.nan))
    if step % coefficient.over == 0:
        memory = looked(memory)
    coefficients = {**state.coefficients, name: memory.share}
    return replace(state, coefficients=coefficients, share={**state.share, name: memory})
