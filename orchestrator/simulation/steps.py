"""Simulate training steps in virtual time: the real Collector, Window and Rollouts, with roles that only take time."""

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from configs.config import Config
from orchestrator.engine import with_engine
from orchestrator.rollout.collector import Collector
from orchestrator.rollout.jobs import jobs_for
from orchestrator.rollout.rollouts import Rollouts, rollouts_for
from orchestrator.simulation.cores import Cores
from orchestrator.simulation.costs import Costs
from orchestrator.simulation.lengths import Lengths
from orchestrator.simulation.roles import SimulatedGenerator, SimulatedGrader, SimulatedReference, tokens_of
from orchestrator.simulation.virtual_clock import run_virtually
from trajectories.trajectory import Group, Prompt

PARTS = ("wait_generation", "reference", "score", "update", "publish", "other")
"""Parts of a step, named as the metrics `seconds/NAME` of a run; `other` is the rest."""
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

    Of a large run a part is simulated, with as many prompts for each generator. The longest answers, for which a step
    waits, are nearly as long among `FEWEST_ANSWERS` as among more.

    Args:
        cfg: lag, groups, group size, placement, and the limits of answers.
        prompt_tokens: tokens of every prompt.
        steps: steps that are measured at least, after 2 * lag + 2 others until the window is in its usual state.
            Where steps wait for their longest answers, their waits repeat with the steps that a window holds (77, 0,
            77, 0 s at lag 1), so the steps of whole windows are measured.
    """
    window = cfg.window_slots // cfg.groups_per_step
    whole = math.ceil(steps / window) * window
    return run_virtually(_Simulation(with_engine(cfg), costs, lengths, prompt_tokens, whole).run())


def _part(cfg: Config) -> Config:
    """Return the settings of the smallest part of the run with at least `FEWEST_ANSWERS` answers per step."""
    all_generators, all_groups = cfg.placement.generators, cfg.groups_per_step
    for generators in range(1, all_generators + 1):
        groups = max(1, round(all_groups * generators / all_generators))
        if groups * cfg.sampling.group_size >= FEWEST_ANSWERS:
            return replace(cfg, groups_per_step=groups, placement=replace(cfg.placement, generators=generators))
    return cfg


class _Simulation:
    def __init__(self, cfg: Config, costs: Costs, lengths: Lengths, prompt_tokens: int, steps: int) -> None:
        self.answers = cfg.groups_per_step * cfg.sampling.group_size
        self.first, self.steps, self.after = 2 * cfg.lag + 2, steps, cfg.lag + 1 if cfg.monitor.every else 0
        part = _part(cfg)
        self.share = part.placement.generators / cfg.placement.generators
        """Fraction of the run that is simulated."""
        # No generator is silent for too long, and the window is full to the end.
        generator = replace(cfg.generator, timeout_s=math.inf)
        self.cfg = replace(part, generator=generator, steps=self.first + steps + self.after + cfg.lag + 1)
        self.costs, self.lengths, self.cores = costs, lengths, Cores(costs.cores)
        self.source = _Prompts(prompt_tokens)
        self.measurement: asyncio.Task[list[Group]] | None = None
        """A measurement of the held-out prompts, which is finished before the next publication."""
        self.rows: list[dict[str, float]] = []
        """Seconds of each part, and other numbers, by step."""

    async def run(self) -> Outcome:
        """Simulate the first steps, the measured ones, and those that a measurement of held-out prompts delays."""
        cfg, place, loop = self.cfg, self.cfg.placement, asyncio.get_running_loop()
        engine = self.costs.engine
        self.generators = [SimulatedGenerator(engine, self.lengths.of, self.cores) for _ in range(place.generators)]
        workers = place.graders * (cfg.grader.workers or max(1.0, place.cpus_per_grader)) * self.share
        grader = SimulatedGrader(self.costs.grade_s, workers, self.cores)
        groups = cfg.steps * cfg.groups_per_step
        try:
            async with (
                rollouts_for(cfg, self.generators, [grader]) as rollouts,
                Collector(
                    cfg,
                    self.source,
                    _encode,
                    rollouts,
                    position=0,
                    groups_left=groups,
                    excluded=(),
                    score=SimulatedReference(self._group_s).score_group if self.costs.early_references else None,
                ) as collector,
            ):
                for step in range(self.first):
                    await self._step(step, collector)
                self.rows.clear()
                began, before = loop.time(), list(self._engine_sums())
                for step in range(self.first, self.first + self.steps):
                    await self._step(step, collector)
                elapsed, after = loop.time() - began, list(self._engine_sums())
                began, rows = loop.time(), list(self.rows)
                if self.after:
                    self.measurement = asyncio.create_task(self._measure(rollouts))
                    if not cfg.lag:
                        await self.measurement
                for step in range(self.first + self.steps, self.first + self.steps + self.after):
                    await self._step(step, collector)
                delay = loop.time() - began - elapsed / self.steps * self.after
        finally:
            await asyncio.gather(*(generator.close() for generator in self.generators))
        busy, answers, preemptions = (b - a for a, b in zip(before, after, strict=True))
        means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        measured = {"measurement": max(delay, 0.0) / cfg.monitor.every} if self.after else {}
        return Outcome(
            seconds={part: means[part] for part in PARTS if part in means} | measured,
            exposed_s=means["exposed"],
            tokens=means["tokens"],
            staleness=means["staleness"],
            batch=answers / busy if busy else 0.0,
            busy=busy / elapsed / place.generators,
            preemptions=preemptions / self.steps / self.share,
        )

    def _group_s(self, lengths: Sequence[int]) -> float:
        """Return the seconds of the references that score a group early."""
        return self.costs.early_references * self.costs.reference.score(lengths) / self.share

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
        lengths = [tokens_of(trajectories[i % len(trajectories)]) for i in range(self.answers)]
        if self.cfg.placement.mode == "colocated":  # Engine and learner take turns on the GPU.
            self._pause()
        update, exposed = costs.learner.update(lengths)
        reference, score = costs.scoring(lengths)
        row = {"wait_generation": taken - began}

        async def part(name: str, seconds: float, processes: int = 1) -> None:
            started = loop.time()
            await self.cores.finish(seconds, processes)
            row[name] = loop.time() - started

        await part("reference", reference)
        await part("score", score, costs.learner.ranks)
        await part("update", update, costs.learner.ranks)
        if self.measurement is not None:
            self._resume(step)
            await self.measurement
            self.measurement = None
        self._pause()
        await part("publish", costs.publish_s)
        self._resume(step + 1)
        collector.release(groups)
        await part("other", costs.other_s + len(lengths) * costs.other_answer_s)
        stale = [step - t.first_version for t in trajectories]
        generated = sum(int(t.tokens[-1]) for t in trajectories) / self.share
        self.rows.append({**row, "exposed": exposed, "tokens": generated, "staleness": float(np.mean(stale))})

    def _pause(self) -> None:
        for generator in self.generators:
            generator.pause()

    def _resume(self, version: int) -> None:
        for generator in self.generators:
            generator.resume(version)

    async def _measure(self, rollouts: Rollouts) -> list[Group]:
        """Answer the held-out prompts."""
        cfg = self.cfg
        decoding = cfg.monitor.sampling.resolved(cfg.sampling)
        prompts = self.source.heldout(math.ceil(cfg.task.heldout_prompts * self.share))
        jobs = jobs_for(
            prompts,
            [_encode(prompt) for prompt in prompts],
            purpose="heldout",
            run_seed=cfg.seed,
            answers=cfg.monitor.answers,
            **decoding.plain(),
        )
        return await rollouts.run(prompts, jobs, first=True)
