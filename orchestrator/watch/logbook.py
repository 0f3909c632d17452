"""Write the records of a run: metrics.jsonl, trajectories.jsonl, held-out measurements and events.jsonl.

metrics.jsonl holds one JSON line per step. These files are authoritative; console, W&B and TensorBoard (the sinks) hold
copies. A sink that raises is turned off, counted and reported once, and training continues.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.logbook import LogbookConfig
from orchestrator.console.choice import open_screen
from orchestrator.console.json_lines import encode
from orchestrator.console.run_console import RunConsole
from orchestrator.console.screen import Screen
from orchestrator.manifest import saved
from orchestrator.rollout.signals import Signals
from orchestrator.sinks.answer_table import table_row
from orchestrator.sinks.copies import CONSOLE, Copies, open_sinks, own_id
from orchestrator.sinks.sink import Sink
from orchestrator.watch.alarms import Alarms
from orchestrator.watch.answer_rows import answer_row
from orchestrator.watch.bootstrap import Interval
from orchestrator.watch.measurement import Measurement
from trajectories.atomic_write import replace_file
from trajectories.trajectory import Group

METRICS = "metrics.jsonl"
TRAJECTORIES = "trajectories.jsonl"
EVENTS = "events.jsonl"
ALERT_TITLE_LIMIT = 63
"""W&B's limit on the characters of an alert's title."""


def measurement_path(run_dir: Path, step: int) -> Path:
    """Return the file that holds the held-out measurement of `step`."""
    return run_dir / "measurements" / f"step-{step:06d}.json"


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the complete records of a jsonl file, oldest first; empty if the file does not exist."""
    return [record for _, record in _records(path) if record is not None] if path.exists() else []


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield line numbers from 1 and their records; None for a line that is not a JSON object with a step."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            yield number, record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def truncate_records(path: Path, step: int) -> list[str]:
    """Drop the records of `path` after `step` and the lines that are not records.

    Returns:
        Warnings for the user: the lines that were not records, and whether steps before `step` are missing.
    """
    if not path.exists():
        return [f"{path.name} is missing; its records begin after step {step}"] if step else []
    broken_lines: list[int] = []
    last = -1

    def kept() -> Iterator[bytes]:
        nonlocal last
        for number, record in _records(path):
            if record is None:
                broken_lines.append(number)
            elif record["step"] <= step:
                last = max(last, record["step"])
                yield encode(record)

    with replace_file(path) as file:
        file.writelines(kept())
    warnings = [f"{path.name}: line {number} was incomplete or not a record and is dropped" for number in broken_lines]
    if path.name == METRICS and last < step and step:
        warnings.append(
            f"{path.name} ends at step {last}, but the checkpoint is of step {step}: the steps between are missing"
        )
    return warnings


