"""How much is learned from the student's own answers: DistiLLM's adaptive share, arXiv:2402.03898, section 3.2."""

import math
from dataclasses import dataclass, replace

RISE = 0.1
"""Nats per token by which the loss has to rise before the share does; and what the share then rises by."""


@dataclass(frozen=True)
class ShareState:
    """What the controller remembers. JSON after `dataclasses.asdict`."""

    share: float
    """phi, in [0, 1]."""
    loss: float | None = None
    """The loss when the share last rose, or at the first look; None before it."""
    total: float = 0.0
    """Sum of the losses since the last look."""
    seen: int = 0
    """Their number."""


def observed(state: ShareState, loss: float) -> ShareState:
    """The state after a step with this loss; one that is not finite was not measured and does not count."""
    if not math.isfinite(loss):
        return state
    return replace(state, total=state.total + loss, seen=state.seen + 1)


def looked(state: ShareState) -> ShareState:
    """The state after a look at the mean loss since the last one: 0.1 more, to at most 1, where it has risen by 0.1."""
    if not state.seen:
        return state
    loss = state.total / state.seen
    if state.loss is None:
        return ShareState(share=state.share, loss=loss)
    if loss < state.loss + RISE:
        return ShareState(share=state.share, loss=state.loss)
    return ShareState(share=min(state.share + RISE, 1.0), loss=loss)
