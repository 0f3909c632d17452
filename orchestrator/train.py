"""The main loop, and Run: what the loop owns."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from actors.contracts import Learner, Reference
from configs.load import to_yaml
from configs.schema import Config
from objectives.controllers import ObjectiveState, advance, initial_state
from objectives.diagnostics import Stats, means
from objectives.objective import credit
from orchestrator import checkpoint, cluster
from orchestrator.collector import Collector, Stopped
from orchestrator.encoding import encoder
from orchestrator.grading import GraderWatch, prove
from orchestrator.group_metrics import group_metrics
from orchestrator.logbook import Logbook
from orchestrator.monitor import HeldOut, Monitor
from orchestrator.passk import stopped_by
from orchestrator.plan import needed_roles
from orchestrator.presample import presample
from orchestrator.rollouts import Rollouts
from orchestrator.timing import Clock
from rewards.registry import check as check_verifier
from tasks.registry import build
from tasks.source import Source
from trajectories.batch import Batch, pack
from trajectories.rehearsal import RehearsalSet, read
from trajectories.trajectory import Group, Trajectory


async def train(run: "Run") -> None:
    """One turn is one optimizer step; cfg.lag is how many steps rollouts may run ahead (0: fully on-policy)."""
    await run.publish()  # generators start from the learner's weights
    async with run.collector as collected:  # prompt -> generate -> grade, in the background
        while run.continues():
            groups = await collected.take(run.cfg.groups_per_step)  # the only wait for generation; FIFO by prompt
            batch = pack(groups, run.rehearsal.at(run.step))  # aligned tensors, with routes
            batch = await run.reference.score(batch)  # logp_reference (nothing if unused)
            batch = credit(batch, run.cfg.objective, run.state)  # advantages: pure tensor maths
            stats = await run.learner.update(batch, run.state.coefficient)  # loss, backward, optimizer
            run.advance(batch, stats)  # step, controllers
            await run.publish()  # learner -> generators; version = step
            collected.release(groups)  # slots open only now: nothing is born stale
            await run.record(groups, collected.stats())
            await run.due()  # evaluate, checkpoint


class NoReference:
    """Stands in where no reference log-probs are needed."""

    async def score(self, batch: Batch) -> Batch:
        return batch


class NoRehearsal:
    """Stands in where nothing is rehearsed."""

    prompt_ids: frozenset[str] = frozenset()

    def at(self, step: int) -> list[Trajectory]:
        return []


class Run:
    """Everything one training run owns while it trains."""

    def __init__(
        self,
        cfg: Config,
        run_dir: Path,
        source: Source,
        *,
        roles: cluster.Roles,
        rollouts: Rollouts,
        rehearsal: RehearsalSet | NoRehearsal,
        resume: bool,
        resumed: checkpoint.Checkpoint | None,
    ) -> None:
        assert roles.learner is not None
        self.cfg, self.run_dir, self.rehearsal = cfg, run_dir, rehearsal
        self.learner: Learner = roles.learner
        self.reference: Reference | NoReference = NoReference()
        if cfg.objective.divergence.needs_reference:
            assert roles.reference is not None
            self.reference = roles.reference
        state = resumed.state if resumed else {}
        self.step: int = state.get("step", 0)
        self.state = ObjectiveState(**state["objective"]) if resumed else initial_state(cfg.objective)
        self.best: dict[str, Any] = state.get("best", {})
        self.stop_reason = ""
        encode = encoder(cfg.policy)
        first = cfg.rehearsal.prompts if cfg.objective.divergence.rehearses and cfg.rehearsal.explore == "fresh" else 0
        self.collector = Collector(
            cfg,
            source,
            encode,
            rollouts,
            position=state.get("position", first),
            groups_left=(cfg.steps - self.step) * cfg.groups_per_step,
            excluded=self.rehearsal.prompt_ids if cfg.rehearsal.explore == "unmastered" else frozenset(),
        )
        self.monitor = Monitor(HeldOut(cfg, source, encode, rollouts), roles.reference, run_dir)
        self.logbook = Logbook(
            run_dir,
            cfg.logbook,
            run_name=cfg.name,
            settings=asdict(cfg),
            total_steps=cfg.steps,
            wandb_id=state.get("wandb_id"),
            resume_step=self.step if resume else None,
        )
        self.graders = GraderWatch(roles.graders, self.logbook.alert)
        self.saved = self.step if resumed else -1
        self._values: dict[str, float] = {}
        self.clock = Clock()
        self.clock.watch(self.collector, "take", "wait_generation")
        self.clock.watch(self.learner, "update", "update")
        self.clock.watch(self.reference, "score", "reference")
        self.clock.watch(self, "publish", "publish")
        self.clock.watch(self, "due", "due")

    def continues(self) -> bool:
        return self.step < self.cfg.steps and not self.stop_reason

    def stop(self, reason: str) -> None:
        """End after the step in progress, or at once if the loop waits for generation."""
        self.stop_reason = self.stop_reason or reason
        self.collector.stop()

    async def publish(self) -> None:
        """Every generator serves the learner's weights under version `step` when this returns."""
        await self.learner.publish(self.step)

    def advance(self, batch: Batch, stats: Stats) -> None:
        """Count the step and let the controllers see its reduced numbers."""
        staleness = self.step - batch.version[batch.version >= 0]
        self._values = means(stats) | {
            "coefficient": self.state.coefficient,
            "staleness": float(staleness.double().mean()),
            "staleness_max": float(staleness.max()),
        }
        explored = batch.totals["explore"]
        self.state = advance(self.state, self.cfg.objective, self._values, explored.trajectories)
        self.step += 1

    async def record(self, groups: Sequence[Group], collected: dict[str, float]) -> None:
        """Write the step's metrics, and sampled trajectories when their turn has come."""
        graded = await self.graders.look()
        seconds = self.clock.lap()
        values = self._values | group_metrics(groups) | collected | graded | seconds
        # What the step before was due for (measuring, checkpointing) lies within this lap and is not the step's work.
        values["tokens_per_second"] = values["tokens"] / (seconds["seconds/step"] - seconds.get("seconds/due", 0.0))
        self.logbook.write(self.step, values)
        self.logbook.trajectories(self.step, groups)

    async def due(self) -> None:
        """Measure and checkpoint when their turn has come; apply the stop rules."""
        last = self.step >= self.cfg.steps
        if self.cfg.monitor.every and (self.step % self.cfg.monitor.every == 0 or last):
            await self.measure()
        every = self.cfg.checkpoint.every
        if last or (every and self.step % every == 0) or self.best.get("step") == self.step:
            await self.checkpoint()

    async def measure(self) -> None:
        summary, measurement = await self.monitor.measure(self.step)
        self.logbook.measurement(self.step, summary, measurement)
        values = {name: interval.value for name, interval in summary.items()}
        reason = stopped_by(self.cfg.monitor.stop_if, values)
        if reason:
            self.logbook.alert("stop_if", reason)
            self.stop(reason)
        best = values.get(self.cfg.checkpoint.best_metric)
        if self.step and best is not None and best > self.best.get("value", -np.inf):
            self.best = {"step": self.step, "value": best}

    async def checkpoint(self) -> None:
        """Write policy, optimizer and everything the run continues from. Seeds come from positions, so there is no
        random state to keep."""
        if self.saved == self.step:
            return
        root = self.run_dir / "checkpoints"
        state = {
            "step": self.step,
            "position": self.collector.window.resume_position,
            "objective": asdict(self.state),
            "wandb_id": self.logbook.wandb_id,
            "best": self.best,
        }
        await checkpoint.write(root, self.step, self.learner.save, state)
        self.saved = self.step
        checkpoint.prune(root, self.cfg.checkpoint.keep_last, self.best.get("step"))