class Logbook:
    """Write the metrics, sampled answers, measurements and events of a run to its directory and to the sinks.

    Args:
        settings: the resolved settings, stored in W&B.
        wandb_id: id of the W&B run to continue; None for a new run, or one that resumes without a checkpoint.
        render: returns the text of token ids with special tokens visible.
        resume_step: step of the checkpoint that the run resumes from, None for a new run. Records after that step are
            dropped, so that no step is missing or appears twice.
        screen: where `logbook.console` shows the steps; None opens one.

    Raises:
        ValueError: a new run's directory already holds metrics.jsonl.
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
        render: Callable[[Sequence[int]], str],
        resume_step: int | None,
        screen: Screen | None = None,
    ) -> None:
        self._run_dir, self._render = run_dir, render
        self._config = config
        self.copies, self._alarms = Copies(self._record_locally, screen), Alarms()
        run_dir.mkdir(parents=True, exist_ok=True)
        self.wandb_id = wandb_id or own_id(run_dir, resumed=resume_step is not None)
        """Id of the run in W&B. A resumed run passes it in again and continues the same W&B run."""
        warnings = self._open_files(resume_step)
        first_step = resume_step or 0
        if config.console:
            records = reversed(read_records(run_dir / METRICS))
            held_out = ({k: v for k, v in r.items() if k.startswith("heldout/") and v is not None} for r in records)
            place: dict[str, Any] = {"run_name": run_name, "total_steps": total_steps, "first_step": first_step}
            measured, shown = next(filter(None, held_out), {}), screen or open_screen()
            self.copies.open(CONSOLE, lambda: RunConsole(shown, measured=measured, **place))
        for warning in warnings:
            self._record_locally("warning", "resume", warning)
        open_sinks(
            self.copies,
            config,
            run_dir,
            run_id=self.wandb_id,
            run_name=run_name,
            settings=settings,
            resume_step=resume_step,
            log_from=screen.kept_from() if screen else 0,
        )

    def _open_files(self, resume_step: int | None) -> list[str]:
        path = self._run_dir / METRICS
        warnings: list[str] = []
        if resume_step is not None:
            warnings = truncate_records(path, resume_step)
            if (self._run_dir / TRAJECTORIES).exists():
                warnings += truncate_records(self._run_dir / TRAJECTORIES, resume_step)
            for stale in (self._run_dir / "measurements").rglob("step-*.json"):
                if stale.name > measurement_path(self._run_dir, resume_step).name:
                    stale.unlink()
        elif path.exists() and path.stat().st_size:
            raise ValueError(
                f"name: must be the name of a new run (--resume continues a run), got {path}, which holds records"
            )
        records = read_records(path)
        for record in records:  # What they raise was reported before.
            self._alarms.observe({name: math.nan if value is None else value for name, value in record.items()})
        self._record: dict[str, Any] = records[-1] if records else {"step": -1}
        self._line = encode(self._record) if records else b""
        self._earlier_tokens = 0.0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._end = os.fstat(self._file).st_size
        return warnings

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append the record of `step`, or add `values` to it if it is the last record.

        The record is on disk when this returns. The logbook itself adds the keys `step`, `time`, `tokens_total` and
        `sinks/NAME/dropped`.
        """
        last = self._record["step"]
        assert step >= last, f"step {step} is before step {last}, the last one of metrics.jsonl"
        assert not {"step", "time"} & set(values), "`step` and `time` are reserved keys of a record"
        plain = {name: value if isinstance(value, int) else float(value) for name, value in values.items()}
        plain |= self.copies.count_dropped()
        if step > last:
            self._earlier_tokens = self._record.get("tokens_total", self._earlier_tokens)
        if step > last or "tokens" in plain:  # every record has it, also that of step 0, so that it can be an axis
            plain["tokens_total"] = self._earlier_tokens + plain.get("tokens", 0.0)
        if step > last:
            start, record = self._end, {"step": step, "time": time.time(), **plain}
            line = encode(record)
        else:
            start, record = self._end - len(self._line), {**self._record, **plain}
            # Spaces pad a record that became shorter, so that one write replaces the whole old line.
            line = encode(record)[:-1].ljust(len(self._line) - 1) + b"\n"
        written = os.pwrite(self._file, line, start)
        if written != len(line):
            raise OSError(f"{self._run_dir / METRICS}: wrote {written} of {len(line)} bytes of step {step}")
        os.fsync(self._file)
        self._record, self._line, self._end = record, line, start + len(line)
        self.copies.forward(lambda sink: sink.write(step, plain))
        for title, text in self._alarms.observe(plain):
            self.alert(title, text)

    def sampled(self, step: int, answers: int) -> list[int]:
        """Return the numbers of the answers of `step`, of so many, that are written to trajectories.jsonl."""
        every, wanted = self._config.trajectories_every, self._config.trajectories
        if not every or step % every:
            return []
        stride = max(answers / wanted, 1.0)
        return [int(i * stride) for i in range(min(wanted, answers))]

    def trajectories(
        self,
        step: int,
        groups: Sequence[Group],
        unsampled: Sequence[Group] = (),
        signals: Signals | None = None,
    ) -> None:
        """Write sampled answers of this step, and every answer that could not be graded, one row each.

        The sample is taken every `trajectories_every` steps, evenly spread over the groups. Answers with the status
        grader_error are written at every step. Only the sample goes to the sinks.

        Args:
            step: number of the step.
            groups: the groups that the step trained on.
            unsampled: groups of which only ungraded answers are written: replaced before the step, or held out.
            signals: of the step's batch.
        """
        answers = [(group, t) for group in groups for t in group.trajectories]
        trained, sampled = len(answers), self.sampled(step, len(answers))
        answers += [(group, t) for group in unsampled for t in group.trajectories]
        ungraded = [i for i, (_, t) in enumerate(answers) if t.grade is not None and t.grade.status == "grader_error"]
        rows: dict[int, dict[str, Any]] = {}
        for i in sorted({*sampled, *ungraded}):
            values = signals.tokens(i, answers[i][1]) if signals and i < trained else {}
            rows[i] = answer_row(step, *answers[i], self._render, values)
        if not rows:
            return
        with (self._run_dir / TRAJECTORIES).open("ab") as file:
            file.writelines(encode(row) for row in rows.values())
        if sampled:
            short = [
                table_row(rows[i], t, self._render, signals.row(i, t) if signals else {})
                for i, t in ((i, answers[i][1]) for i in sampled)
            ]
            self.copies.forward(lambda sink: sink.table(step, "answers", short))

    def measurement(self, step: int, summary: Mapping[str, Interval], measurement: Measurement) -> None:
        """Add the held-out values and intervals to the record of `step`, and write the measurement to its own file."""
        measurement.write(measurement_path(self._run_dir, step))
        values: dict[str, float] = {"heldout/ungraded": measurement.ungraded}
        for name, interval in summary.items():
            values[f"heldout/{name}"] = interval.value
            values[f"heldout/{name}/low"] = interval.low
            values[f"heldout/{name}/high"] = interval.high
        self.write(step, values)

    def alert(self, title: str, text: str) -> None:
        """Report an event that needs the user's attention, in events.jsonl and in all sinks."""
        self._record_event("alert", title, text)
        self.copies.forward(lambda sink: sink.alert(title[:ALERT_TITLE_LIMIT], text))

    def note(self, title: str, text: str, *, shown: bool = False) -> None:
        """Report an event that needs no attention, in events.jsonl and, unless it is `shown` there, on the console."""
        (self._record_event if shown else self._record_locally)("info", title, text)

    def doing(self, name: str, progress: Callable[[], str]) -> None:
        """Show on the console that a call begins, by its name in `seconds/NAME`.

        Args:
            progress: returns how far the generation of groups is, in words.
        """
        self._on_console(lambda console: console.doing(name, progress))

    def close(self, failed: bool = False) -> None:
        """Close metrics.jsonl and all sinks, with the run's artifacts in W&B if `logbook.wandb_artifacts` is set.

        Args:
            failed: whether the run ended with an error.
        """
        if self._config.wandb_artifacts:
            self._copy_artifacts()
        self.copies.close(failed)
        os.close(self._file)

    def _copy_artifacts(self) -> None:
        checkpoints = saved(self._run_dir / "checkpoints")
        if checkpoints:
            step = int(checkpoints[-1].name.removeprefix("step-"))
            self.copies.files(step, "policy", checkpoints[-1] / "policy")
        for path in sorted(self._run_dir.glob("*.html")):
            self.copies.files(self._record["step"], f"report-{path.stem}", path)

    def _record_locally(self, level: str, title: str, text: str) -> None:
        """Report an event in events.jsonl and on the console, not in W&B or TensorBoard."""
        self._record_event(level, title, text)
        self._on_console(lambda console: console.note(level, title, text))

    def _on_console(self, act: Callable[[RunConsole], None]) -> None:
        def on(sink: Sink) -> None:
            assert isinstance(sink, RunConsole)
            act(sink)

        self.copies.forward(on, names={CONSOLE})

    def _record_event(self, level: str, title: str, text: str) -> None:
        with (self._run_dir / EVENTS).open("ab") as file:
            file.write(encode({"time": time.time(), "level": level, "title": title, "text": text}))
