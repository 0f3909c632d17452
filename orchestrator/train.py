"""The training loop, and Run: the state and the roles it works on."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from actors.contracts import Learner
from configs.config import Config
from configs.load import to_yaml
from objectives.coefficient.controllers import advance, resumed_state, with_mask, with_recap, with_rewards
from objectives.credit import credit
from objectives.diagnostics import Stats
from orchestrator import checkpoint, cluster
from orchestrator.devices.usage import NodeUsage
from orchestrator.heldout.prompts import HeldOut
from orchestrator.manifest import SETTINGS
from orchestrator.placement import MAIN, scoring_references
from orchestrator.recovery.ledger import Ledger
from orchestrator.references import Anchors, NoScoring, ReferenceSchedule, anchors_of
from orchestrator.rollout.agreement import check_agreement
from orchestrator.rollout.collector import Collector
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.rollout.grading import GraderWatch
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.rollout.signals import Signals, signals_of
from orchestrator.state import Best, RunState
from orchestrator.stored.answers import StoredAnswers
from orchestrator.stored.experience import experience_of
from orchestrator.stored.solutions import solutions_of
from orchestrator.watch.drift import Drift
from orchestrator.watch.logbook import Logbook
from orchestrator.watch.monitor import Monitor
from orchestrator.watch.passk import fired_rule
from orchestrator.watch.step_metrics import batch_metrics, group_metrics
from orchestrator.watch.timing import Clock
from tasks.changed import with_extraction
from tasks.source import Source
from trajectories.batch import Batch, pack
from trajectories.trajectory import Group


async def train(run: "Run") -> None:
    """Train until the last step or a stop request. One iteration is one optimizer step.

    Rollouts run at most `cfg.lag` steps ahead of the learner; 0 is fully on-policy.
    """
    await run.publish()  # the generators load the learner's weights
    async with run.collector as collector:  # generates and grades in the background
        while run.continues():
            groups = await collector.take(run.cfg.groups_per_step)  # the only wait for generation of rollouts
            batch = await run.pack(groups)  # explored, rehearsed and replayed trajectories, experience
            batch = await run.anchors.score(batch, groups)  # logp_reference and other anchors, if a term needs them
            batch = await run.old_policy.score(batch)  # logp_old and value_old, if needed before the update
            batch = await run.credit(batch)  # advantages, token gates, term weights
            stats = await run.learner.update(batch, run.objective_state.coefficients)  # loss, backward, optimizer
            await run.advance(batch, stats)  # step count, controllers
            await run.publish()  # the generators load the new weights; version = step
            collector.release(groups)  # new prompts are admitted only now, so no rollout starts on old weights
            await run.record(groups, collector.stats())  # metrics, sampled trajectories
            await run.due()  # reference updates, measurements, checkpoints


class Run:
    """State, roles and outputs of one training run.

    Args:
        roles: started, with the checkpoint loaded and the generators connected to the learner.
        resumed: the checkpoint to continue from; None starts at step 0.
        ledger: gets the groups of every step.
    """

    _signals: Signals | None = None
    """Of the last step's batch, for its sampled answers."""

    def __init__(
        self,
        cfg: Config,
        run_dir: Path,
        source: Source,
        encode: PromptEncoder,
        *,
        roles: cluster.Roles,
        rollouts: Rollouts,
        stored: StoredAnswers,
        ledger: Ledger,
        resumed: checkpoint.Checkpoint | None,
        logbook: Logbook,
    ) -> None:
        assert roles.learner is not None
        self.cfg, self.run_dir, self.roles, self.stored = cfg, run_dir, roles, stored
        self.logbook, self.ledger = logbook, ledger
        self.learner: Learner = roles.learner
        self.anchors: Anchors | NoScoring = anchors_of(cfg, roles.reference, encode)
        self.old_policy: Learner | NoScoring = roles.learner if cfg.scores_first else NoScoring()
        self.reference_role = roles.reference
        state = resumed.state if resumed else RunState.initial(cfg)
        self.step, self.best, self.stop_reason = state.step, state.best, ""
        self.objective_state = resumed_state(state.objective, cfg.objective, state.step, cfg.steps)
        self.reference_schedule = ReferenceSchedule(cfg.references if cfg.objective.anchors else {}, state.drift)
        self.source, self.rollouts, self.encode = source, rollouts, encode
        self.solutions = solutions_of(cfg, source, encode) if cfg.objective.imitates else None
        self.published = -1
        """Version of the weights that the generators got last."""
        self.experience = experience_of(cfg, resumed.path if resumed else None)
        self.collector = Collector(
            cfg,
            source,
            self.encode,
            rollouts,
            position=state.position,
            trained=state.trained,
            groups_left=(cfg.steps - self.step) * cfg.groups_per_step,
            excluded=self.stored.rehearsed if cfg.rehearsal.explore == "unmastered" else frozenset(),
            experience=self.experience,
            score=self.anchors.score_group if self.anchors.early else None,
        )
        measured = with_extraction(source, cfg.monitor.extraction, "monitor.extraction")
        base = roles.reference if MAIN in scoring_references(cfg) else None
        self.monitor = Monitor(HeldOut(cfg, measured, self.encode, rollouts), base, run_dir)
        self.graders = GraderWatch(roles.graders, self.logbook.alert)
        self.nodes = NodeUsage(roles.handles)
        self.drift = Drift(cfg, self.learner, self.logbook.alert)
        self.saved_step = self.step if resumed else -1
        self.checkpoints = checkpoint.Writer(run_dir / "checkpoints", cfg.checkpoint.keep_last, self.collector.fail)
        self._metrics: dict[str, float] = {}
        self.clock = self._watched()

    def _watched(self) -> Clock:
        """Return the clock of the calls whose seconds are recorded."""
        clock = Clock(lambda name: self.logbook.doing(name, self.collector.window.progress))
        clock.watch(self.collector, "take", "wait_generation")
        clock.watch(self.learner, "update", "update")
        clock.watch(self.anchors, "score", "reference")
        clock.watch(self.old_policy, "score", "score")
        clock.watch(self.drift, "measure", "kl_update")
        clock.watch(self, "publish", "publish")
        clock.watch(self, "measure", "measurement")
        clock.watch(self, "due", "due")
        return clock

    def continues(self) -> bool:
        """Return whether there is another step to do."""
        return self.step < self.cfg.steps and not self.stop_reason

    def stop(self, reason: str) -> None:
        """Stop the loop after the step in progress, or at once if it waits for generation."""
        self.stop_reason = self.stop_reason or reason
        self.collector.stop()

    async def publish(self) -> None:
        """Load the learner's weights into every generator as version `step`, unless they are there already.

        A measurement in progress is finished before, since all of its answers have to be of the weights served now.

        Raises:
            ValueError: after the first publication, the generators' log-probs are not the learner's.
        """
        if self.published == self.step:
            return
        if self.monitor.begun:
            await self.measure()
        if self.roles.turns is not None:
            await self.drift.measure()  # now, as the engines would have to sleep again for it after the publication
        await self.learner.publish(self.step)
        if self.published < 0:
            await check_agreement(self.cfg, self.source, self.encode, self.rollouts, self._score)
        self.published = self.step

    async def _score(self, batch: Batch) -> Batch:
        return await self.learner.score(await self.anchors.score(batch))

    async def pack(self, groups: Sequence[Group]) -> Batch:
        """Make the batch of this step: these groups, with their solutions if they are imitated and with experience, and
        the step's stored answers."""
        if self.solutions is not None:
            groups = await asyncio.to_thread(self.solutions.added, groups)
        objective = self.cfg.objective
        if self.experience is not None:
            groups = await self.experience.join(groups, self._score)
            self.experience.observe(groups)
        stored = self.stored.at(self.step)
        return await asyncio.to_thread(pack, groups, stored, objective.overlong.mask, objective.reads_meanings)

    async def credit(self, batch: Batch) -> Batch:
        """Return the batch with what `objectives.credit` computes, and keep the values of its sampled answers."""
        batch = await asyncio.to_thread(credit, batch, self.cfg.objective, self.objective_state)
        self._signals = await signals_of(batch, self.learner, partial(self.logbook.sampled, self.step + 1))
        return batch

    async def advance(self, batch: Batch, stats: Stats) -> None:
        """Count the step, and advance the coefficient controllers by its metrics."""
        await asyncio.to_thread(self._advance, batch, stats)

    def _advance(self, batch: Batch, stats: Stats) -> None:
        scored = batch_metrics(batch, stats, self.cfg.objective, self.objective_state, self.step)
        self._metrics = scored | self.anchors.metrics
        self.step += 1
        self.drift.keep(batch)
        self.objective_state = advance(
            with_mask(with_rewards(self.objective_state, self.cfg.objective, batch), self.cfg.objective, batch),
            self.cfg.objective,
            self._metrics,
            trajectories=batch.totals["explore"].trajectories,
            step=self.step,
            steps=self.cfg.steps,
        )
        self.objective_state = with_recap(self.objective_state, self.cfg.objective, batch, self._metrics)

    async def record(self, groups: Sequence[Group], collected: dict[str, float]) -> None:
        """Write the step's metrics, and a few trajectories every `logbook.trajectories_every` steps."""
        graded = await self.graders.collect()
        moved = await self.drift.measure()
        seconds = self.clock.lap()
        rewarded = await asyncio.to_thread(group_metrics, groups, by_domain=self.cfg.task.name == "mixture")
        values = self._metrics | moved | rewarded | collected | graded | seconds
        values |= self.nodes.take() | dict(self.roles.recovered())
        values |= self.experience.metrics(groups) if self.experience else {}
        # This lap includes the previous step's `due` (measurements, checkpoints), which is not work of this step.
        other = seconds.get("seconds/due", 0.0) + (seconds.get("seconds/measurement", 0.0) if self.cfg.lag else 0.0)
        values["tokens_per_second"] = values["tokens"] / (seconds["seconds/step"] - other)
        dropped, passed = self.collector.take_dropped_ungraded(), self.collector.window.take_passed()

        def write() -> None:
            self.ledger.step(self.step, groups, passed)
            self.logbook.write(self.step, values)
            self.logbook.trajectories(self.step, groups, dropped, self._signals)

        await asyncio.to_thread(write)

    async def due(self) -> None:
        """Update references, measure, apply the stop rules and begin a checkpoint, each at its interval."""
        self.checkpoints.check()
        for name, mixing_weight in self.reference_schedule.after(self.step, self._metrics).items():
            assert self.reference_role is not None
            await self.learner.update_reference(self.reference_role, name, mixing_weight)
        last = self.step >= self.cfg.steps
        measured = self.cfg.monitor.every and (self.step % self.cfg.monitor.every == 0 or last)
        if measured and self.cfg.lag and self.continues():
            self.monitor.begin()  # answered while the learner works on the next step
        elif measured:
            await self.measure()
        every = self.cfg.checkpoint.every
        is_best = self.best is not None and self.best.step == self.step
        # It may turn out to be the best one when its weights are no longer those of the learner.
        may_be_best = self.monitor.begun and bool(self.cfg.checkpoint.best_metric)
        if last or (every and self.step % every == 0) or is_best or may_be_best:
            await self.checkpoint()

    async def measure(self) -> None:
        """Measure the published weights on the held-out prompts, apply the stop rules, and note the best value."""
        step = self.published
        summary, measurement = await self.monitor.measure(step)

        def write() -> None:
            self.logbook.measurement(step, summary, measurement)
            self.logbook.trajectories(step, (), self.monitor.ungraded)

        await asyncio.to_thread(write)
        values = {name: interval.value for name, interval in summary.items()}
        if self.monitor.alert:
            self.logbook.alert("sharpening", self.monitor.alert)
        reason = fired_rule(self.cfg.monitor.stop_if, values)
        if reason:
            self.logbook.alert("stop_if", reason)
            self.stop(reason)
        value = values.get(self.cfg.checkpoint.best_metric)
        if step and value is not None and value > (self.best.value if self.best else -np.inf):
            self.best = Best(step=step, value=value)

    async def checkpoint(self) -> None:
        """Begin a checkpoint of this step, unless there is one. It is written in the background."""
        if self.saved_step == self.step:
            return
        await self.checkpoints.begin(self.run_state(), self._save_roles, self.learner.saved)
        self.saved_step = self.step

    def run_state(self) -> RunState:
        """Return the state from which the run can be resumed after this step."""
        self.ledger.passed(self.collector.window.take_passed())
        return RunState(
            step=self.step,
            position=self.collector.window.resume_position,
            trained=tuple(self.collector.window.trained),
            measured=not self.monitor.begun,
            objective=self.objective_state,
            drift=dict(self.reference_schedule.drift),
            wandb_id=self.logbook.wandb_id,
            best=self.best,
        )

    async def _save_roles(self, folder: str) -> None:
        (Path(folder) / SETTINGS).write_text(to_yaml(self.cfg))
        await self.learner.save(folder)
        if self.experience is not None:
            self.experience.save(Path(folder))
        if self.reference_schedule.references:
            assert self.reference_role is not None
            await self.reference_role.save(folder)
