"""Per-token and per-answer weights on the policy-gradient loss: conflict tokens (GTPO), long failures (APO).

All detached. N tokens of the batch, B trajectories.
"""

import torch
from torch import Tensor

from trajectories.batch import Batch, groups_of


def conflict_weights(batch: Batch, advantage: Tensor) -> Tensor:
    """Return GTPO's lambda, float32 [N]: 2 or 4 on conflict tokens of winners, 0 on those of losers, else 1.

    Winners have advantage [B] > 0, losers < 0. A token is in conflict if winners and losers of the group both have
    it at the same position from the start, and all tokens before it are in conflict too; likewise from the end. The
    two factors multiply. Source: arXiv:2508.03772.
    """
    weights = torch.ones(len(batch.tokens))
    generated = batch.on_route("explore").nonzero().squeeze(1)
    rows = generated.split(batch.trained_lengths("explore").tolist())
    for group in groups_of(batch.group):
        members = [i for i in group.tolist() if len(rows[i])]
        for backwards in (False, True):
            answers = {i: rows[i].flip(0) if backwards else rows[i] for i in members}
            positions = {i: list(enumerate(batch.tokens[answers[i]].tolist())) for i in members}
            winners = {place for i in members if advantage[i] > 0 for place in positions[i]}
            losers = {place for i in members if advantage[i] < 0 for place in positions[i]}
            conflict = winners & losers
            for i in members:
                run = next((n for n, place in enumerate(positions[i]) if place not in conflict), len(positions[i]))
                if advantage[i] != 0:
                    weights[answers[i][:run]] *= 2.0 if advantage[i] > 0 else 0.0
    return weights


def long_failure_scale(batch: Batch, base: float) -> Tensor:
    """Return 1 + (1 - b^-n) on wrong answers that are n tokens longer than the mean correct answer of their group.

    It is 1 on all other answers, and in groups without a correct one (reward 1 or more), float32 [B]. Source: STCR of
    APO, arXiv:2506.21655.
    """
    lengths = batch.trained_lengths("explore").float()
    scale = torch.ones(len(batch.group))
    for members in batch.graded_groups():
        right = batch.reward[members] >= 1
        if right.any():
            wrong = members[~right]
            excess = (lengths[wrong] - lengths[members[right]].mean()).clamp(min=0)
            scale[wrong] = 2 - base**-excess
    return scale
