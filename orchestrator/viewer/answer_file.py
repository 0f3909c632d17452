"""Read the answers of a run's trajectories.jsonl while the run goes, in bounded memory.

The file is the work of a policy, so nothing in it is trusted: a line that is no record is counted and passed over, and
texts and arrays of a record are checked and bounded.
"""

import json
import math
import os
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

ANSWERS_LIMIT = 100_000
"""Newest answers that are kept in the index. A summary takes about 1 kB."""
LINE_LIMIT = 16 * 2**20
"""Bytes of a line; a longer one is passed over."""
READ_LIMIT = 64 * 2**20
"""Bytes that one `refresh` reads."""
TEXT_LIMIT = 200_000
"""Characters of a text that are shown."""
TOKEN_TEXT_LIMIT = 500
"""Characters of the text of a token."""
SUMMARY_LIMIT = 300
"""Characters of a text in the index."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What the index has of an answer, by which answers are listed and filtered."""

    offset: int
    size: int
    step: int
    prompt_id: str
    sample_index: int
    status: str
    reward: float | None
    route: str
    prompt: str
    """Beginning of the prompt."""
    group_size: int
    """Answers of its group, also those that were not recorded; 0: not known."""

    def shown(self) -> list[Any]:
        """Return what the page needs of it."""
        return [
            self.step, self.prompt_id, self.sample_index, self.status, self.reward, self.route, self.prompt,
            self.group_size,
        ]  # fmt: skip


class AnswerFile:
    """The answers of one file. They are numbered from 0 in the order of the file.

    A resumed run replaces its file. The numbers then begin again, and `generation` is another one.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.generation = path, 0
        self._inode = -1
        self._begin_again()

    def _begin_again(self) -> None:
        self.summaries: deque[Summary] = deque()
        self.first = 0
        """Number of the oldest answer in the index."""
        self.broken = 0
        """Lines that are no records."""
        self._offset = 0

    def refresh(self) -> bool:
        """Read the lines that were completed since the last call, at most READ_LIMIT bytes of them.

        Returns:
            Whether there is more to read at once.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:  # Before the first sample.
            return False
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                if self._inode != -1:
                    self.generation += 1
                self._inode = status.st_ino
                self._begin_again()
            end = self._offset + READ_LIMIT
            file.seek(self._offset)
            while self._offset < end:
                size = self._read_line(file)
                if not size:
                    return False
                self._offset += size
        return True

    def _read_line(self, file: BinaryIO) -> int:
        """Take the next line into the index. Return its size, 0 if it is not complete yet."""
        line = file.readline(LINE_LIMIT)
        if line.endswith(b"\n"):
            self._take(line)
            return len(line)
        if len(line) < LINE_LIMIT:
            return 0
        size = len(line)
        while not line.endswith(b"\n"):
            line = file.readline(2**20)
            if not line:
                return 0
            size += len(line)
        self.broken += 1
        return size

    def _take(self, line: bytes) -> None:
        row = _record(line)
        if row is None:
            self.broken += 1
            return
        reward = row.get("reward")
        self.summaries.append(
            Summary(
                offset=self._offset,
                size=len(line),
                step=row["step"],
                prompt_id=_text(row.get("prompt_id"), SUMMARY_LIMIT),
                sample_index=_integer(row.get("sample_index")),
                status=_text(row.get("status"), SUMMARY_LIMIT),
                reward=reward if _is_number(reward) else None,
                route=_text(row.get("route"), SUMMARY_LIMIT),
                prompt=_text(row.get("prompt"), SUMMARY_LIMIT),
                group_size=_integer(row.get("group_size")),
            )
        )
        if len(self.summaries) > ANSWERS_LIMIT:
            self.summaries.popleft()
            self.first += 1

    @property
    def end(self) -> int:
        """Number of the next answer."""
        return self.first + len(self.summaries)

    def summary(self, number: int) -> Summary:
        """Return the summary of an answer. Raises IndexError if it is not in the index."""
        if not self.first <= number < self.end:
            raise IndexError(number)
        return self.summaries[number - self.first]

    def answer(self, number: int) -> dict[str, Any]:
        """Read an answer from the file.

        Raises:
            IndexError: it is not in the index, or the file was replaced since.
        """
        found = self.summary(number)
        try:
            with self.path.open("rb") as file:
                file.seek(found.offset)
                row = _record(file.read(found.size))
        except FileNotFoundError:
            row = None
        if row is None:
            raise IndexError(number)
        return _shown(row)


def _record(line: bytes) -> dict[str, Any] | None:
    """Return a record with a step; None if the line is none. Numbers that are not finite become None."""
    try:
        row = json.loads(line, parse_constant=lambda word: None, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and _is_integer(row.get("step")) else None


def _finite(word: str) -> float | None:
    value = float(word)
    return value if math.isfinite(value) else None


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are shown, with the types they must have."""
    texts = ("prompt_id", "prompt", "rendered", "answer", "status", "reason", "finish_reason", "route", "verifier")
    rewards = row.get("rewards")
    integers = ("sample_index", "group_size", "first_version", "last_version")
    shown = {
        "step": row["step"],
        **{name: _integer(row.get(name)) for name in integers},
        "reward": row.get("reward") if _is_number(row.get("reward")) else None,
        "rewards": {k: v for k, v in rewards.items() if _is_number(v)} if isinstance(rewards, dict) else {},
        **{name: _text(row.get(name), TEXT_LIMIT) for name in texts},
        "problem": _as_json(row.get("problem")),
        "tokens": _tokens(row.get("tokens")),
    }
    if shown["tokens"]:
        shown["tokens"]["staleness"] = _staleness(shown)
    return shown


def _staleness(row: Mapping[str, Any]) -> list[int | None]:
    """Return for each token how many steps the weights that generated it were behind; None where they are not known.

    The weight versions of the first and the last token are known. If they differ, those between are not.
    """
    texts = len(row["tokens"]["texts"])
    first, last = (row["step"] - 1 - row[name] for name in ("first_version", "last_version"))
    if row["route"] == "explore" and first == last:
        return [first] * texts
    found: list[int | None] = [None] * texts
    if row["route"] == "explore" and texts:
        if texts == row["tokens"]["count"]:  # else the texts are those of the first tokens only
            found[-1] = last
        found[0] = first
    return found


def _tokens(tokens: Any) -> dict[str, Any]:
    """Return the texts of tokens with the columns that are aligned with them; empty if there are none."""
    texts = tokens.get("texts") if isinstance(tokens, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return {}
    columns = {
        name: values
        for name, values in tokens.items()
        if isinstance(values, list) and len(values) == len(texts) and all(v is None or _is_number(v) for v in values)
    }
    return {
        **columns,
        "texts": [_text(text, TOKEN_TEXT_LIMIT) for text in texts],
        "count": _integer(tokens.get("count")),
    }


def _as_json(value: Any) -> str:
    try:
        return _text(json.dumps(value, indent=1, ensure_ascii=False), TEXT_LIMIT) if value else ""
    except RecursionError:
        return ""


def _text(value: Any, limit: int) -> str:
    if not isinstance(value, str):
        return ""
    more = len(value) - limit
    return value if more <= 0 else f"{value[:limit]} ... {more:,} more characters"


def _integer(value: Any) -> int:
    return value if _is_integer(value) else 0


def _is_integer(value: Any) -> bool:
    """Return whether a value is a whole number that the page's JavaScript has exactly."""
    return type(value) is int and abs(value) < 2**53


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
