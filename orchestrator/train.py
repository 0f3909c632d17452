"""The main loop, and Run: what the loop owns."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from actors.contracts import Learner
from configs.config import Config
from objectives.advantage.critic import value_metrics
from objectives.coefficient.controllers import (
    ObjectiveState,
    advance,
    initial_state,
    term_metric,
    with_recap,
    with_rewards,
)
from objectives.coefficient.recap import replay_metrics
from objectives.credit import credit
from objectives.diagnostics import Stats, means
from orchestrator import checkpoint, cluster
from orchestrator.references import Anchors, Moves, Unscored
from orchestrator.rollout.collector import Collector
from orchestrator.rollout.encoding import encoder
from orchestrator.rollout.grading import GraderWatch
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.stored.answers import StoredAnswers
from orchestrator.watch.group_metrics import group_metrics
from orchestrator.watch.logbook import Logbook
from orchestrator.watch.monitor import HeldOut, Monitor
from orchestrator.watch.passk import stopped_by
from orchestrator.watch.timing import Clock
from tasks.source import Source
from trajectories.batch import Batch, pack
from trajectories.trajectory import Group


async def train(run: "Run") -> None:
    """One turn is one optimizer step; cfg.lag is how many steps rollouts may run ahead (0: fully on-policy)."""
    await run.publish()  # generators start from the learner's weights
    async with run.collector as collected:  # prompt -> generate -> grade, in the background
        while run.continues():
            groups = await collected.take(run.cfg.groups_per_step)  # the only wait for generation; FIFO by prompt
            batch = pack(groups, run.stored.at(run.step))  # aligned tensors, with routes
            batch = await run.reference.score(batch)  # logp_reference (nothing if unused)
            batch = await run.old.score(batch)  # logp_old (nothing unless asked for)
            batch = credit(batch, run.cfg.objective, run.state)  # advantages: pure tensor maths
            stats = await run.learner.update(batch, run.state.coefficients)  # loss, backward, optimizer
            run.advance(batch, stats)  # step, controllers
            await run.publish()  # learner -> generators; version = step
            collected.release(groups)  # slots open only now: nothing is born stale
            await run.record(groups, collected.stats())
            await run.due()  # evaluate, checkpoint


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
        stored: StoredAnswers,
        resume: bool,
        resumed: checkpoint.Checkpoint | None,
    ) -> None:
        assert roles.learner is not None
        self.cfg, self.run_dir, self.stored = cfg, run_dir, stored
        self.learner: Learner = roles.learner
        self.reference: Anchors | Unscored = Unscored()
        self.old: Learner | Unscored = roles.learner if cfg.scores_first else Unscored()
        self.references = roles.reference
        if cfg.objective.anchors or cfg.objective.hidden_anchors:
            assert roles.reference is not None
            self.reference = Anchors(roles.reference, cfg.objective)
        state = resumed.state if resumed else {}
        self.moves = Moves(cfg.references if cfg.objective.anchors else {}, state.get("drift", {}))
        self.step: int = state.get("step", 0)
        self.state = ObjectiveState.restored(state["objective"]) if resumed else initial_state(cfg.objective, cfg.steps)
        self.best: dict[str, Any] = state.get("best", {})
        self.stop_reason = ""
        encode = encoder(cfg.policy)
        first = cfg.rehearsal.prompts if cfg.objective.rehearses and cfg.rehearsal.explore == "fresh" else 0
        self.collector = Collector(
            cfg,
            source,
            encode,
            rollouts,
            position=state.get("position", first),
            groups_left=(cfg.steps - self.step) * cfg.groups_per_step,
            excluded=self.stored.rehearsed if cfg.rehearsal.explore == "unmastered" else frozenset(),
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
        self.clock.watch(self.old, "score", "score")
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
        coefficients = {term_metric("coefficient", name): value for name, value in self.state.coefficients.items()}
        self._values = (
            means(stats)
            | value_metrics(batch)
            | replay_metrics(batch, self.state.recap, self.cfg.objective)
            | coefficients
            | {
                "staleness": float(staleness.double().mean()),
                "staleness_max": float(staleness.max()),
            }
        )
        self.step += 1
        self.state = advance(
            with_rewards(self.state, self.cfg.objective, batch),
            self.cfg.objective,
            self._values,
            trajectories=batch.totals["explore"].trajectories,
            step=self.step,
            steps=self.cfg.steps,
        )
        self.state = with_recap(self.state, self.cfg.objective, batch, self._values)

    async def record(self, groups: Sequence[Group], collected: dict[str, float]) -> None:
        """Write the step's metrics, and sampled trajectories when their turn has come."""
        graded = await self.graders.collect()
        seconds = self.clock.lap()
        rewarded = group_metrics(groups, by_part=self.cfg.task.name == "mixture")
        values = self._values | rewarded | collected | graded | seconds
        # What the step before was due for (measuring, checkpointing) lies within this lap and is not the step's work.
        values["tokens_per_second"] = values["tokens"] / (seconds["seconds/step"] - seconds.get("seconds/due", 0.0))
        self.logbook.write(self.step, values)
        self.logbook.trajectories(self.step, groups, self.collector.take_dropped_ungraded())

    async def due(self) -> None:
        """Move references, measure and checkpoint when their turn has come; apply the stop rules."""
        for name, share in self.moves.after(self.step, self._values).items():
            assert self.references is not None
            await self.learner.lead(self.references, name, share)
        last = self.step >= self.cfg.steps
        if self.cfg.monitor.every and (self.step % self.cfg.monitor.every == 0 or last):
            await self.measure()
        every = self.cfg.checkpoint.every
        if last or (every and self.step % every == 0) or self.best.get("step") == self.step:
            await self.checkpoint()

    async def measure(self) -> None:
        summary, measurement = await self.monitor.measure(self.step)
        self.logbook.measurement(self.step, summary, measurement)
        self.logbook.trajectories(self.step, (), self.monitor.ungraded)
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
            "drift": self.moves.drift,
            "wandb_id": self.logbook.wandb_id,
            "best": self.best,
        }
        await checkpoint.write(root, self.step, self._save, state)
        self.saved = self.step
        checkpoint.prune(root, self.cfg.checkpoint.keep_last, self.best.get("step"))

    async def _save(self, folder: str) -> None:
        await self.learner.save(folder)
        if self.moves.references:
            assert self.references is not None
            await self.references.save(folder)
