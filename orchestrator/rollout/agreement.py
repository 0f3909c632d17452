"""Check the first publication: compare the log-probs of the generators with those of the learner, or with their own."""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from configs.config import Config
from orchestrator.preflight.prompts import FIRST
from orchestrator.rollout.encoding import Encoder
from orchestrator.rollout.jobs import jobs_for
from orchestrator.rollout.rollouts import Rollouts
from tasks.source import Source
from trajectories.batch import Batch, pack
from trajectories.trajectory import Prompt

ANSWERS = 4
"""Answers per generator."""
FIRST_TOKENS = 16
"""Answers of which `check_same_policy` compares the first token."""
MOST_TOKENS = 32
"""Longest answer, in tokens."""
LARGEST_DIFFERENCE = {"float32": 0.02, "bfloat16": 0.3}
"""Largest mean absolute difference of a token's log-prob, in nats, by `policy.dtype`. Other kernels round differently,
which gives about 1e-5 in float32 and a few hundredths in bfloat16; missing weights give far more than these bounds."""


async def check_agreement(
    cfg: Config, source: Source, encode: Encoder, rollouts: Rollouts, score: Callable[[Batch], Awaitable[Batch]]
) -> None:
    """Sample answers to one prompt per generator, and compare their log-probs with the learner's.

    The generators hold no weights but the published ones (`VllmEngine.start_update`), so a tensor that was published
    under a wrong name, or not at all, shows here.

    Args:
        score: adds the learner's log-probs, as `logp_old`, to a batch.

    Raises:
        ValueError: a generator's log-probs differ by more than rounding.
    """
    candidates = ((prompt, encode(prompt)) for prompt in map(source.prompt, range(FIRST)))
    short = ((p, tokens) for p, tokens in candidates if len(tokens) <= cfg.sampling.max_prompt_tokens)
    chosen = list(islice(short, len(rollouts.generators)))
    assert chosen, "`preflight.prompts` refuses a run whose first prompts are all too long"
    prompts, tokens = zip(*chosen, strict=True)
    jobs = jobs_for(
        prompts,
        tokens,
        purpose="agreement",
        run_seed=cfg.seed,
        answers=ANSWERS,
        temperature=cfg.sampling.temperature,
        max_new_tokens=min(MOST_TOKENS, cfg.sampling.max_new_tokens),
    )
    groups = await rollouts.run(prompts, jobs)
    generated = torch.from_numpy(np.concatenate([t.mask for group in groups for t in group.trajectories]))
    batch = await score(replace(pack(groups), mask=generated))  # `pack` masks answers that could not be graded
    assert batch.logp_old is not None
    bound = LARGEST_DIFFERENCE[cfg.policy.dtype]
    for number in range(len(groups)):  # the rollouts give each generator one group
        rows = generated & (batch.group[batch.seq] == number)
        sampler, learner = batch.logp_sampler[rows].double(), batch.logp_old[rows].double()
        difference = float((sampler - learner).abs().mean())
        if not difference <= bound:  # NaN is refused too
            raise ValueError(
                f"policy.path: log-probs of generators and learner must differ by at most {bound} nats per token after "
                f"the weights are published, got {difference:.3g}: on average {float(sampler.mean()):.3f} by the "
                f"generator and {float(learner.mean()):.3f} by the learner, over {len(sampler)} tokens. "
                f"generator.engine={cfg.generator.engine} does not compute what the learner computes for this model"
            )


async def first_tokens(cfg: Config, prompt: Prompt, encode: Encoder, rollouts: Rollouts) -> list[tuple[int, float]]:
    """Return token and log-prob of the first token of answers to one prompt, with the same seeds at every call."""
    [job] = jobs_for(
        [prompt],
        [encode(prompt)],
        purpose="agreement",
        run_seed=cfg.seed,
        answers=FIRST_TOKENS,
        temperature=cfg.sampling.temperature,
        max_new_tokens=1,
    )
    [group] = await rollouts.run([prompt], [job])
    return [(int(t.tokens[-1]), float(t.logp_sampler[-1])) for t in group.trajectories]


def check_same_policy(
    cfg: Config, before: Sequence[tuple[int, float]], after: Sequence[tuple[int, float]], path: str
) -> None:
    """Check that an engine samples the same first tokens from weights it was started with and from the same weights,
    published.

    Raises:
        ValueError: most tokens differ, or a log-prob differs by more than rounding.
    """
    bound = LARGEST_DIFFERENCE[cfg.policy.dtype]
    same = [(one, other) for (t, one), (u, other) in zip(before, after, strict=True) if t == u]
    difference = max((abs(one - other) for one, other in same), default=math.inf)
    if len(same) < len(before) / 2 or not difference <= bound:
        raise ValueError(
            f"evaluate.checkpoints: publishing the weights of a policy must not change it, got {path!r}, of whose "
            f"{len(before)} first tokens {len(same)} are the same before and after, with log-probs up to "
            f"{difference:.3g} nats apart (allowed are {bound})"
        )
