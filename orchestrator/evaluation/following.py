"""Follow a run that is going on: evaluate each of its checkpoints as it comes, until the run ends."""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import yaml

from configs.config import Config
from configs.load import to_yaml
from orchestrator.engine import with_engine
from orchestrator.evaluation.asked import asked_tasks
from orchestrator.evaluation.comparisons import write_json
from orchestrator.evaluation.folders import WATCHED, check_name, new_folder, one_job
from orchestrator.evaluation.measuring import Measuring, Serving
from orchestrator.evaluation.policies import BASE
from orchestrator.evaluation.progress import STREAM, Progress
from orchestrator.evaluation.writing import discard, write_all
from orchestrator.manifest import SETTINGS, step_of
from orchestrator.remote_runs.place import is_url
from orchestrator.remote_runs.watched import RemoteRun, WatchedRun
from orchestrator.report.evaluation import Evaluation
from orchestrator.rollout.encoding import PromptEncoder
from orchestrator.sinks.evaluation_run import copy_evaluation
from orchestrator.watch.logbook import EVENTS, METRICS, read_records
from orchestrator.watch.passk import summary

COPIES = ".copies"
"""Folder of an evaluation with what is measured now. A mirror of the run leaves out names that begin with a dot."""
POLL_S = 5.0
"""Seconds between two looks at the run."""
STOPS = ("SIGINT", "SIGTERM", "stop_if", "no answer could be judged")
"""Titles of the events after which a run ends before its last step."""


async def follow(cfg: Config, run_dir: Path, log: Callable[[str], None]) -> list[Evaluation]:
    """Evaluate the base of a run and each of its checkpoints, and write the evaluations anew after each.

    The generators are started once, and again if they are lost. Ends when the last checkpoint of the run is measured,
    or when the run has shown nothing new for `evaluate.watch_patience_s`. No KL is measured, which needs the GPUs
    of the generators.

    Args:
        run_dir: the run, or the local directory of a remote one, which `evaluate.watch` names by its URL. Its
            checkpoints may be removed while they are read.
        log: called with each line of text for the user.
    """
    cfg = with_engine(replace(cfg, evaluate=replace(cfg.evaluate, kl_to_base=False)), log)
    check_name(run_dir, cfg.evaluate.name)
    checkpoints = {BASE: cfg.policy.path}
    asked = asked_tasks(cfg, checkpoints, log)
    folder = new_folder(run_dir, cfg.evaluate.name, to_yaml(cfg))
    log(f"evaluation {folder}")
    with one_job(folder), Progress(folder / STREAM, log) as progress:
        measuring = Measuring(cfg, checkpoints, asked, folder, progress, log)
        watching = _Watching(cfg, run_dir, folder, measuring, log)
        if not (folder / WATCHED).exists():
            write_json(folder / WATCHED, {})
        try:
            async with measuring.serving(cfg.policy.path) as serving:
                await watching.measure(serving, BASE)
                await watching.read_measured()
                written = await watching.until_end(serving)
        finally:
            discard(measuring.found)
            shutil.rmtree(watching.copies, ignore_errors=True)
    await asyncio.to_thread(copy_evaluation, cfg, folder, written[0].at_first_temperature, log)
    return written


