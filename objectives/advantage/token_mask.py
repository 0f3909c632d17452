"""Weights of the tokens of an answer in a preference loss: SparsePO and MaPO."""

import math

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from objectives.advantage.learned_mask import MaskState, learned_mask
from trajectories.batch import Batch
from trajectories.trajectory import COMPARED


def pair_mask(batch: Batch, cfg: ObjectiveConfig, state: MaskState) -> Tensor | None:
    """Return the weights of explored and imitated tokens, float32 [N], 0 elsewhere; None without `pairs.mask`."""
    if not cfg.masks_pairs:
        return None
    if cfg.pairs.mask == "activations":
        return activation_mask(batch, cfg.pairs.anchor)
    return learned_mask(batch, cfg.pairs.anchor, state.tensors(batch.hidden[cfg.pairs.anchor].shape[-1])[0])


def mask_metrics(batch: Batch, cfg: ObjectiveConfig, state: MaskState) -> dict[str, float]:
    """Return the mean of the mask over explored tokens, and the fraction that it does not set to 0; empty without."""
    mask, explored = pair_mask(batch, cfg, state), batch.on_route("explore")
    if mask is None or not explored.any():
        return {}
    return {"mask/mean": float(mask[explored].mean()), "mask/kept": float((mask[explored] > 0).float().mean())}


def activation_mask(batch: Batch, anchor: str) -> Tensor:
    """Return (a - min a) / (max a - min a) on explored and imitated tokens, float32 [N]; 0 elsewhere.

    a is the mean over D of the reference's final hidden state that predicts the token, min and max are those of the
    token's answer. Where all of an answer are equal, so on every answer of one token, it is 1. A z-score before this
    mapping would not change it. Source: MaPO of SparsePO, arXiv:2410.05102, and its official code.
    """
    tokens = batch.on_route(*COMPARED)
    seq, activation = batch.seq[tokens], batch.activation[anchor][tokens]
    low, high = (
        torch.full((len(batch.route),), start).scatter_reduce(0, seq, activation, reduction)[seq]
        for reduction, start in (("amin", math.inf), ("amax", -math.inf))
    )
    weights = torch.where(high > low, (activation - low) / (high - low), 1.0)
    return torch.zeros(len(batch.tokens)).masked_scatter(tokens, weights)
