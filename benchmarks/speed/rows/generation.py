"""Generation through the generator actor, with every answer graded, beside bare vLLM and beside two generators."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.plan import IN_PROCESS, ROOT, VLLM, Plan
from benchmarks.speed.result import Row
from benchmarks.speed.rows.learner import settings
from configs.config import Config
from orchestrator import cluster
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.rollout.jobs import jobs_for
from orchestrator.rollout.rollouts import Rollouts
from tasks.registry import build
from trajectories.trajectory import Prompt

BURST = 48
"""Prompts of one burst."""
WAIT_S = 180.0
"""Longest wait for the bare engine."""


class Engine:
    """A started generator and grader, used in bursts."""

    def __init__(self, cfg: Config, roles: cluster.Roles, rollouts: Rollouts) -> None:
        self.cfg, self.roles, self.rollouts = cfg, roles, rollouts

    async def rate(self, prompts: Sequence[Prompt], tokens: Sequence[list[int]]) -> float:
        """Return generated tokens per second of one burst, with all its answers graded."""
        jobs = jobs_for(
            prompts,
            tokens,
            purpose="train",
            run_seed=self.cfg.seed,
            answers=self.cfg.sampling.group_size,
            temperature=1.0,
            max_new_tokens=self.cfg.sampling.max_new_tokens,
        )
        start = time.perf_counter()
        groups = await self.rollouts.run(prompts, jobs)
        took = time.perf_counter() - start
        return sum(t.answer_length for group in groups for t in group.trajectories) / took


async def started(cfg: Config) -> Engine:
    """Start generators and graders."""
    roles = await cluster.start(cfg, ["generator", "grader"])
    await asyncio.gather(*(grader.prove(["countdown"]) for grader in roles.graders))
    rollouts = Rollouts(roles.generators, roles.graders, cfg.generator.timeout_s)
    return Engine(cfg, roles, await rollouts.__aenter__())


class BareVllm:
    """`peers.bare_vllm` in a process of its own."""

    def __init__(self, cfg: Config, log: Path) -> None:
        values = {
            "policy": cfg.policy.path,
            "answers": cfg.sampling.group_size,
            "new_tokens": cfg.sampling.max_new_tokens,
            "max_length": cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens,
            "max_sequences": cfg.generator.max_sequences,
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.speed.peers.bare_vllm", json.dumps(values)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self._answer()

    def rate(self, tokens: Sequence[list[int]], seed: int) -> float:
        """Return generated tokens per second of one burst."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompts": list(tokens), "seed": seed}) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        return float(answer["tokens"] / answer["seconds"])

    def _answer(self) -> dict[str, Any]:
        """Return the next line of the process. After WAIT_S the process is killed, which ends the wait."""
        assert self.process.stdout is not None
        watchdog = threading.Timer(WAIT_S, self.process.kill)
        watchdog.start()
        try:
            line = self.process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, f"bare vLLM ended with status {self.process.wait(10)}"
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)


def measure(plan: Plan) -> list[Row]:
    """Measure bursts of the same prompts, in turns."""
    return asyncio.run(_measure(plan))


async def _measure(plan: Plan) -> list[Row]:
    share = (*VLLM, "placement.cpus_per_generator=0.5", "placement.threads_per_generator=1")
    place = IN_PROCESS if plan.quick else share
    cfgs = [settings(*place, f"placement.generators={n}") for n in (1, 2)]
    engines = [await started(cfg) for cfg in cfgs]
    bare = None if plan.quick else BareVllm(cfgs[0], plan.folder / "logs" / "bare_vllm.log")
    rates: dict[str, list[float]] = {"one": [], "two": [], "bare": []}
    try:
        for number, (prompts, tokens) in enumerate(_bursts(cfgs[0], 2 * plan.rounds + 1, 4 if plan.quick else BURST)):
            found = {"one": await engines[0].rate(prompts, tokens), "two": await engines[1].rate(prompts, tokens)}
            found |= {"bare": bare.rate(tokens, number)} if bare else {}
            if number:  # the first burst fills caches
                for name, rate in found.items():
                    rates[name].append(rate)
    finally:
        for engine in engines:
            await engine.rollouts.__aexit__(None, None, None)
            await engine.roles.close()
        if bare:
            bare.close()
    return _rows({name: tuple(values) for name, values in rates.items()}, cfgs[0])


def _bursts(cfg: Config, count: int, size: int) -> list[tuple[list[Prompt], list[list[int]]]]:
    """Return prompts and their tokens for each burst; no prompt is in two."""
    source, encode = build(cfg.task, cfg.seed), PromptEncoder(cfg.policy)
    bursts = [[source.prompt(number * size + i) for i in range(size)] for number in range(count)]
    return [(prompts, [encode(prompt) for prompt in prompts]) for prompts in bursts]


def _rows(rates: dict[str, tuple[float, ...]], cfg: Config) -> list[Row]:
    return [
        Row(
            name="generation/graded",
            title="generation through the actor, graded, 358k policy",
            unit="tokens/s",
            ours=rates["one"],
            other_name="bare vLLM, not graded",
            other=rates["bare"],
            goal=0.95,
            note=f"{BURST} prompts x {cfg.sampling.group_size} answers; vLLM, one thread, the same settings in both",
            reason="" if rates["bare"] else "left out of a quick benchmark",
        ),
        Row(
            name="scaling/generators",
            title="generation, 2 generators beside 1",
            unit="tokens/s",
            ours=rates["two"],
            other_name="1 generator",
            other=rates["one"],
            note="the driver and the grader work on the same cores",
        ),
    ]
