"""Weights of the tokens of an answer in a preference loss: MaPO."""

import math

import torch
from torch import Tensor

from trajectories.batch import Batch


def activation_mask(batch: Batch, anchor: str) -> Tensor:
    """Return (a - min a) / (max a - min a) on explored and imitated tokens, float32 [N]; 0 elsewhere.

    a is the mean over D of the reference's final hidden state that predicts the token, min and max are those of the
    token's answer. Where all of an answer are equal, so on every answer of one token, it is 1. A z-score before this
    mapping would not change it. Source: MaPO of SparsePO, arXiv:2410.05102, and its official code.
    """
    tokens = batch.on_route("explore") | batch.on_route("imitate")
    seq, activation = batch.seq[tokens], batch.hidden[anchor][tokens].float().mean(-1)
    low, high = (
        torch.full((len(batch.route),), start).scatter_reduce(0, seq, activation, reduction)[seq]
        for reduction, start in (("amin", math.inf), ("amax", -math.inf))
    )
    weights = torch.where(high > low, (activation - low) / (high - low), 1.0)
    return torch.zeros(len(batch.tokens)).masked_scatter(tokens, weights)
