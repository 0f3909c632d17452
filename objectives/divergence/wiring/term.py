"""The interface of a wiring: what a divergence term is computed from, and the functions each wiring provides.

`objectives/divergence/words.py` describes the gradient of each in English.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from configs.terms import TermConfig


@dataclass(frozen=True, kw_only=True)
class TermTokens:
    """Inputs of one divergence term: the M trained tokens of its route, in a batch or in a microbatch."""

    cfg: TermConfig
    logp: Tensor
    """float32 [M], nats: log-probs under the current policy, with gradient. In `credit`: `logp_old`."""
    logp_old: Tensor
    """float32 [M], nats: log-probs under the policy that sampled the answers, the denominator of the ratio."""
    logp_anchor: Tensor
    """float32 [M], nats: log-probs under the anchor."""
    seq: Tensor
    """int64 [M], ascending: the trajectory of each token."""
    weights: Tensor
    """float32 [M], detached: per-token weights of the term."""
    reduction: Tensor
    """float32 [M]: weights of the loss aggregation. Their denominators are those of the whole batch."""
    trajectories: int
    """B: number of trajectories in this batch or microbatch, those of other routes included."""
    total_trajectories: int
    """Number of trajectories of the term's route in the whole batch."""
    factor: float = 1.0
    """Factor on the loss that only the whole batch determines."""
    exact: Tensor | None = None
    """float32 [M] of a term that reads whole distributions: its value at each token, with gradient, or its
    potential."""

    def mean(self, values: Tensor) -> Tensor:
        """Return this part of the loss: sum of reduction * weights * values over the tokens, times the factor."""
        return self.factor * (self.reduction * self.weights * values).sum()


@dataclass(frozen=True, kw_only=True)
class Wiring:
    """How a divergence term enters the objective. A function that is None contributes nothing."""

    values: Callable[[TermTokens], Tensor]
    """Return the logged values [M] or [B], detached."""
    loss: Callable[[TermTokens], Tensor] | None = None
    """Return this part of the term's loss: a scalar with gradient."""
    credited_penalty: Callable[[TermTokens], Tensor] | None = None
    """Return what one unit of the coefficient subtracts from the advantage [M], once per step."""
    current_penalty: Callable[[TermTokens], Tensor] | None = None
    """Return what one unit of the coefficient subtracts from the advantage [M], under the current policy; detached."""
    factor: Callable[[TermTokens], float] | None = None
    """Return the factor on the loss, once per step, from the whole batch."""
