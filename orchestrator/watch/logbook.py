"""The logbook of a run: metrics.jsonl and trajectories.jsonl are the truth; console, W&B and TensorBoard are copies.

One JSON line per step. A copy that fails is turned off, counted and said once; training goes on.
"""

import json
import math
import os
import secrets
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from configs.logbook import LogbookConfig
from orchestrator.watch.console import Console
from orchestrator.watch.passk import Interval, Measurement
from orchestrator.watch.sinks import Sink, TensorboardSink, WandbSink
from trajectories.trajectory import Group, Trajectory

METRICS = "metrics.jsonl"
TRAJECTORIES = "trajectories.jsonl"
EVENTS = "events.jsonl"
ALERT_TITLE_LIMIT = 63
"""Characters of an alert's title that W&B takes."""
TABLE_TEXT_LIMIT = 2_000
"""Characters of a prompt or an answer in a sink's table; trajectories.jsonl has them whole."""


def measurement_path(run_dir: Path, step: int) -> Path:
    return run_dir / "measurements" / f"step-{step:06d}.json"


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a jsonl file that are whole, oldest first; empty when there is no file."""
    return [record for _, record in _records(path) if record is not None] if path.exists() else []


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Line numbers from 1 and their records; None for a line that is no JSON object with a step."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def encode(record: Mapping[str, Any]) -> bytes:
    """One line of strict JSON: a number that JSON lacks (NaN, infinities) becomes null."""
    safe = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(safe, allow_nan=False).encode() + b"\n"


def write_aside(path: Path, chunks: Iterator[bytes]) -> None:
    """Replace `path` at once: a reader, or a crash, meets the old content or the new, never a part."""
    aside = path.with_name(path.name + ".aside")
    with aside.open("wb") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def cut_back(path: Path, step: int) -> list[str]:
    """Keep the records of `path` up to `step`; returns what a person should know: lines dropped, steps missing."""
    if not path.exists():
        return [f"{path.name} is missing; it begins again after step {step}"] if step else []
    broken: list[int] = []
    last = -1

    def kept() -> Iterator[bytes]:
        nonlocal last
        for number, record in _records(path):
            if record is None:
                broken.append(number)
            elif record["step"] <= step:
                last = max(last, record["step"])
                yield encode(record)

    write_aside(path, kept())
    notes = [f"{path.name}: line {number} was torn or no record and is dropped" for number in broken]
    if path.name == METRICS and last < step and step:
        notes.append(f"{path.name} ends at step {last}, the checkpoint is of step {step}: the steps between are lost")
    return notes


class Logbook:
    """Writes a run down. `resume_step` is the step of the checkpoint that is continued, None for a new run.

    Resuming cuts the files back to that step, so no step is missing or doubled. Raises ValueError when a new run
    finds the records of another one.
    """

    def __init__(
        self,
        run_dir: Path,
        config: LogbookConfig,
        *,
        run_name: str,
        settings: Mapping[str, Any],
        total_steps: int,
        wandb_id: str | None,
        resume_step: int | None,
    ) -> None:
        self._run_dir = run_dir
        self._config = config
        self.wandb_id = wandb_id or secrets.token_hex(4)
        """Identity of the run in W&B; a resumed run passes it in again and continues there."""
        self.failed_sinks = 0
        self._sinks: dict[str, Sink] = {}
        run_dir.mkdir(parents=True, exist_ok=True)
        notes = self._open_files(resume_step)
        first_step = resume_step or 0
        if config.console:
            self._sinks["console"] = Console(run_name=run_name, total_steps=total_steps, first_step=first_step)
        for note in notes:
            self._note("warning", "resume", note)
        if config.wandb != "disabled":
            mode = config.wandb
            self._open_sink("wandb", lambda: self._wandb(mode, run_name, settings))
        if config.tensorboard:
            purge = None if resume_step is None else resume_step + 1
            self._open_sink("tensorboard", lambda: TensorboardSink(run_dir / "tensorboard", first_step=purge))

    def _open_files(self, resume_step: int | None) -> list[str]:
        path = self._run_dir / METRICS
        notes: list[str] = []
        if resume_step is not None:
            notes = cut_back(path, resume_step)
            if (self._run_dir / TRAJECTORIES).exists():
                notes += cut_back(self._run_dir / TRAJECTORIES, resume_step)
            for stale in (self._run_dir / "measurements").glob("step-*.json"):
                if stale > measurement_path(self._run_dir, resume_step):
                    stale.unlink()
        elif path.exists() and path.stat().st_size:
            raise ValueError(f"name: must be new, or the run resumed with --resume, got {path}, which holds a run")
        records = read_records(path)
        self._record: dict[str, Any] = records[-1] if records else {"step": -1}
        self._line = encode(self._record) if records else b""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = os.fstat(self._file).st_size
        return notes

    def _wandb(self, mode: Literal["online", "offline"], run_name: str, settings: Mapping[str, Any]) -> WandbSink:
        sink = WandbSink(
            self._run_dir,
            mode=mode,
            project=self._config.wandb_project,
            run_id=self.wandb_id,
            run_name=run_name,
            settings=settings,
        )
        if sink.trouble:
            self._note("warning", "wandb", f"online failed, the run is written offline: {sink.trouble}")
        self._note("info", "wandb", sink.where)
        return sink

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the record of `step`, or add to it when it is the last one. On disk when this returns."""
        last = self._record["step"]
        assert step >= last, f"metrics.jsonl is at step {last} and cannot go back to {step}"
        assert not {"step", "time"} & set(values), "step and time are the logbook's own keys"
        plain = {name: value if isinstance(value, int) else float(value) for name, value in values.items()}
        if step > last:
            start, whole = self._end, {"step": step, "time": time.time(), **plain}
            line = encode(whole)
        else:
            start, whole = self._end - len(self._line), {**self._record, **plain}
            # Blanks fill a record that became shorter, so that one write replaces the whole old line.
            line = encode(whole)[:-1].ljust(len(self._line) - 1) + b"\n"
        written = os.pwrite(self._file, line, start)
        if written != len(line):
            raise OSError(f"{self._run_dir / METRICS}: wrote {written} of {len(line)} bytes of step {step}")
        os.fsync(self._file)
        self._record, self._line, self._end = whole, line, start + len(line)
        self._forward(lambda sink: sink.write(step, plain))

    def trajectories(self, step: int, groups: Sequence[Group], unsampled: Sequence[Group] = ()) -> None:
        """Write sampled answers of this step, and every answer that could not be graded, one row each.

        The sample is taken every `trajectories_every` steps, evenly spread over the groups. Answers with the status
        grader_error are written at every step. Only the sample goes to the sinks.

        Args:
            step: number of the step.
            groups: the groups that the step trained on.
            unsampled: groups of which only ungraded answers are written: replaced before the step, or held out.
        """
        every, wanted = self._config.trajectories_every, self._config.trajectories
        answers = [(group, t) for group in groups for t in group.trajectories]
        sampled: list[int] = []
        if every and step % every == 0:
            stride = max(len(answers) / wanted, 1.0)
            sampled = [int(i * stride) for i in range(min(wanted, len(answers)))]
        answers += [(group, t) for group in unsampled for t in group.trajectories]
        ungraded = [i for i, (_, t) in enumerate(answers) if t.grade is not None and t.grade.status == "grader_error"]
        rows = {i: _row(step, *answers[i]) for i in sorted({*sampled, *ungraded})}
        if not rows:
            return
        with (self._run_dir / TRAJECTORIES).open("ab") as file:
            file.writelines(encode(row) for row in rows.values())
        if sampled:
            short = [{name: _shown(v) for name, v in rows[i].items() if name != "problem"} for i in sampled]
            self._forward(lambda sink: sink.table(step, "trajectories", short))

    def measurement(self, step: int, summary: Mapping[str, Interval], measurement: Measurement) -> None:
        """Add the held-out values with their intervals to the record of `step`, and keep the measurement whole."""
        path = measurement_path(self._run_dir, step)
        path.parent.mkdir(exist_ok=True)
        write_aside(path, iter([measurement.to_json().encode()]))
        values: dict[str, float] = {"heldout/ungraded": measurement.ungraded}
        for name, interval in summary.items():
            values[f"heldout/{name}"] = interval.value
            values[f"heldout/{name}/low"] = interval.low
            values[f"heldout/{name}/high"] = interval.high
        self.write(step, values)

    def alert(self, title: str, text: str) -> None:
        """Say something that a person should look at: in events.jsonl, on the console, in W&B and TensorBoard."""
        self._record_event("alert", title, text)
        self._forward(lambda sink: sink.alert(title[:ALERT_TITLE_LIMIT], text))

    def close(self) -> None:
        self._forward(lambda sink: sink.close())
        self._sinks.clear()
        os.close(self._file)

    def _note(self, level: str, title: str, text: str) -> None:
        """Say what concerns only this machine: in events.jsonl and on the console."""
        self._record_event(level, title, text)
        self._forward(lambda sink: sink.alert(title, text), names={"console"})

    def _record_event(self, level: str, title: str, text: str) -> None:
        with (self._run_dir / EVENTS).open("ab") as file:
            file.write(encode({"time": time.time(), "level": level, "title": title, "text": text}))

    def _open_sink(self, name: str, start: Callable[[], Sink]) -> None:
        try:
            self._sinks[name] = start()
        except Exception as error:
            self._turn_off(name, error)

    def _forward(
        self, act: Callable[[Sink], None], names: Container[str] = ("console", "wandb", "tensorboard")
    ) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                if name in names:
                    act(sink)
            except Exception as error:  # whatever it was, a copy must not end the run
                self._turn_off(name, error)

    def _turn_off(self, name: str, error: Exception) -> None:
        self._sinks.pop(name, None)
        self.failed_sinks += 1
        self._note("warning", name, f"turned off after {type(error).__name__}: {error}")


def _row(step: int, group: Group, trajectory: Trajectory) -> dict[str, Any]:
    """Return the row of one answer. It holds what `breadth verify` needs to judge the answer again."""
    grade = trajectory.grade
    return {
        "step": step,
        "prompt_id": trajectory.prompt_id,
        "sample_index": trajectory.sample_index,
        "prompt": group.prompt.text,
        "verifier": group.prompt.verifier,
        "problem": _json_or_none(group.prompt.problem),
        "answer": trajectory.text,
        "reward": trajectory.reward,
        "status": grade.status if grade else "",
        "reason": grade.reason if grade else "",
        "first_version": trajectory.first_version,
        "last_version": trajectory.last_version,
        "finish_reason": trajectory.finish_reason,
        "route": trajectory.route,
    }


def _json_or_none(problem: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the problem, or None if it is not strict JSON: a broken problem must not end the run."""
    try:
        json.dumps(dict(problem), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return dict(problem)


def _shown(value: Any) -> Any:
    """Text as a sink can carry it: short, and valid UTF-8 whatever the policy wrote."""
    return value[:TABLE_TEXT_LIMIT].encode("utf-8", "replace").decode() if isinstance(value, str) else value
