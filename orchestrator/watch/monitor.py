"""The breadth monitor: measure Pass@k on the held-out prompts and compare it with the base policy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from actors.contracts import Reference
from configs.config import Config
from orchestrator.rollout.encoding import Encoder
from orchestrator.rollout.rollouts import Rollouts, jobs_for
from orchestrator.watch.logbook import measurement_path
from orchestrator.watch.passk import Interval, Measurement, measure, summary
from tasks.source import Source
from trajectories.batch import pack
from trajectories.trajectory import Group


@dataclass(frozen=True)
class HeldOut:
    """The held-out prompts of a task, with what is needed to answer them. Every measurement uses the same seeds."""

    cfg: Config
    source: Source
    encode: Encoder
    rollouts: Rollouts

    async def answer(self, answers: int, temperature: float) -> list[Group]:
        """Generate and grade `answers` answers to each held-out prompt.

        Raises:
            ValueError: a held-out prompt has more than `sampling.max_prompt_tokens` tokens.
        """
        prompts = self.source.heldout(self.cfg.task.heldout_prompts)
        tokens = [self.encode(prompt.text) for prompt in prompts]
        longest = max(len(row) for row in tokens)
        if longest > self.cfg.sampling.max_prompt_tokens:
            raise ValueError(
                f"sampling.max_prompt_tokens: must be at least the longest held-out prompt ({longest} tokens), "
                f"got {self.cfg.sampling.max_prompt_tokens}"
            )
        jobs = jobs_for(
            prompts,
            tokens,
            purpose="heldout",
            run_seed=self.cfg.seed,
            answers=answers,
            temperature=temperature,
            max_new_tokens=self.cfg.sampling.max_new_tokens,
        )
        return await self.rollouts.run(prompts, jobs)


async def score_by_base(groups: Sequence[Group], base: Reference) -> list[Group]:
    """Return the groups with `logp_reference` of the base policy in every trajectory."""
    batch = pack(groups)
    # `pack` masks ungraded answers, but the KL to the base includes them.
    generated = np.concatenate([t.mask for group in groups for t in group.trajectories])
    batch = await base.score(replace(batch, mask=torch.from_numpy(generated)))
    assert batch.logp_reference is not None
    logps = iter(batch.logp_reference.split(batch.lengths.tolist()))
    return [
        replace(g, trajectories=tuple(replace(t, logp_reference=next(logps).numpy()) for t in g.trajectories))
        for g in groups
    ]


class Monitor:
    """Measure the weights that the generators hold now, on the held-out prompts."""

    def __init__(self, heldout: HeldOut, base_scorer: Reference | None, run_dir: Path) -> None:
        self.heldout, self.base_scorer, self.run_dir = heldout, base_scorer, run_dir
        self.cfg = heldout.cfg.monitor
        self.ungraded: list[Group] = []
        """Groups of the last measurement with an answer that could not be graded."""

    async def measure(self, step: int) -> tuple[dict[str, Interval], Measurement]:
        """Measure the policy at `step` and compare it with the measurement of step 0, the base.

        Returns:
            The monitored values with their intervals, and the measurement they come from.
        """
        groups = await self.heldout.answer(self.cfg.answers, self.heldout.cfg.sampling.temperature)
        self.ungraded = [group for group in groups if any(t.reward is None for t in group.trajectories)]
        if self.base_scorer is not None:
            groups = await score_by_base(groups, self.base_scorer)
        measurement = measure(groups, f"step {step}", step)
        base = measurement if step == 0 else self._base()
        return summary(measurement, self.cfg.ks, base), measurement

    def _base(self) -> Measurement | None:
        path = measurement_path(self.run_dir, 0)
        return Measurement.from_json(path.read_text()) if path.is_file() else None
