"""The learned token mask of SparsePO: a linear function of a reference's hidden states, trained by the loss of pairs.

The driver trains it. It has D + 1 parameters, and its gradient needs only what the batch holds: hidden states, log u
and the values of the term. N tokens, B trajectories, D hidden. Source: SparsePO, arXiv:2410.05102.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from objectives.advantage.estimators import shaped_reward
from objectives.advantage.pairs import pair_loss, pairs_of
from objectives.divergence.anchors import token_log_u
from objectives.reduce import sum_by_trajectory
from trajectories.batch import Batch
from trajectories.trajectory import COMPARED

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's decays and smallest denominator."""


@dataclass(frozen=True)
class MaskState:
    """Parameters w and b of the mask and their moments in Adam, each [D + 1]; empty before the first update."""

    parameters: tuple[float, ...] = ()
    first: tuple[float, ...] = ()
    second: tuple[float, ...] = ()
    updates: int = 0

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "MaskState":
        """Return the state that `dataclasses.asdict` and JSON stored."""
        columns: dict[str, Sequence[float]] = {name: saved[name] for name in ("parameters", "first", "second")}
        return cls(**{name: tuple(map(float, column)) for name, column in columns.items()}, updates=saved["updates"])

    def tensors(self, width: int) -> Tensor:
        """Return parameters and moments, float32 [3, D + 1]. A mask starts at w = 0 and b = 1, so that it is 1."""
        if not self.parameters:
            start = torch.zeros(3, width + 1)
            start[0, -1] = 1.0
            return start
        return torch.tensor([self.parameters, self.first, self.second])


def learned_mask(batch: Batch, anchor: str, parameters: Tensor) -> Tensor:
    """Return max(0, w h + b) on explored and imitated tokens, float32 [N], with gradient; 0 elsewhere.

    h is the reference's final hidden state that predicts the token.
    """
    tokens = batch.on_route(*COMPARED)
    weights = torch.relu(batch.hidden[anchor][tokens].float() @ parameters[:-1] + parameters[-1])
    return weights.new_zeros(len(batch.tokens)).masked_scatter(tokens, weights)


def mask_loss(parameters: Tensor, batch: Batch, cfg: ObjectiveConfig, coefficient: float) -> Tensor:
    """Return the loss of the pairs under the policy before the step's first update, with the L1 penalty, a scalar.

    Args:
        coefficient: of the term of the pairs.
    """
    mask = learned_mask(batch, cfg.pairs.anchor, parameters)

    def by_answer(column: Tensor) -> Tensor:
        return sum_by_trajectory(column, batch.seq, len(batch.route))

    log_u, norm = by_answer(mask * token_log_u(batch, cfg.pairs.anchors)), by_answer(mask)
    values = torch.zeros_like(log_u)
    if cfg.pair_term:
        values = coefficient * by_answer(mask * batch.distance[cfg.pair_term])
    explored, imitated = batch.trained_lengths("explore"), batch.trained_lengths("imitate")
    solution = imitated > 0 if cfg.imitates else None
    losses = []
    for members, weights in pairs_of(shaped_reward(batch, cfg.overlong), explored + imitated, batch.group, solution):
        own = values[members]
        loss = pair_loss(log_u[members], weights, (explored + imitated)[members], cfg.pairs, own, own)
        norms = ((weights.sum(0) + weights.sum(1)) * norm[members]).sum() / weights.sum()
        losses.append(loss + cfg.pairs.mask_l1 * norms)
    return torch.stack(losses).mean() if losses else parameters.sum() * 0


def trained(state: MaskState, batch: Batch, cfg: ObjectiveConfig, coefficient: float) -> MaskState:
    """Return the state after one update of Adam; unchanged if the gradient is 0 (as without a pair) or not finite."""
    parameters, first, second = state.tensors(batch.hidden[cfg.pairs.anchor].shape[-1])
    with torch.enable_grad():
        leaf = parameters.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(mask_loss(leaf, batch, cfg, coefficient), leaf)
    if not gradient.isfinite().all() or not gradient.any():
        return state
    updates = state.updates + 1
    first = BETA1 * first + (1 - BETA1) * gradient
    second = BETA2 * second + (1 - BETA2) * gradient.square()
    step = first / (1 - BETA1**updates) / ((second / (1 - BETA2**updates)).sqrt() + EPSILON)
    moved = parameters - cfg.pairs.mask_learning_rate * step
    return MaskState(tuple(moved.tolist()), tuple(first.tolist()), tuple(second.tolist()), updates)
