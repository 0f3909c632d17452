"""The gradient of the loss of TDPO and MaPO, written as in their papers, against that of the presets."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from objectives.reduce import sum_by_trajectory
from tests.objectives.equal_objectives import on_policy
from tests.objectives.random_answers import batch_for, credited, run, scores_of, weights
from trajectories.batch import Batch

COEFFICIENT = 0.8
"""Of the exact KL in an answer's score."""


def assert_gradient_is_that_of_the_loss(cfg: ObjectiveConfig, mask_of: Callable[[Batch], Tensor | float]) -> None:
    """Compare the gradient of a preset with that of -log sigmoid(beta (score of a winner - score of a loser)), in the
    mean over pairs and then over groups. The score of an answer is the masked sum of its log u and of its KL.

    Args:
        mask_of: returns the weights of the tokens of a batch, float32 [N], or one for all.
    """
    policy, beta = weights(), cfg.pairs.beta
    batch = on_policy(batch_for(cfg))
    explored, mask = batch.on_route("explore"), mask_of(batch)

    def by_answer(column: Tensor) -> Tensor:
        return sum_by_trajectory((column * mask)[explored], batch.seq[explored], len(batch.route))

    scored = scores_of(policy, batch, cfg)
    batch = replace(batch, distance={"divergence": scored.exact["divergence"].detach()})
    assert batch.logp_reference is not None
    log_u, kl = by_answer(scored.logp - batch.logp_reference), by_answer(scored.exact["divergence"])
    won = log_u + COEFFICIENT * (kl if cfg.pairs.term_on == "both" else kl.detach())
    lost = log_u + COEFFICIENT * kl
    groups = []
    for members in batch.graded_groups():
        rows = members.tolist()
        found = [
            -torch.nn.functional.logsigmoid(beta * (won[w] - lost[i]))
            for w, i in permutations(rows, 2)
            if batch.reward[w] > batch.reward[i]
        ]
        groups += [torch.stack(found).mean()] if found else []
    (expected,) = torch.autograd.grad(torch.stack(groups).mean(), policy)
    got = run(policy, [credited(batch, cfg, COEFFICIENT)], cfg, COEFFICIENT)[1]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-3
