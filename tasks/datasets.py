"""The user's own problems: rows of a jsonl or parquet file, each with a prompt and its right answer."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet

from configs.checks import require
from tasks.source import digest, generator
from trajectories.trajectory import Prompt


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """`task.options` of dataset."""

    path: str = ""
    """File of rows, .jsonl or .parquet."""
    heldout_path: str = ""
    """File of held-out rows. Empty: a share of `path` is held out."""
    heldout_fraction: float = 0.1
    """Share of the prompts in `path` that is held out, by a hash of the prompt; unused when `heldout_path` is given."""
    prompt_field: str = "prompt"
    answer_field: str = "answer"
    """The right answer: a string or a number. Every column reaches the verifier, this one as `answer` too."""
    verifier: str = "math"

    def __post_init__(self) -> None:
        for name in ("path", "prompt_field", "answer_field", "verifier"):
            require(bool(getattr(self, name)), f"task.options.{name}", "must not be empty", getattr(self, name))
        rule = "must be between 0 and 1, both excluded"
        require(0 < self.heldout_fraction < 1, "task.options.heldout_fraction", rule, self.heldout_fraction)


class Dataset:
    """A Source over the rows of a file; every epoch has an order of its own, fixed by (seed, epoch)."""

    def __init__(self, options: DatasetOptions, seed: int) -> None:
        """Raises ValueError naming file, line and reason on a malformed row, a missing file or an empty side."""
        self.options = options
        self.seed = seed
        self._order: tuple[int, list[int]] = (-1, [])
        rows = _read(options, options.path, "path")
        if options.heldout_path:
            heldout = _read(options, options.heldout_path, "heldout_path")
            _refuse_overlap(options, rows, heldout)
        else:
            limit = options.heldout_fraction * 2**64
            heldout = [row for row in rows if _side(row.text) < limit]
            rows = [row for row in rows if _side(row.text) >= limit]
        require(bool(rows), "task.options.path", "must hold at least one row for training", options.path)
        self._rows = rows
        self._heldout = sorted(heldout, key=lambda row: (digest(row.text), row.line))

    def prompt(self, position: int) -> Prompt:
        require(position >= 0, "position", "must not be negative", position)
        epoch, place = divmod(position, len(self._rows))
        return self._prompt("train", position, self._rows[self._epoch_order(epoch)[place]])

    def heldout(self, count: int) -> list[Prompt]:
        rule = f"must be at most the {len(self._heldout)} held-out rows of {self._heldout_file}"
        require(count <= len(self._heldout), "task.heldout_prompts", rule, count)
        return [self._prompt("heldout", index, row) for index, row in enumerate(self._heldout[:count])]

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        raise ValueError(f"task.name: must be a task that knows worked solutions, got 'dataset' ({self.options.path})")

    @property
    def _heldout_file(self) -> str:
        return self.options.heldout_path or f"{self.options.path} (task.options.heldout_fraction)"

    def _epoch_order(self, epoch: int) -> list[int]:
        if self._order[0] != epoch:
            order = list(range(len(self._rows)))
            generator(self.seed, "dataset", "epoch", epoch).shuffle(order)
            self._order = (epoch, order)
        return self._order[1]

    def _prompt(self, stream: str, position: int, row: "Row") -> Prompt:
        return Prompt(
            id=f"dataset/{stream}/line-{row.line}",
            position=position,
            text=row.text,
            verifier=self.options.verifier,
            problem=row.problem,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of a file: its prompt, what its verifier needs, and where it stood (lines count from 1)."""

    text: str
    problem: Mapping[str, Any]
    line: int


def _side(text: str) -> int:
    """Hash that decides the side of a prompt; prompts that differ in white space only share it."""
    return digest("side/" + " ".join(text.split()))


def _refuse_overlap(options: DatasetOptions, rows: list[Row], heldout: list[Row]) -> None:
    held = {_side(row.text): row.line for row in heldout}
    for row in rows:
        if _side(row.text) in held:
            where = f"{options.path}, line {row.line}"
            raise ValueError(f"{where}: the prompt is also in {options.heldout_path}, line {held[_side(row.text)]}")


def _read(options: DatasetOptions, path: str, field: str) -> list[Row]:
    require(Path(path).is_file(), f"task.options.{field}", "must be an existing file", path)
    readers = {".jsonl": _jsonl, ".parquet": _parquet}
    suffix = Path(path).suffix
    require(suffix in readers, f"task.options.{field}", "must end in .jsonl or .parquet", path)
    return [_row(options, path, line, value) for line, value in readers[suffix](path)]


def _jsonl(path: str) -> Iterator[tuple[int, Any]]:
    """Line number and value of every line that is not blank."""
    with open(path, "rb") as file:
        for line, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                yield line, json.loads(raw.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}, line {line}: is not JSON ({error})") from None


def _parquet(path: str) -> Iterator[tuple[int, Any]]:
    """Row number and row, one batch of rows in memory at a time."""
    try:
        with parquet.ParquetFile(path) as file:
            line = 0
            for batch in file.iter_batches():
                for value in batch.to_pylist():
                    line += 1
                    yield line, value
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: is not a readable parquet file ({error})") from None


def _row(options: DatasetOptions, path: str, line: int, value: Any) -> Row:
    def refuse(reason: str) -> ValueError:
        return ValueError(f"{path}, line {line}: {reason}")

    if not isinstance(value, dict):
        raise refuse(f"must be an object with fields, got {type(value).__name__}")
    for field in (options.prompt_field, options.answer_field):
        if field not in value:
            raise refuse(f"has no field {field!r}; its fields are {', '.join(map(repr, value)) or 'none'}")
    text, answer = value[options.prompt_field], value[options.answer_field]
    if not isinstance(text, str) or not text.strip():
        raise refuse(f"field {options.prompt_field!r} must be a non-empty string, got {text!r}")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        raise refuse(f"field {options.answer_field!r} must be a non-empty string or a number, got {answer!r}")
    problem = value | {"answer": answer}
    try:
        json.dumps(problem)
    except (TypeError, ValueError) as error:
        raise refuse(f"must hold JSON values only ({error})") from None
    return Row(text=text, problem=problem, line=line)
