"""What the driver computes for a step of many tokens: its time, its growth with the batch, and how long it blocks."""

import asyncio
import pickle
import time
from typing import Any

import numpy as np
import torch

from actors.remote import Handle
from actors.remote_learner import RemoteLearner
from benchmarks.speed.batches import make_groups
from benchmarks.speed.heartbeat import Heartbeat
from benchmarks.speed.plan import Plan
from benchmarks.speed.result import Row
from configs.config import Config
from configs.load import load
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from trajectories.arrays import ArrayOf, to_arrays
from trajectories.batch import pack
from trajectories.split import Microbatches
from trajectories.trajectory import Group

RANKS = 4
TOKENS = 4_000_000
PROMPT, LONGEST = 200, 4_096
"""Tokens of a prompt, and of the longest answer."""
LINEAR_WIDTH = 20_000.0
"""Of a 7B policy, about: prefixes are shared in rows of several answers."""


class Rank(Handle):
    """In place of a learner rank: takes what it is sent, and returns zeros."""

    def __init__(self) -> None:
        pass

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        assert method == "linear_width", method
        return LINEAR_WIDTH

    async def call_stored(self, method: str, value: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(_scores if method == "score" else _received, value)


def _received(value: Any) -> dict[str, Any]:
    """Copy the bytes of a message, as Ray does into its object store. Return no metrics."""
    beside: list[pickle.PickleBuffer] = []
    pickle.dumps(value, protocol=5, buffer_callback=beside.append)
    assert sum(len(bytes(buffer)) for buffer in beside)
    return {}


def _scores(part: Microbatches) -> dict[str, ArrayOf]:
    _received(part)
    return to_arrays({name: torch.zeros(len(part.batch.tokens)) for name in ("logp_old", "entropy_old")})


def settings() -> Config:
    """Return the settings of a large run on GPUs, as far as the driver's work depends on them."""
    return load(["scale=cpu", "method=grpo", "learner.token_budget=16384"])


def groups_of(tokens: int) -> list[Group]:
    """Return groups of 16 answers with at least so many tokens together."""
    draw = np.random.default_rng(0)
    prompts: list[list[int]] = []
    lengths: list[list[int]] = []
    while sum(map(sum, lengths)) + 16 * PROMPT * len(prompts) < tokens:
        prompts.append(draw.integers(2, 258, size=PROMPT).tolist())
        lengths.append(np.clip(draw.lognormal(np.log(LONGEST / 5), 0.8, size=16), 1, LONGEST).astype(int).tolist())
    return make_groups(prompts, lengths)


async def _step(groups: list[Group], cfg: Config) -> tuple[float, float]:
    """Do what the driver does in a step. Return the seconds of an update, and the largest lag of the event loop."""
    ranks = [Rank() for _ in range(RANKS)]
    learner = RemoteLearner(
        ranks, cfg.learner, transfer="host", tensor_parallel=1, checksum=False, publish_timeout_s=60.0
    )
    async with Heartbeat() as heartbeat:
        batch = await learner.score(await asyncio.to_thread(pack, groups))
        batch = await asyncio.to_thread(credit, batch, cfg.objective, initial_state(cfg.objective, cfg.steps))
        start = time.perf_counter()
        await learner.update(batch, {})
        seconds = time.perf_counter() - start
    return seconds, heartbeat.largest_lag_s


def measure(plan: Plan) -> list[Row]:
    """Measure the planning of a small and of a large batch in turns."""
    torch.set_num_threads(1)
    cfg, tokens = settings(), TOKENS // 100 if plan.quick else TOKENS
    small, large = groups_of(tokens // 4), groups_of(tokens)
    asyncio.run(_step(small, cfg))  # the first one imports and allocates
    of_small, of_large, lags = [], [], []
    for _ in range(plan.rounds):
        of_small.append(asyncio.run(_step(small, cfg))[0])
        seconds, lag = asyncio.run(_step(large, cfg))
        of_large.append(seconds)
        lags.append(lag)
    size = f"{tokens / 1e6:g}M tokens, {RANKS} learner ranks"
    return [
        Row(
            name="planning/seconds",
            title=f"planning an update on the driver, {size}",
            unit="s",
            ours=tuple(of_large),
            higher_is_better=False,
            goal=1.0,
            note="without the ranks' work and Ray; one thread",
        ),
        Row(
            name="planning/growth",
            title=f"planning an update, {size}",
            unit="s",
            ours=tuple(of_large),
            other_name="4 x that of a quarter of the batch",
            other=tuple(4 * seconds for seconds in of_small),
            higher_is_better=False,
            goal=1.5,
        ),
        Row(
            name="planning/heartbeat",
            title=f"largest lag of the driver's event loop in a step, {size}",
            unit="s",
            ours=tuple(lags),
            higher_is_better=False,
            goal=1.0,
            note="pack, scores before the update, credit and update, without the ranks' work",
        ),
    ]
