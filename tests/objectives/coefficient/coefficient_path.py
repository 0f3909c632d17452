"""Coefficients of a scheduled divergence term, step by step."""

from configs.coefficient import CoefficientConfig
from configs.objective import ObjectiveConfig
from objectives.coefficient.controllers import advance, initial_state
from tests.objectives.ragged_batch import divergence, objective


def scheduled(**choices: object) -> ObjectiveConfig:
    coefficient = CoefficientConfig(**choices)  # type: ignore[arg-type]
    return objective(terms={"divergence": divergence("reverse_kl", estimator="k2", coefficient=coefficient)})


def coefficient_path(cfg: ObjectiveConfig, steps: int, until: int) -> list[float]:
    """Return the coefficient of every step, advanced as in a run."""
    state = initial_state(cfg, steps)
    found = [state.coefficients["divergence"]]
    for step in range(1, until + 1):
        state = advance(state, cfg, {}, trajectories=8, step=step, steps=steps)
        found.append(state.coefficients["divergence"])
    return found
