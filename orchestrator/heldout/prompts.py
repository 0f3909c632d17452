"""The held-out prompts of a task, answered at once, and scored by the base."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from actors.contracts import Reference
from configs.config import Config
from configs.heldout import Decoding
from orchestrator.rollout.encoding import Encoder, encode_heldout
from orchestrator.rollout.jobs import jobs_for
from orchestrator.rollout.rollouts import Rollouts
from tasks.source import Source
from trajectories.batch import pack
from trajectories.trajectory import Group, Prompt


@dataclass(frozen=True)
class HeldOut:
    """The held-out prompts of a task, with what is needed to answer them. Every measurement uses the same seeds."""

    cfg: Config
    source: Source
    encode: Encoder
    rollouts: Rollouts
    name: str = ""
    """Name of the task, if it is another than that of the run."""
    count: int = 0
    """Number of prompts; 0: `task.heldout_prompts`."""

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The held-out prompts."""
        return self.source.heldout(self.count or self.cfg.task.heldout_prompts)

    async def answer(self, answers: int, decoding: Decoding, *, first: bool = False) -> list[Group]:
        """Generate and grade `answers` answers to each held-out prompt; one at temperature 0, where all are equal.

        Args:
            first: whether the groups are generated before those of training that wait for a generator.

        Raises:
            ValueError: a held-out prompt has more than `sampling.max_prompt_tokens` tokens.
        """
        prompts = self.prompts
        tokens = encode_heldout(self.encode, prompts, self.cfg.sampling.max_prompt_tokens)
        jobs = jobs_for(
            prompts,
            tokens,
            purpose=f"heldout/{self.name}" if self.name else "heldout",
            run_seed=self.cfg.seed,
            answers=answers if decoding.temperature > 0 else 1,
            **decoding.plain(),
            stop=self.cfg.sampling.stop,
        )
        return await self.rollouts.run(prompts, jobs, first=first, foreign=bool(self.name))


async def score_by_base(groups: Sequence[Group], base: Reference) -> list[Group]:
    """Return the groups with `logp_reference` of the base policy in every trajectory."""
    batch = await asyncio.to_thread(pack, groups)
    # `pack` masks ungraded answers, but the KL to the base includes them.
    generated = np.concatenate([t.mask for group in groups for t in group.trajectories])
    batch = await base.score(replace(batch, mask=torch.from_numpy(generated)))
    assert batch.logp_reference is not None
    logps = iter(batch.logp_reference.split(batch.lengths.tolist()))
    return [
        replace(g, trajectories=tuple(replace(t, logp_reference=next(logps).numpy()) for t in g.trajectories))
        for g in groups
    ]
