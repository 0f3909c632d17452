"""What a step computed for the tokens of its explored answers: advantage, entropy, and log-probs of two policies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from actors.contracts import Learner
from trajectories.batch import Batch
from trajectories.trajectory import ROUTES, Trajectory


@dataclass(frozen=True)
class Signals:
    """Values of the tokens of a step's explored answers, of which it keeps only references to tensors."""

    starts: Tensor
    """int64 [explored answers]: position in [N] of their first token, in the order of groups and samples."""
    trained: Tensor
    """bool [N]: the tokens that the other fields have a value for."""
    advantage: Tensor | None
    """float32 [N]"""
    entropy: Tensor | None
    """float32 [N], nats; NaN where the learner did not score."""
    logp_learner: Tensor | None
    """float32 [N], nats, with the weights before the step's first update; NaN where the learner did not score."""
    logp_reference: Tensor | None
    """float32 [N], nats."""

    @staticmethod
    def of(batch: Batch) -> "Signals":
        explored = batch.route == ROUTES.index("explore")
        return Signals(
            batch.starts[explored],
            batch.mask,
            batch.advantage,
            batch.entropy_old,
            batch.logp_old,
            batch.logp_reference,
        )

    def tokens(self, number: int, trajectory: Trajectory) -> dict[str, np.ndarray]:
        """Return the values of the explored answer `number`, float32 [T] each, NaN where there is none.

        `divergence` is the log-ratio of sampler and reference, and `mismatch` that of learner and sampler, in nats.
        A value that the step did not compute is left out.
        """
        start = int(self.starts[number])
        part = slice(start, start + len(trajectory.tokens))
        trained, sampler = self.trained[part].cpu().numpy() & trajectory.mask, trajectory.logp_sampler

        def column(values: Tensor | None) -> np.ndarray | None:
            return None if values is None else np.where(trained, values[part].float().cpu().numpy(), np.nan)

        learner, reference = column(self.logp_learner), column(self.logp_reference)
        found = {
            "advantage": column(self.advantage),
            "entropy": column(self.entropy),
            "logp_learner": learner,
            "mismatch": None if learner is None else learner - sampler,
            "divergence": None if reference is None else sampler - reference,
        }
        return {name: values for name, values in found.items() if values is not None and not np.isnan(values).all()}

    def row(self, number: int, trajectory: Trajectory) -> dict[str, float | None]:
        """Return signals of the whole answer `number`; None where the step did not compute one.

        `advantage` and `entropy` (nats) are means over its tokens. `divergence` is its KL to the reference in nats, the
        sum over its tokens of `logp_sampler - logp_reference`.
        """
        values = self.tokens(number, trajectory)
        reduced: dict[str, Callable[[np.ndarray], float]]
        reduced = {"advantage": np.nanmean, "entropy": np.nanmean, "divergence": np.nansum}
        return {name: float(reduce(values[name])) if name in values else None for name, reduce in reduced.items()}


async def signals_of(batch: Batch, learner: Learner, sampled: Callable[[int], Sequence[int]]) -> Signals:
    """Return the signals of a batch before its update. Without `logp_old`, the learner scores a few answers for them.

    Args:
        sampled: returns, of so many explored answers, the numbers of those that are to have entropy and the learner's
            log-probs.
    """
    explored = (batch.route == ROUTES.index("explore")).nonzero()[:, 0]
    chosen = sampled(len(explored)) if batch.logp_old is None else []
    if not chosen:
        return Signals.of(batch)
    rows = explored[list(chosen)].tolist()
    scored, positions = await learner.score(batch.select(rows)), batch.token_rows(rows)
    assert scored.logp_old is not None and scored.entropy_old is not None, "the learner scores every token"
    missing = torch.full_like(batch.logp_sampler, torch.nan)
    return Signals.of(
        replace(
            batch,
            logp_old=missing.index_put((positions,), scored.logp_old),
            entropy_old=missing.index_put((positions,), scored.entropy_old),
        )
    )
