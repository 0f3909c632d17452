"""Coefficient controllers: small explicit states, advanced once per step on the driver from reduced metrics."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from configs.coefficient import LARGEST_KL_ERROR, CoefficientConfig
from configs.objective import ObjectiveConfig
from configs.pass_k import PassKConfig
from objectives.advantage import learned_mask
from objectives.advantage.critic import RewardMoments
from objectives.advantage.estimators import shaped_reward
from objectives.advantage.learned_mask import MaskState
from objectives.coefficient import adaptive_fraction, recap, safe
from objectives.coefficient.adaptive_fraction import FractionState
from objectives.coefficient.recap import REPLAY, RecapState
from objectives.coefficient.safe import SafeState
from trajectories.batch import Batch

KL_PER_TRAJECTORY = "kl_reference_per_trajectory"
"""Mean over explored trajectories of log pi_old - log pi_reference summed over their tokens, in nats."""
KL_PER_TOKEN = "kl_reference"
"""Mean over explored tokens of log pi_old - log pi_reference, in nats."""


def term_metric(term: str, what: str) -> str:
    """Return the name of a metric of a divergence term: `terms/NAME/value`, `.../coefficient`, `.../confidence`,
    `.../weight` or `.../kept`."""
    return f"terms/{term}/{what}"


@dataclass(frozen=True)
class ObjectiveState:
    """Coefficients, controllers and k of the objective between two steps; `dataclasses.asdict` makes it JSON."""

    coefficients: Mapping[str, float]
    """Coefficient of each divergence term by its name, and of the replay loss under `replay`."""
    safe: Mapping[str, SafeState] = field(default_factory=dict)
    """State of SAFE for each term it controls."""
    fraction: Mapping[str, FractionState] = field(default_factory=dict)
    """State of DistiLLM's adaptive fraction for each term it controls."""
    recap: RecapState = field(default_factory=RecapState)
    """Recent values of the objectives that RECAP weighs."""
    rewards: RewardMoments = field(default_factory=RewardMoments)
    """Moments of all rewards so far, for a critic."""
    mask: MaskState = field(default_factory=MaskState)
    """Parameters of a learned token mask of pairs."""
    pass_k: int = PassKConfig.k
    """The k of the advantages that aim at Pass@k."""

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "ObjectiveState":
        """Return the state that `dataclasses.asdict` and JSON stored."""
        states = {name: SafeState(**{**s, "rewards": tuple(s["rewards"])}) for name, s in saved["safe"].items()}
        return cls(
            coefficients=dict(saved["coefficients"]),
            safe=states,
            fraction={name: FractionState(**s) for name, s in saved["fraction"].items()},
            recap=RecapState(values={name: tuple(values) for name, values in saved["recap"]["values"].items()}),
            rewards=RewardMoments(**saved["rewards"]),
            mask=MaskState.restored(saved["mask"]),
            pass_k=saved["pass_k"],
        )


def initial_state(cfg: ObjectiveConfig, steps: int) -> ObjectiveState:
    """Return the state before the first of `steps` steps."""
    coefficients = {name: _start(term.coefficient, steps) for name, term in cfg.terms.items()}
    kinds = {name: term.coefficient.kind for name, term in cfg.terms.items()}
    if cfg.replays:
        coefficients[REPLAY] = cfg.replay_weight
    state = ObjectiveState(
        coefficients=coefficients,
        safe={name: SafeState() for name, kind in kinds.items() if kind == "safe"},
        fraction={
            name: FractionState(fraction=coefficients[name])
            for name, kind in kinds.items()
            if kind == "adaptive_fraction"
        },
        pass_k=cfg.pass_k.at(0, steps),
    )
    return with_complements(state, cfg)


def resumed_state(saved: ObjectiveState, cfg: ObjectiveConfig, step: int, steps: int) -> ObjectiveState:
    """Return the state `saved` of a run that is resumed after `step` steps, with the schedules of `steps` steps in all.

    A resumed run may have another number of steps, but no other objective.
    """
    rescheduled = {
        name: scheduled(term.coefficient, step, steps) for name, term in cfg.terms.items() if term.coefficient.scheduled
    }
    coefficients = {**saved.coefficients, **rescheduled}
    return with_complements(replace(saved, coefficients=coefficients, pass_k=cfg.pass_k.at(step, steps)), cfg)


def advance(
    state: ObjectiveState, cfg: ObjectiveConfig, stats: Mapping[str, float], *, trajectories: int, step: int, steps: int
) -> ObjectiveState:
    """Return the state for the next step.

    Without a finite KL in `stats` nothing was measured (the learner skipped and counted the step), and what depends on
    it stays unchanged.

    Args:
        stats: mean metrics of the step that ended.
        trajectories: explored trajectories of that step.
        step: number of steps done, of `steps`.
    """
    for name, term in cfg.terms.items():
        if term.coefficient.kind == "safe":
            state = _advance_safe(state, name, term.coefficient, stats)
        elif term.coefficient.kind == "adaptive_fraction":
            state = _advance_fraction(state, name, term.coefficient, stats, step)
        elif term.coefficient.kind == "confidence":
            state = _advance_confidence(state, name, stats)
        else:
            value = _next(state.coefficients[name], term.coefficient, stats, trajectories, step, steps)
            state = replace(state, coefficients={**state.coefficients, name: value})
    return with_complements(replace(state, pass_k=cfg.pass_k.at(step, steps)), cfg)