class _Watching:
    """A job that watches a run."""

    def __init__(
        self, cfg: Config, run_dir: Path, folder: Path, measuring: Measuring, log: Callable[[str], None]
    ) -> None:
        self.cfg, self.run_dir, self.folder, self.measuring, self.log = cfg, run_dir, folder, measuring, log
        self.copies = folder / COPIES
        place, records, patience_s = cfg.evaluate.watch, self.copies / "records", cfg.evaluate.watch_patience_s
        self.run = RemoteRun(place, run_dir, records, patience_s, log) if is_url(place) else WatchedRun(run_dir)
        self._seen: set[str] = set()
        """Names of the checkpoints that were measured, or skipped."""
        self._written: list[Evaluation] = []
        """The evaluations as they were written last."""

    async def until_end(self, serving: Serving) -> list[Evaluation]:
        """Measure checkpoints as they come, and return the last evaluations."""
        await self._write()
        last_news, before = time.monotonic(), self._state()
        while True:
            await self.run.look()
            ended = _ended(self.run)  # before the look at the checkpoints, of which the last one is written first
            new = [path for path in self.run.checkpoints() if path.name not in self._seen]
            for path in new:
                self._seen.add(path.name)
                if await self._measure_checkpoint(serving, path):
                    await self._write()
                    self.log(f"watch: {self._values(path.name)}")
            state = self._state()
            if new or state != before:
                last_news, before = time.monotonic(), state
            elif ended:
                self.log(f"watch: {self.run_dir.name} has ended, and all of its checkpoints are measured")
                await self._write(answers=True)
                (self.folder / WATCHED).unlink()
                return self._written
            elif time.monotonic() - last_news > self.cfg.evaluate.watch_patience_s:
                silent = f"nothing new from {self.run_dir.name} for {self.cfg.evaluate.watch_patience_s:g} s"
                self.log(f"watch: {silent} (evaluate.watch_patience_s), so this is the end")
                await self._write(answers=True)
                return self._written
            if not new:
                await asyncio.sleep(POLL_S)

    async def _write(self, *, answers: bool = False) -> None:
        """Write the evaluations of the policies that are measured. Values of those that are known are used again."""
        writing = partial(write_all, answers=answers, earlier=self._written)
        self._written = await asyncio.to_thread(writing, self.cfg, self.measuring, self.folder)

    def _values(self, name: str) -> str:
        """Return Pass@1 and Pass@k of a checkpoint on the run's own task, in words."""
        asked = self.measuring.asked[0]
        measured = self.measuring.found[asked.name][name][asked.wanted(is_base=False)[0]]
        assert measured is not None
        values = summary(measured.measurement, asked.evaluate.ks, None, resamples=1)
        ks = sorted({1, max(asked.evaluate.ks)})
        return ", ".join([name, *(f"Pass@{k} {values[f'pass@{k}'].value:.3f}" for k in ks if f"pass@{k}" in values)])

    async def measure(self, serving: Serving, name: str) -> None:
        """Measure a policy, unless it is in the cache."""
        self.measuring.progress.plan(await self.measuring.left(name))
        await serving.measure(name)

    async def _measure_checkpoint(self, serving: Serving, path: Path) -> bool:
        """Measure a checkpoint. Returns whether it could be: it may be removed at any time."""
        name = path.name
        copy = self.copies / name
        reason = await self.run.hold(path, copy)
        if reason:
            self.log(f"watch: {name} is skipped, because {reason}")
            return False
        try:
            encoder = PromptEncoder(replace(self.cfg.policy, path=str(copy)))
            for asked in self.measuring.asked:
                asked.posed.encoders[name] = encoder
                asked.posed.first[name] = encoder.shown(encoder(asked.posed.prompts[0]))
            self.measuring.checkpoints[name] = str(copy)
            await self.measure(serving, name)
            digest = self.measuring.digests[str(copy)]
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        self._note(name, str(path / "policy"), digest)
        return True

    def _note(self, name: str, path: str, digest: str) -> None:
        """Remember a measured checkpoint, which is known by its own place from now on."""
        self.measuring.checkpoints[name] = path
        known = {n: {"path": p, "digest": d} for n, p, d in self._noted()} | {name: {"path": path, "digest": digest}}
        write_json(self.folder / WATCHED, known)

    def _noted(self) -> Iterator[tuple[str, str, str]]:
        with suppress(OSError, ValueError):
            for name, one in json.loads((self.folder / WATCHED).read_text()).items():
                yield name, one["path"], one["digest"]

    async def read_measured(self) -> None:
        """Read the checkpoints that this job had measured before it was interrupted, also those that are gone."""
        for name, path, digest in list(self._noted()):
            self.measuring.checkpoints[name], self.measuring.digests[path] = path, digest
            for asked in self.measuring.asked:
                asked.posed.first.setdefault(name, "")
            if await self.measuring.look_up(name):
                self.measuring.forget(name)
            else:
                self._seen.add(name)

    def _state(self) -> tuple[int, ...]:
        """Return what changes while a run goes on: the sizes of its records."""
        files = (self.run.records / name for name in (METRICS, EVENTS))
        return tuple(file.stat().st_size if file.is_file() else 0 for file in files)


def _ended(run: WatchedRun) -> bool:
    """Return whether the run has written the checkpoint of its end: of the last step, or of that in which it stopped.

    The event of a stop comes before the record of its step. A resumed run has a later record.
    """
    steps = [step_of(path) for path in run.checkpoints()]
    records = read_records(run.records / METRICS)
    if not steps or not records:
        return False
    with suppress(OSError, yaml.YAMLError, KeyError, TypeError):
        if steps[-1] >= yaml.safe_load((run.records / SETTINGS).read_text())["steps"]:
            return True
    before = records[-2].get("time", 0.0) if len(records) > 1 else 0.0
    stopped = any(title in STOPS and when > before for title, when in _events(run.records))
    return stopped and bool(steps[-1] == records[-1]["step"])


def _events(records: Path) -> Iterator[tuple[str, float]]:
    """Yield title and time of each event of a run."""
    with suppress(OSError):
        for line in (records / EVENTS).read_text(errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                event = json.loads(line)
                yield str(event["title"]), float(event["time"])
