"""Gates: which tokens and answers the policy gradient hears, and how loudly. All detached; [N] tokens, [B] answers."""

import torch
from torch import Tensor

from trajectories.batch import Batch


def conflict_weights(batch: Batch, advantage: Tensor) -> Tensor:
    """float32 [N]: GTPO's lambda, arXiv:2508.03772. 2 or 4 on a winner's conflict tokens, 0 on a loser's, else 1.

    A token is in conflict if winners (advantage [B] > 0) and losers (< 0) of the group both have it at its place,
    counted from the start of the answer, and all before it are in conflict too; the same counted from the end. The two
    factors multiply.
    """
    weights = torch.ones(len(batch.tokens))
    generated = batch.on_route("explore").nonzero().squeeze(1)
    rows = generated.split(batch.trained_lengths("explore").tolist())
    for group in batch.group[batch.group >= 0].unique().tolist():
        members = [i for i in (batch.group == group).nonzero().squeeze(1).tolist() if len(rows[i])]
        for backwards in (False, True):
            answers = {i: rows[i].flip(0) if backwards else rows[i] for i in members}
            places = {i: list(enumerate(batch.tokens[answers[i]].tolist())) for i in members}
            winners = {place for i in members if advantage[i] > 0 for place in places[i]}
            losers = {place for i in members if advantage[i] < 0 for place in places[i]}
            shared = winners & losers
            for i in members:
                run = next((n for n, place in enumerate(places[i]) if place not in shared), len(places[i]))
                if advantage[i] != 0:
                    weights[answers[i][:run]] *= 2.0 if advantage[i] > 0 else 0.0
    return weights


def long_failure_scale(batch: Batch, base: float) -> Tensor:
    """float32 [B]: APO's STCR, arXiv:2506.21655. 1 + (1 - b^-n) on wrong answers n tokens longer than the mean of the
    correct ones (reward 1 or more) of their group; 1 elsewhere, and where a group has none correct."""
    lengths = batch.trained_lengths("explore").float()
    scale = torch.ones(len(batch.group))
    for members in batch.graded_groups():
        correct = members & (batch.reward >= 1)
        if correct.any():
            excess = (lengths - lengths[correct].mean()).clamp(min=0)
            wrong = members & ~correct
            scale[wrong] = 2 - base ** -excess[wrong]
    return scale
