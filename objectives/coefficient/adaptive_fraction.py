"""Adaptive fraction of student-generated answers in the distillation loss (DistiLLM, arXiv:2402.03898, section 3.2)."""

import math
from dataclasses import dataclass, replace

RISE = 0.1
"""If the loss has risen by at least this many nats per token, the fraction is raised by the same number."""


@dataclass(frozen=True)
class FractionState:
    """State of the controller; `dataclasses.asdict` makes it JSON."""

    fraction: float
    """phi, in [0, 1]."""
    loss: float | None = None
    """Mean loss when the fraction last rose, or at the first comparison; None before it."""
    total: float = 0.0
    """Sum of the losses since the last comparison."""
    count: int = 0
    """Number of these losses."""


def observed(state: FractionState, loss: float) -> FractionState:
    """Return the state after a step with this loss; a loss that is not finite was not measured and is ignored."""
    if not math.isfinite(loss):
        return state
    return replace(state, total=state.total + loss, count=state.count + 1)


def compared(state: FractionState) -> FractionState:
    """Compare the mean loss since the last comparison with the stored one; raise the fraction by 0.1, up to 1, if the
    loss has risen by 0.1."""
    if not state.count:
        return state
    loss = state.total / state.count
    if state.loss is None:
        return FractionState(fraction=state.fraction, loss=loss)
    if loss < state.loss + RISE:
        return FractionState(fraction=state.fraction, loss=state.loss)
    return FractionState(fraction=min(state.fraction + RISE, 1.0), loss=loss)
