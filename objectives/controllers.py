"""Coefficient controllers: small explicit states, advanced once per step on the driver from reduced scalars."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from configs.objective_schema import ObjectiveConfig

KL_PER_TRAJECTORY = "kl_reference_per_trajectory"
"""Mean over explored trajectories of log pi_old - log pi_reference summed over their tokens, in nats."""
ERROR_LIMIT = 0.2
"""Bound on the proportional error of one step."""


@dataclass(frozen=True)
class ObjectiveState:
    """What the objective remembers from step to step; `dataclasses.asdict` makes it JSON."""

    coefficient: float
    """Weight of the divergence."""


def initial_state(cfg: ObjectiveConfig) -> ObjectiveState:
    return ObjectiveState(coefficient=cfg.divergence.coefficient.value)


def advance(
    state: ObjectiveState, cfg: ObjectiveConfig, stats: Mapping[str, float], trajectories: int
) -> ObjectiveState:
    """The state after a step of so many `trajectories`, from the step's mean metrics.

    Adaptive: beta <- beta (1 + clip(KL / target - 1, -0.2, 0.2) trajectories / horizon), Ziegler et al.,
    arXiv:1909.08593, section 2.2. Without a finite KL in `stats` nothing was measured (the learner skips and counts
    such a step) and the state stays. Raises ValueError when the horizon is so short that the coefficient could change
    sign.
    """
    coefficient = cfg.divergence.coefficient
    kl = stats.get(KL_PER_TRAJECTORY)
    if coefficient.kind == "constant" or kl is None or not math.isfinite(kl):
        return state
    if ERROR_LIMIT * trajectories >= coefficient.horizon:
        raise ValueError(
            "objective.divergence.coefficient.horizon: must be above "
            f"{ERROR_LIMIT} * {trajectories} trajectories per step, got {coefficient.horizon}"
        )
    error = min(max(kl / coefficient.target - 1, -ERROR_LIMIT), ERROR_LIMIT)
    return ObjectiveState(coefficient=state.coefficient * (1 + error * trajectories / coefficient.horizon))
