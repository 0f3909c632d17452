"""Publication: time until vLLM serves new weights of the learner, beside a memory copy of the same bytes."""

import asyncio
import time
from functools import partial

import numpy as np

from benchmarks.speed.plan import COUNTDOWN, IN_PROCESS, VLLM, Plan
from benchmarks.speed.policies import parameter_bytes, random_policy
from benchmarks.speed.result import Row
from benchmarks.speed.rows.learner import seconds, settings
from orchestrator import cluster

COPIES = 1.5
FIXED_MS = 5.0
"""The goal is COPIES times the copy plus FIXED_MS."""


def measure(plan: Plan) -> list[Row]:
    """Measure one size after the other; publications and copies of one size take turns."""
    sizes = ("0.36M",) if plan.quick else ("0.36M", "10M", "100M")
    return [asyncio.run(_measure(plan, size)) for size in sizes]


async def _measure(plan: Plan, size: str) -> Row:
    policy = COUNTDOWN if size == "0.36M" else random_policy(size, plan.policies)
    cfg = settings(*(IN_PROCESS if plan.quick else VLLM), f"policy.path={policy}")
    source = np.ones(parameter_bytes(policy), np.uint8)
    target = np.zeros_like(source)
    roles = await cluster.start(cfg, ["learner", "generator"])
    learner = roles.learner
    assert learner is not None
    ours, other, copies = [], [], []
    try:
        await learner.connect(roles.generators)
        for version in range(3 * plan.rounds + 2):
            published_ms = 1000 * await seconds(partial(learner.publish, version))
            start = time.perf_counter()
            np.copyto(target, source)
            copied_ms = 1000 * (time.perf_counter() - start)
            if version > 1:  # the first ones prepare buffers
                ours.append(published_ms)
                copies.append(copied_ms)
                other.append(COPIES * copied_ms + FIXED_MS)
    finally:
        await roles.close()
    return Row(
        name=f"publication/{size}",
        title=f"publication of {size} parameters, float32",
        unit="ms",
        ours=tuple(ours),
        other_name=f"{COPIES} x memory copy + {FIXED_MS:.0f} ms",
        other=tuple(other),
        higher_is_better=False,
        goal=1.0,
        note=f"memory copy of {len(source) / 1e6:.1f} MB: {sorted(copies)[len(copies) // 2]:.1f} ms",
    )