async def run_training(cfg: Config, *, resume: bool, say: Callable[[str], None]) -> Path:
    """Train one run from start (or its last checkpoint) to end, and return its directory.

    Raises ValueError on bad settings before anything is started. On SIGINT or SIGTERM the run stops between two steps,
    with a checkpoint; a second signal ends it at once.
    """
    run_dir = Path(cfg.runs) / cfg.name
    source = build(cfg.task, cfg.seed)
    check_verifier(source.prompt(0).verifier)
    if cfg.monitor.every:
        source.heldout(cfg.task.heldout_prompts)
    resumed = find_checkpoint(run_dir, say) if resume else None
    if not resume and (run_dir / "metrics.jsonl").exists():
        raise ValueError(
            f"name: must be new (or pass --resume to continue), got {cfg.name!r}, which exists in {cfg.runs}"
        )
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(to_yaml(cfg))
    rehearsal = await load_rehearsal(cfg, run_dir, say)
    roles = await cluster.start(cfg, needed_roles(cfg))
    try:
        assert roles.learner is not None
        await prove(roles.graders, source, say)
        if resumed is not None:
            await roles.learner.load(str(resumed.path))
        await roles.learner.connect(roles.generators)
        async with Rollouts(roles.generators, roles.graders, cfg.generator.timeout_s) as rollouts:
            run = Run(
                cfg,
                run_dir,
                source,
                roles=roles,
                rollouts=rollouts,
                rehearsal=rehearsal,
                resume=resume,
                resumed=resumed,
            )
            try:
                await to_the_end(run)
            finally:
                run.logbook.close()
    finally:
        await roles.close()
    return run_dir


async def to_the_end(run: Run) -> None:
    """Train until the last step, a stop rule or a signal; leave a checkpoint of the last whole step."""
    loop = asyncio.get_running_loop()

    def on_signal(received: signal.Signals) -> None:
        loop.remove_signal_handler(received)  # the next one ends the process
        run.logbook.alert("signal", f"{received.name}: stopping after this step, with a checkpoint")
        run.stop(received.name)

    for received in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(received, on_signal, received)
    try:
        if run.step == 0 and run.cfg.monitor.every:
            await run.measure()
        with contextlib.suppress(Stopped):
            await train(run)
        await run.checkpoint()
    finally:
        for received in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(received)


def find_checkpoint(run_dir: Path, say: Callable[[str], None]) -> checkpoint.Checkpoint | None:
    """The newest whole checkpoint of a run, None when it was killed before its first. Raises ValueError when there is
    no run, or every checkpoint is broken."""
    if not run_dir.is_dir():
        raise ValueError(f"name: must be an existing run to resume, got {str(run_dir)!r}")
    root = run_dir / "checkpoints"
    found = checkpoint.latest(root, say)
    if found is None and any(root.glob("step-*")):
        raise ValueError(f"checkpoints: at least one must be whole, got only broken ones in {str(root)!r}")
    return found


async def load_rehearsal(cfg: Config, run_dir: Path, say: Callable[[str], None]) -> RehearsalSet | NoRehearsal:
    """The stored reference answers, presampled now if the method needs them and no file is given."""
    if not cfg.objective.divergence.rehearses:
        return NoRehearsal()
    path = Path(cfg.rehearsal.path) if cfg.rehearsal.path else run_dir / "rehearsal.parquet"
    if not cfg.rehearsal.path and not path.exists():
        tally = await presample(cfg, path, lambda done, total: say(f"presample: {done} of {total} prompts"))
        say(f"presample: {tally}")
    return read(path, cfg.rehearsal.batch, cfg.seed)