def with_complements(state: ObjectiveState, cfg: ObjectiveConfig) -> ObjectiveState:
    """Return the state with every coefficient of kind complement set to 1 minus that of its other term."""
    complements = {
        name: 1.0 - state.coefficients[term.coefficient.of]
        for name, term in cfg.terms.items()
        if term.coefficient.kind == "complement"
    }
    return replace(state, coefficients={**state.coefficients, **complements})


def with_rewards(state: ObjectiveState, cfg: ObjectiveConfig, batch: Batch) -> ObjectiveState:
    """Return the state with the moments of all rewards updated by a step's batch, if there is a critic."""
    if cfg.advantage != "critic":
        return state
    return replace(state, rewards=state.rewards.seen(shaped_reward(batch, cfg.overlong)))


def with_mask(state: ObjectiveState, cfg: ObjectiveConfig, batch: Batch) -> ObjectiveState:
    """Return the state with the token mask of the pairs updated by a step's batch, if it is learned."""
    if not cfg.hidden_anchors:
        return state
    coefficient = state.coefficients.get(cfg.pair_term, 0.0)
    return replace(state, mask=learned_mask.trained(state.mask, batch, cfg, coefficient))


def with_recap(state: ObjectiveState, cfg: ObjectiveConfig, batch: Batch, stats: Mapping[str, float]) -> ObjectiveState:
    """Return the state after a step's mean rewards and its replay loss, if RECAP weighs them."""
    if not cfg.recap.window:
        return state
    measured = recap.mean_rewards(batch, cfg)
    if "replay_loss" in stats:
        measured[REPLAY] = stats["replay_loss"]
    values = recap.observed(state.recap, measured, cfg.recap.window)
    coefficients = dict(state.coefficients)
    if cfg.replays:
        coefficients[REPLAY] = cfg.replay_weight * recap.recap_weights(values, cfg.recap).get(REPLAY, 1.0)
    return replace(state, coefficients=coefficients, recap=values)


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
    """Return the coefficient of a schedule: a pure function of the step, so that a resumed run continues it.

    Source: rising linearly: GRPO-D, arXiv:2503.16081; falling: the annealing of KDRL, arXiv:2506.02208.
    """
    over = coefficient.over or steps
    done = min(step / over, 1.0)
    if coefficient.kind == "step":
        done = float(step >= over)
    elif coefficient.kind == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return coefficient.value + (coefficient.final - coefficient.value) * done


def adapted(value: float, coefficient: CoefficientConfig, kl: float | None, trajectories: int) -> float:
    """Return beta (1 + clip(KL / target - 1, -0.2, 0.2) trajectories / horizon).

    Source: Ziegler et al., arXiv:1909.08593, section 2.2. `Config` refuses a horizon that could change the sign.
    """
    if kl is None or not math.isfinite(kl):
        return value
    assert LARGEST_KL_ERROR * trajectories < coefficient.horizon, "the coefficient would change its sign"
    error = min(max(kl / coefficient.target - 1, -LARGEST_KL_ERROR), LARGEST_KL_ERROR)
    return value * (1 + error * trajectories / coefficient.horizon)


def _advance_confidence(state: ObjectiveState, name: str, stats: Mapping[str, float]) -> ObjectiveState:
    confidence = stats.get(term_metric(name, "confidence"), math.nan)
    if not math.isfinite(confidence):
        return state
    return replace(state, coefficients={**state.coefficients, name: confidence})


def _advance_safe(
    state: ObjectiveState, name: str, coefficient: CoefficientConfig, stats: Mapping[str, float]
) -> ObjectiveState:
    found = {"kl": stats.get(KL_PER_TOKEN), "reward": stats.get("reward"), "entropy": stats.get("entropy")}
    known = {key: value for key, value in found.items() if value is not None and math.isfinite(value)}
    if len(known) < len(found):
        return state
    controller = safe.observed(state.safe[name], **known, smoothing=coefficient.smoothing)
    value = coefficient.value * safe.coefficient(controller)
    return replace(state, coefficients={**state.coefficients, name: value}, safe={**state.safe, name: controller})


def _advance_fraction(
    state: ObjectiveState, name: str, coefficient: CoefficientConfig, stats: Mapping[str, float], step: int
) -> ObjectiveState:
    controller = adaptive_fraction.observed(state.fraction[name], stats.get(term_metric(name, "value"), math.nan))
    if step % coefficient.over == 0:
        controller = adaptive_fraction.compared(controller)
    coefficients = {**state.coefficients, name: controller.fraction}
    return replace(state, coefficients=coefficients, fraction={**state.fraction, name: controller})
