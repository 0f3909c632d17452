"""Grade the rows of a jsonl file: read them, judge their answers, and convert the verdicts to output rows.

Two kinds of rows are read. A plain row has the fields `id`, `answer` and those that its verifier needs. A recorded row,
as in a run's trajectories.jsonl, has `verifier`, `problem`, `answer` and the verdict of the run.
"""

import asyncio
import contextlib
import dataclasses
import json
import math
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from configs.rewards import ANSWER_REWARD
from rewards.judge import Judge
from rewards.registry import VERIFIERS, check, names
from rewards.verdict import STATUSES, Verdict, grader_error
from rewards.verifier import JSON_TYPES, Field
from rewards.workers.task import Task
from trajectories.atomic_write import replace_file
from trajectories.trajectory import domain

LINE_LIMIT = 48 * 2**20
"""Largest number of bytes of one row."""
ROWS_AHEAD = 1_024
BYTES_AHEAD = 128 * 2**20
"""Limits on the rows that were read and whose verdict is not yet returned. One row may exceed BYTES_AHEAD."""
RowId = str | int | float | None
NO_FIELDS: Mapping[str, Any] = {}
ID, ANSWER, PROBLEM = (
    Field(name="id", types=(str, int, float)),
    Field(name="answer", types=(str,)),
    Field(name="problem", types=(dict,)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The verdict of a run on a row's answer."""

    reward: float | None
    status: str

    def differs(self, verdict: Verdict) -> bool:
        """Return whether status or reward differ from the verdict's. The wording of the reason does not count."""
        return (self.status, self.reward) != (verdict.status, verdict.reward)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the file that is not blank."""

    number: int
    """Line number, from 1."""
    size: int
    """Size of the line in bytes."""
    id: RowId = None
    verifier: str = ""
    """Empty: the row names none."""
    problem: dict[str, Any] | None = None
    """None: the row cannot be graded."""
    answer: str = ""
    context: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What is recorded of the context of the answer (see `rewards.forms.Call`)."""
    refusal: str = ""
    """Why the row cannot be graded."""
    recorded: Recorded | None = None
    """None for a plain row."""
    label: bool | None = None
    """Whether the answer is right, by the row's own field `correct`; None: it has none that is true or false."""


async def grade_rows(
    judge: Judge, source: Path, verifier: str | None, compare: str | None = None
) -> AsyncGenerator[tuple[Row, list[Verdict]], None]:
    """Grade the rows of `source` and yield each with its verdicts, in the order of the file.

    Args:
        judge: the judge of all rows.
        source: the jsonl file.
        verifier: the verifier of all rows; None: each row names its own.
        compare: a second verifier, whose verdict is the second of each row.
    """
    waiting: deque[tuple[Row, asyncio.Task[list[Verdict]]]] = deque()
    bytes_waiting = 0
    try:
        with source.open("rb") as file:
            for row in read_rows(file, verifier):
                while waiting and (len(waiting) >= ROWS_AHEAD or bytes_waiting + row.size > BYTES_AHEAD):
                    first, judging = waiting.popleft()
                    bytes_waiting -= first.size
                    yield first, await judging
                waiting.append((row, asyncio.create_task(_judge(judge, row, compare))))
                bytes_waiting += row.size
            while waiting:
                first, judging = waiting.popleft()
                yield first, await judging
    finally:
        for _, judging in waiting:
            judging.cancel()
        await asyncio.gather(*(judging for _, judging in waiting), return_exceptions=True)


async def _judge(judge: Judge, row: Row, compare: str | None) -> list[Verdict]:
    verifiers = [row.verifier, *([compare] if compare else [])]
    if row.problem is None:
        return [grader_error(row.refusal) for _ in verifiers]
    return await judge.judge_many([Task(name, row.problem, row.answer, row.context) for name in verifiers])


def output_row(row: Row, verdict: Verdict, more: Mapping[str, Any] = NO_FIELDS) -> bytes:
    """Return one line of the output file. For a recorded row it also has the run's verdict, and whether it changed.

    Args:
        more: further fields of the line.
    """
    where = f"line {row.number}: " if verdict.status == "grader_error" else ""
    record = {
        "id": row.id,
        "reward": verdict.reward,
        "status": verdict.status,
        "reason": where + verdict.reason,
        "seconds": round(verdict.seconds, 6),
    }
    if row.recorded is not None:
        record |= {
            "recorded_reward": row.recorded.reward,
            "recorded_status": row.recorded.status,
            "changed": row.recorded.differs(verdict),
        }
    return json.dumps(record | dict(more), allow_nan=False).encode() + b"\n"


@contextlib.contextmanager
def whole_file(target: Path | None) -> Iterator[IO[bytes] | None]:
    """Open `target` for writing. It appears, or replaces the old file, only if the block ends without an exception.

    Without a target, nothing is opened.
    """
    if target is None:
        yield None
        return
    with replace_file(target) as file:
        yield file


def named_verifiers(source: Path) -> list[str]:
    """Return the verifiers that the rows of a file name. A line that is not an object is skipped: it cannot be graded.

    Raises:
        ValueError: a row names no verifier, or one that does not exist.
    """
    found: set[str] = set()
    with source.open("rb") as file:
        for row in read_rows(file, None):
            if row.verifier and row.verifier not in found:
                check(row.verifier, f"--input: line {row.number}: field 'verifier'")
                found.add(row.verifier)
    return sorted(found)


def read_rows(file: IO[bytes], verifier: str | None) -> Iterator[Row]:
    """Yield the rows of a jsonl file. At most LINE_LIMIT bytes of a line are in memory. Raises as `parse` does."""
    number = 0
    while line := file.readline(LINE_LIMIT):
        number += 1
        size = len(line)
        if size == LINE_LIMIT and not line.endswith(b"\n"):
            while rest := file.readline(LINE_LIMIT):
                size += len(rest)
                if rest.endswith(b"\n"):
                    break
            yield Row(number=number, size=size, refusal=f"takes {size} bytes, above {LINE_LIMIT}")
        elif line.strip():
            yield parse(line, number, verifier)


def parse(line: bytes, number: int, verifier: str | None) -> Row:
    """Return the row of a line. A row that cannot be graded has the reason as its refusal.

    Args:
        line: JSON text.
        number: line number, from 1.
        verifier: the verifier of all rows; None: the row must name its own.

    Raises:
        ValueError: `verifier` is None and the row has no string as its field `verifier`.
    """
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return Row(number=number, size=len(line), refusal=f"is not JSON ({error})")
    if not isinstance(value, dict):
        return Row(number=number, size=len(line), refusal=f"must be an object with fields, got {_type_name(value)}")
    # The logbook writes null for a problem that is not JSON. Any other type is a plain row's own field.
    is_recorded = "verifier" in value and isinstance(value.get("problem", ""), dict | None)
    if verifier is None:
        verifier = _row_verifier(value, number)
        value = value if is_recorded else {name: field for name, field in value.items() if name != "verifier"}
    if is_recorded:
        return _recorded_row(value, number, len(line), verifier)
    return _plain_row(value, number, len(line), verifier)


def _row_verifier(value: dict[str, Any], number: int) -> str:
    name = value.get("verifier")
    if isinstance(name, str) and name:
        return name
    got = f"{name!r:.100}" if "verifier" in value else f"a row with the fields {', '.join(value)!r:.200}"
    raise ValueError(
        f"--input: line {number}: field 'verifier': must be one of {names()}, or --verifier must name the verifier of "
        f"all rows, got {got}"
    )


def _plain_row(value: dict[str, Any], number: int, size: int, verifier: str) -> Row:
    row_id = value.get("id")
    id_allowed = _is_id(row_id)
    refusal = "" if id_allowed or "id" not in value else "field 'id' must be a string or a number"
    known = VERIFIERS[verifier].fields if verifier in VERIFIERS else ()
    refusal = refusal or _first_fault(value, (ID, *known, ANSWER))
    row = Row(number=number, size=size, id=row_id if id_allowed else None, verifier=verifier, label=_label(value))
    if refusal:
        return replace(row, refusal=refusal)
    keys = {field.name: field.key or field.name for field in known}
    problem = {keys.get(name, name): field for name, field in value.items() if name not in ("id", "answer")}
    return replace(row, problem=problem, answer=value["answer"])


def _recorded_row(value: dict[str, Any], number: int, size: int, verifier: str) -> Row:
    row_id = value.get("id")
    if "id" not in value and "prompt_id" in value:
        row_id = f"{value['prompt_id']}#{value.get('sample_index')}"
    refusal = _first_fault(value, (PROBLEM, ANSWER))
    return Row(
        number=number,
        size=size,
        id=row_id if _is_id(row_id) else None,
        verifier=verifier,
        problem=None if refusal else value["problem"],
        answer="" if refusal else value["answer"],
        context=_recorded_context(value),
        refusal=refusal,
        recorded=_recorded_verdict(value),
        label=_label(value),
    )


def _label(value: dict[str, Any]) -> bool | None:
    """Return the row's field `correct`, if it is true or false, or 1 or 0."""
    label = value.get("correct")
    return bool(label) if isinstance(label, int) and label in (0, 1) else None


def _recorded_context(value: dict[str, Any]) -> dict[str, Any]:
    """Return what a row of trajectories.jsonl has of the context of `rewards.forms.Call`."""
    prompt_id = value.get("prompt_id")
    names = {"prompt": "prompt", "last_version": "step"}
    context = {key: value[name] for name, key in names.items() if name in value}
    return context | ({"domain": domain(prompt_id)} if isinstance(prompt_id, str) else {})


def _recorded_verdict(value: dict[str, Any]) -> Recorded | None:
    """Return the recorded verdict of the row's verifier; None if there is none, or another reward's grader failed."""
    reward, status, parts = value.get("reward"), value.get("status"), value.get("rewards")
    if isinstance(parts, dict):  # several rewards, of which the row's `verifier` gave this one
        reward = parts.get(ANSWER_REWARD)
        if (reward is None) != (status == "grader_error"):
            return None
    if "reward" not in value or status not in STATUSES or not isinstance(reward, int | float | None):
        return None
    return Recorded(reward=reward, status=status)


def _first_fault(value: dict[str, Any], fields: tuple[Field, ...]) -> str:
    """Return what is wrong with the first field that is missing or has another type; empty if there is none."""
    for field in fields:
        if field.name not in value:
            return f"has no field {field.name!r}"
        found = value[field.name]
        if isinstance(found, bool) or not isinstance(found, field.types):
            return f"field {field.name!r} must be {field.allowed}, got {_type_name(found)}"
    return ""


def _is_id(value: Any) -> bool:
    finite = not isinstance(value, float) or math.isfinite(value)
    return isinstance(value, str | int | float) and not isinstance(value, bool) and finite


def _type_name(value: Any) -> str:
    return "null" if value is None else JSON_TYPES[type(value)]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
