"""Measure how far an update has moved the policy, on a few answers of the step, and raise an alert if it is too far.

The KL is that of the policy that sampled the answers to the updated one. It needs no reference: the engine's log-probs
come with the answers, and one more forward pass gives those under the new weights. With `lag=0` it is the size of one
update, and in the first step the KL to the start.
"""

from collections.abc import Callable

import torch

from actors.contracts import Learner
from configs.config import Config
from trajectories.batch import Batch
from trajectories.trajectory import ROUTES

ANSWERS = 32
"""Most answers of a step on which the KL is estimated."""
ONE_OF = 8
"""The KL is estimated on one answer of so many, which costs about a twentieth of the update."""
PROMPTS = 4
"""They answer so many prompts, unless the groups are too small: each prompt is computed, however long it is."""
LIMIT = 5.0
"""KL in nats per answer above which an alert is raised: an answer is then e^5 = 150 times less likely, in the geometric
mean, than when it was sampled."""
LOG_RATIO_LIMIT = 20.0
"""Bound on |log ratio|, which keeps the estimate finite."""


class Drift:
    """Measures the KL of each step's update, `kl_update`.

    Args:
        alert: called with title and text.
    """

    def __init__(self, cfg: Config, learner: Learner, alert: Callable[[str, str], None]) -> None:
        self.learner, self._alert = learner, alert
        self._limit, self._mixed = LIMIT, bool(cfg.sampling.mixed_with)
        terms = " or the coefficients of the divergence terms" if cfg.objective.terms else ""
        self._advice = f"lower learner.learning_rate ({cfg.learner.learning_rate:g}){terms}"
        self._answers: Batch | None = None
        self._measured: dict[str, float] | None = None
        """Result for the answers that are kept; None before it is measured."""

    def keep(self, batch: Batch) -> None:
        """Keep a few explored trajectories of the step's batch, evenly spread over a few prompts."""
        self._measured = None
        explored = (batch.route == ROUTES.index("explore")).nonzero()[:, 0]
        if not len(explored):
            self._answers = None
            return
        group, answers = batch.group[explored], min(ANSWERS, -(-len(explored) // ONE_OF))
        numbers = group.unique()
        prompts = max(PROMPTS, -(-answers * len(numbers) // len(explored)))
        chosen = explored[torch.isin(group, numbers[:: -(-len(numbers) // prompts)])]
        self._answers = batch.select(chosen[:: -(-len(chosen) // answers)].tolist())

    async def measure(self) -> dict[str, float]:
        """Return the KL per token and per answer, in nats, after the update; empty if no answer was kept. It is
        measured once for the answers that are kept.

        Each token's estimate is k3, r - 1 - log r with r = learner / sampler: never negative, and its mean is the KL. A
        token of a mixture is weighed by policy / mixture, and r = learner / policy before the update.
        An alert is raised above LIMIT, and again only where the KL has doubled.
        """
        if self._measured is None:
            self._measured = await self._measure()
        return self._measured

    async def _measure(self) -> dict[str, float]:
        if self._answers is None or not self._answers.mask.any():
            return {}
        scored = await self.learner.score(self._answers)
        assert scored.logp_old is not None
        sampler = scored.logp_sampler
        before = self._answers.logp_old if self._mixed else sampler
        assert before is not None, "the learner scores mixed answers before the update"
        log_ratio = (scored.logp_old - before)[scored.mask].clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
        weight = (before - sampler)[scored.mask].exp()
        total = float((weight * (log_ratio.expm1() - log_ratio)).sum())
        per_token, per_answer = total / len(log_ratio), total / len(scored.route)
        if per_answer > self._limit:
            self._limit = 2 * per_answer
            text = (
                f"the policy moved {per_answer:.2g} nats per answer ({per_token:.2g} per token) from the one that "
                f"sampled this step's answers, above {LIMIT:g}: {self._advice}"
            )
            self._alert("kl_update", text)
        return {"kl_update": per_token, "kl_update_per_trajectory": per_answer}
