"""A file of answers graded row by row: verdicts in the order of the rows, one for each, whatever it holds."""

import asyncio
import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rewards.judge import Judge
from rewards.verdict import Verdict, grader_error
from trajectories.atomic_write import replace_file

LINE_LIMIT = 48 * 2**20
"""Bytes of one row."""
ROWS_AHEAD = 1_024
BYTES_AHEAD = 128 * 2**20
"""Rows read and not yet written; a row above the bytes goes alone."""
FIELDS: dict[str, dict[str, tuple[type, ...]]] = {
    "math": {"gold": (str, int, float)},
    "sql": {"schema_sql": (str,), "gold_sql": (str,)},
    "code": {"kind": (str,), "tests": (str, list)},
}
"""What a row of each verifier of ours must hold besides id and answer; of another verifier, nothing."""
NAMES = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object", bool: "a truth value"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line that is not blank."""

    number: int
    """Of the line, from 1."""
    size: int
    """Bytes."""
    id: str | int | float | None = None
    problem: dict[str, Any] | None = None
    """None: the row cannot be graded."""
    answer: str = ""
    refusal: str = ""


async def grade_file(judge: Judge, verifier: str, source: Path, target: Path, done: Callable[[str, int], None]) -> None:
    """Grade the rows of `source` into `target`, which appears when whole; `done(status, bytes)` after each row."""
    waiting: deque[tuple[Row, asyncio.Task[Verdict]]] = deque()
    try:
        with source.open("rb") as rows, replace_file(target) as output:

            async def write_first() -> int:
                row, judging = waiting.popleft()
                verdict = await judging
                output.write(_record(row, verdict))
                done(verdict.status, row.size)
                return row.size

            ahead = 0
            for row in read_rows(rows, verifier):
                while waiting and (len(waiting) >= ROWS_AHEAD or ahead + row.size > BYTES_AHEAD):
                    ahead -= await write_first()
                waiting.append((row, asyncio.create_task(_judged(judge, verifier, row))))
                ahead += row.size
            while waiting:
                await write_first()
    finally:
        for _, judging in waiting:
            judging.cancel()
        await asyncio.gather(*(judging for _, judging in waiting), return_exceptions=True)


async def _judged(judge: Judge, verifier: str, row: Row) -> Verdict:
    if row.problem is None:
        return grader_error(row.refusal)
    return await judge.judge(verifier, row.problem, row.answer)


def _record(row: Row, verdict: Verdict) -> bytes:
    where = f"line {row.number}: " if verdict.status == "grader_error" else ""
    record = {
        "id": row.id,
        "reward": verdict.reward,
        "status": verdict.status,
        "reason": where + verdict.reason,
        "seconds": round(verdict.seconds, 6),
    }
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def read_rows(file: IO[bytes], verifier: str) -> Iterator[Row]:
    """The rows of a jsonl file; never more of it in memory than one line within its limit."""
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


def parse(line: bytes, number: int, verifier: str) -> Row:
    """The row of a line; one that cannot be graded says why."""
    try:
        value = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return Row(number=number, size=len(line), refusal=f"is not JSON ({error})")
    if not isinstance(value, dict):
        return Row(number=number, size=len(line), refusal=f"must be an object with fields, got {_kind(value)}")
    name = value.get("id")
    named = _is_id(name)
    fields = {"id": (str, int, float), **FIELDS.get(verifier, {}), "answer": (str,)}
    refusal = "" if named or "id" not in value else "field 'id' must be a string or a number"
    for field, kinds in fields.items():
        if field not in value:
            refusal = refusal or f"has no field {field!r}"
        elif isinstance(value[field], bool) or not isinstance(value[field], kinds):
            wanted = " or ".join(dict.fromkeys(NAMES[kind] for kind in kinds))
            refusal = refusal or f"field {field!r} must be {wanted}, got {_kind(value[field])}"
    row_id = name if named else None
    if refusal:
        return Row(number=number, size=len(line), id=row_id, refusal=refusal)
    answer = value.pop("answer")
    del value["id"]
    if verifier == "math":
        value = {"answer": value["gold"]}
    return Row(number=number, size=len(line), id=row_id, problem=value, answer=answer)


def _is_id(value: Any) -> bool:
    finite = not isinstance(value, float) or math.isfinite(value)
    return isinstance(value, str | int | float) and not isinstance(value, bool) and finite


def _kind(value: Any) -> str:
    return "null" if value is None else NAMES[type(value)]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
