"""Simulate training steps in virtual time: the real Collector, Window and Rollouts, with roles that only take time."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from configs.config import Config
from orchestrator.planning.costs import Costs
from orchestrator.planning.lengths import Lengths
from orchestrator.planning.simulated_roles import SimulatedGenerator, SimulatedGrader, tokens_of
from orchestrator.planning.virtual_clock import run_virtually
from orchestrator.rollout.collector import Collector
from orchestrator.rollout.rollouts import Rollouts, jobs_for
from trajectories.trajectory import Group, Prompt

PARTS = ("wait_generation", "reference", "score", "update", "publish", "other", "measure")
"""Parts of a step, as the metrics `seconds/NAME` of a run have them; `measure` is in `seconds/due` there."""
FEWEST_ANSWERS = 1024
"""Answers per step that are simulated at least, if the run has as many."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Means over the simulated steps after the first ones."""

    seconds: dict[str, float]
    """Seconds of each part of a step; they sum to those of the step."""
    exposed_s: float
    """Of the update, seconds of traffic that computation does not hide."""
    tokens: float
    """Generated tokens per step."""
    staleness: float
    """Optimizer steps between the weights an answer starts with and those that train on it, mean."""
    batch: float
    """Answers that an engine decodes at the same time, mean over the time in which it decodes."""
    busy: float
    """Fraction of the time in which the engines decode."""
    preemptions: float
    """Answers per step whose tokens are computed again because the key-value cache was full."""

    @property
    def step_s(self) -> float:
        """Seconds of one step."""
        return sum(self.seconds.values())


