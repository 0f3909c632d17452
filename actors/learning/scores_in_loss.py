"""Scores of a microbatch for the loss: the policy scores only the trajectories that have a gradient in it.

Axes: N tokens of the microbatch, B trajectories.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from actors.scoring.policy import Policy
from actors.scoring.token_scores import LogitsFunction
from objectives.divergence.anchors import logp_before
from objectives.objective import Scores
from trajectories.batch import Batch


def scores_in_loss(policy: Policy, batch: Batch, functions: Callable[[Batch], dict[str, LogitsFunction]]) -> Scores:
    """Score the trajectories of a microbatch that are in the loss (`Batch.in_loss`).

    The others get the log-probs of `logp_old`, or else of the sampler, and as entropy -log pi, whose mean is the
    entropy, and 0 as values. They have no gradient, and none is lost: their part of the loss has none.

    Args:
        functions: returns the functions of logits that the policy evaluates, for the batch it is given.
    """
    kept = torch.ones_like(batch.route, dtype=torch.bool) if batch.in_loss is None else batch.in_loss
    part = batch if bool(kept.all()) else batch.select(kept.nonzero().flatten().tolist())
    if not kept.any():
        # The forward pass still reaches every parameter, so that their gradients are zeros rather than missing.
        part = batch.select([0])
        part = replace(part, mask=torch.zeros_like(part.mask))
    scored = policy(part, functions(part))
    logp, entropy, exact, values = scored.logp, scored.entropy, scored.extra, scored.values
    if part is not batch:
        rows = kept[batch.seq].nonzero().flatten()
        known = torch.where(batch.mask, logp_before(batch), 0.0)
        if not kept.any():
            known, logp, entropy = known + logp.sum(), logp[:0], entropy[:0]  # the sum is 0, with a gradient
        logp, entropy = known.index_put((rows,), logp), (-known.detach()).index_put((rows,), entropy)
        exact = {
            name: torch.zeros_like(known).index_put((rows,), column[: len(rows)]) for name, column in exact.items()
        }
        if values is not None:
            answers = kept.nonzero().flatten()
            values = values.new_zeros(len(kept), values.shape[-1]).index_put((answers,), values[: len(answers)])
    return Scores(logp=logp, entropy=entropy, log_vocabulary=policy.log_vocabulary, exact=exact, values=values)