class _Prompts:
    """A source of prompts without text; their number of tokens is in `problem`."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def prompt(self, position: int) -> Prompt:
        return Prompt(
            id=f"simulated/{position}",
            position=position,
            text="",
            verifier="numeric",
            problem={"tokens": self.tokens},
        )

    def heldout(self, count: int) -> list[Prompt]:
        return [replace(self.prompt(i), id=f"simulated/heldout/{i}") for i in range(count)]

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        raise NotImplementedError


def _encode(prompt: Prompt) -> list[int]:
    return [prompt.problem["tokens"]]


def simulate(cfg: Config, costs: Costs, lengths: Lengths, prompt_tokens: int, steps: int = 6) -> Outcome:
    """Return what the steps of a run take.

    The window, the choice of generators and the order in which groups are taken are those of a run. Every group has a
    signal, so no group is replaced (`sampling.max_refills`), and no checkpoint is written.

    Of a large run a fraction is simulated, with the same number of prompts for each generator. The longest answers, for
    which a step waits, are nearly as long among `FEWEST_ANSWERS` as among more.

    Args:
        cfg: lag, groups, group size, placement, and the limits of answers.
        prompt_tokens: tokens of every prompt.
        steps: steps that are measured, after 2 * lag + 2 others until the window is in its usual state.
    """
    first = 2 * cfg.lag + 2
    cfg = replace(cfg, steps=first + steps + cfg.lag + 1)
    return run_virtually(_Simulation(cfg, costs, lengths, prompt_tokens).run(first, steps))


def _fraction(cfg: Config) -> int:
    """Return k, where a k-th of the generators and prompts is simulated."""
    answers = cfg.groups_per_step * cfg.sampling.group_size
    common = math.gcd(cfg.placement.generators, cfg.groups_per_step)
    return max(k for k in range(1, common + 1) if common % k == 0 and (k == 1 or answers // k >= FEWEST_ANSWERS))


class _Simulation:
    def __init__(self, cfg: Config, costs: Costs, lengths: Lengths, prompt_tokens: int) -> None:
        self.whole = _fraction(cfg)
        """How many times the simulated part the run is."""
        place = replace(cfg.placement, generators=cfg.placement.generators // self.whole)
        self.cfg = replace(cfg, placement=place, groups_per_step=cfg.groups_per_step // self.whole)
        self.costs, self.lengths = costs, lengths
        self.source = _Prompts(prompt_tokens)
        self.rows: list[dict[str, float]] = []
        """Seconds of each part, and other numbers, by step."""

    async def run(self, first: int, steps: int) -> Outcome:
        """Simulate `first` steps, `steps` measured ones, and a measurement of the held-out prompts."""
        cfg, engine = self.cfg, self.costs.engine
        place = cfg.placement
        loop = asyncio.get_running_loop()
        self.generators = [SimulatedGenerator(engine, self.lengths.of) for _ in range(place.generators)]
        workers = place.graders * (cfg.grader.workers or max(1.0, place.cpus_per_grader)) / self.whole
        graders = [SimulatedGrader(self.costs.grade_s, workers)]
        try:
            async with Rollouts(self.generators, graders, math.inf) as rollouts:
                collector = Collector(
                    cfg,
                    self.source,
                    _encode,
                    rollouts,
                    position=0,
                    groups_left=cfg.steps * cfg.groups_per_step,
                    excluded=(),
                )
                async with collector:
                    for step in range(first):
                        await self._step(step, collector)
                    self.rows.clear()
                    began, before = loop.time(), list(self._engine_sums())
                    for step in range(first, first + steps):
                        await self._step(step, collector)
                    elapsed, after = loop.time() - began, list(self._engine_sums())
                    measured = await self._measure(rollouts) if cfg.monitor.every else 0.0
        finally:
            await asyncio.gather(*(generator.close() for generator in self.generators))
        busy, answers, preemptions = (b - a for a, b in zip(before, after, strict=True))
        means = {key: float(np.mean([row[key] for row in self.rows])) for key in self.rows[0]}
        seconds = {part: means[part] for part in PARTS if part in means}
        return Outcome(
            seconds=seconds | {"measure": measured},
            exposed_s=means["exposed"],
            tokens=means["tokens"],
            staleness=means["staleness"],
            batch=answers / busy if busy else 0.0,
            busy=busy / elapsed / place.generators,
            preemptions=preemptions / steps * self.whole,
        )

    def _engine_sums(self) -> Iterator[float]:
        yield sum(generator.busy_s for generator in self.generators)
        yield sum(generator.answer_s for generator in self.generators)
        yield float(sum(generator.preemptions for generator in self.generators))

    async def _step(self, step: int, collector: Collector) -> None:
        """One iteration of `orchestrator.train.train`."""
        loop, costs = asyncio.get_running_loop(), self.costs
        began = loop.time()
        groups = await collector.take(self.cfg.groups_per_step)
        taken = loop.time()
        trajectories = [t for group in groups for t in group.trajectories]
        lengths = [tokens_of(t) for t in trajectories] * self.whole
        if self.cfg.placement.mode == "colocated":  # Engine and learner take turns on the GPU.
            self._pause()
        update, exposed = costs.learner.update(lengths)
        row = {
            "wait_generation": taken - began,
            "reference": sum(lengths) * costs.reference_token_s,
            "score": sum(lengths) * costs.score_token_s,
            "update": update,
            "publish": costs.publish_s,
            "other": costs.other_s + len(lengths) * costs.other_answer_s,
        }
        await asyncio.sleep(row["reference"] + row["score"] + row["update"])
        self._pause()
        await asyncio.sleep(row["publish"])
        for generator in self.generators:
            generator.resume(step + 1)
        collector.release(groups)
        await asyncio.sleep(row["other"])
        stale = [step - t.first_version for t in trajectories]
        generated = sum(int(t.tokens[-1]) for t in trajectories) * self.whole
        self.rows.append({**row, "exposed": exposed, "tokens": float(generated), "staleness": float(np.mean(stale))})

    def _pause(self) -> None:
        for generator in self.generators:
            generator.pause()

    async def _measure(self, rollouts: Rollouts) -> float:
        """Measure the held-out prompts once, and return its seconds per step."""
        loop, cfg = asyncio.get_running_loop(), self.cfg
        began = loop.time()
        decoding = cfg.monitor.sampling.resolved(cfg.sampling)
        prompts = self.source.heldout(math.ceil(cfg.task.heldout_prompts / self.whole))
        jobs = jobs_for(
            prompts,
            [_encode(prompt) for prompt in prompts],
            purpose="heldout",
            run_seed=cfg.seed,
            answers=cfg.monitor.answers,
            **decoding.plain(),
        )
        groups: list[Group] = await rollouts.run(prompts, jobs)
        assert len(groups) == len(prompts)
        return (loop.time() - began) / cfg.monitor.every
