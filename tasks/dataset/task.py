"""The task dataset: problems from the user's files, in one of the formats of `tasks/dataset/formats.py`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.checks import nearest, require
from configs.hub import rows_name
from tasks.dataset.files import data_files, rows
from tasks.dataset.formats import FORMATS, NEED_DATABASES, QUERIES, check_template, likely_format
from tasks.dataset.hub_rows import hub_files
from tasks.dataset.rows import GOLD_LIMITS, Malformed, Row, RowOptions
from tasks.options import ROWS, VERIFIER
from tasks.source import EvaluationOnly, ListedPrompt, digest, evaluation_only, generator
from trajectories.trajectory import Message, Prompt, chat_text

DATASET = "dataset"
DATABASE_DIR = "task.options.database_dir"


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(RowOptions):
    """`task.options` of dataset."""

    path: str = field(default="", metadata=ROWS)
    """A file of rows (.jsonl, .json, .csv, .parquet), a folder of them or one written by `save_to_disk`, a pattern such
    as `data/train-*`, or a dataset of the Hugging Face Hub, `org/dataset[/subset][@revision][:split]`."""
    heldout_path: str = field(default="", metadata=ROWS)
    """The same for held-out rows. Empty: a fraction of `path` is held out. Without a `path` nothing is trained on."""
    rows: int = 0
    """Number of rows that `path` should have; fewer are reported. 0: any."""
    heldout_rows: int = 0
    """The same for `heldout_path`."""
    heldout_fraction: float = 0.1
    """Fraction of the problems in `path` that is held out, by a hash of the problem; unused with `heldout_path`."""
    format: str = "plain"
    """Format of the rows, a name of `tasks/dataset/formats.py`: plain, gsm8k, math, sql, spider, bird, code, humaneval,
    mbpp, livecodebench, deepcoder, orz, skywork, verl, trl or open_instruct."""
    prompt_template: str = ""
    """Template of a prompt, in the syntax of `str.format`, with fields of the format. Empty: the format's template."""
    verifier: str = field(default="", metadata=VERIFIER)
    """A verifier for all rows: its name, import path or file, as `task.verifier`. Empty: the format's verifier."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.path or self.heldout_path), "task.options.path", "must not be empty", self.path)
        rule = f"must be one of {', '.join(FORMATS)}{nearest(self.format, FORMATS)}"
        require(self.format in FORMATS, "task.options.format", rule, self.format)
        for name in ("prompt_field", "answer_field"):
            allowed = self.format == "plain" or getattr(self, name) == getattr(RowOptions, name)
            rule = f"must be left out with task.options.format={self.format}, whose columns are fixed"
            require(allowed, f"task.options.{name}", rule, getattr(self, name))
        for name in GOLD_LIMITS:
            allowed = self.format in QUERIES or getattr(self, name) == getattr(RowOptions, name)
            rule = f"must be left out unless task.options.format is one of {', '.join(QUERIES)}"
            require(allowed, f"task.options.{name}", rule, getattr(self, name))
        if self.prompt_template:
            check_template(self.prompt_template, self.format, "task.options.prompt_template")
        if self.format in NEED_DATABASES:
            rule = (
                f"must be the folder of the databases with task.options.format={self.format}, which holds a file "
                f"<db_id>/<db_id>.sqlite for each; they are published at {NEED_DATABASES[self.format]}"
            )
            require(Path(self.database_dir).is_dir() and bool(self.database_dir), DATABASE_DIR, rule, self.database_dir)
        else:
            rule = f"must be left out unless task.options.format is one of {', '.join(NEED_DATABASES)}"
            require(not self.database_dir, DATABASE_DIR, rule, self.database_dir)
        rule = "must be between 0 and 1, both excluded"
        require(0 < self.heldout_fraction < 1, "task.options.heldout_fraction", rule, self.heldout_fraction)
        for name in (name for name in ("path", "heldout_path") if getattr(self, name)):
            files_of(getattr(self, name), f"task.options.{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A row, the text of its prompt, and its origin."""

    row: Row
    text: str
    messages: tuple[Message, ...]
    name: str
    """`line-7`, or `<file>/line-7` if the dataset has several files."""
    file: Path
    line: int

    @property
    def where(self) -> str:
        """File and line, for errors."""
        return f"{self.file}, line {self.line}"


class Dataset:
    """Source of the rows of files. Every epoch has a different order, which depends on seed and epoch."""

    def __init__(self, options: DatasetOptions, seed: int, name: str = DATASET) -> None:
        """Read all rows.

        Args:
            name: first segment of the ids of prompts: that of a known set, if it is one.

        Raises:
            ValueError: a file is missing, a row is malformed, a held-out problem is also in the train rows, or no row
                is left for training; names the option, or file and line.
        """
        self.options, self.seed, self.name = options, seed, name
        self._order: tuple[int, list[int]] = (-1, [])
        known = name != DATASET
        train = _read(options, options.path, "task.options.path", lenient=known) if options.path else []
        if options.heldout_path:
            heldout = _read(options, options.heldout_path, "task.options.heldout_path", lenient=known)
            train = _apart(train, heldout, refuse=not known)
        else:
            limit = options.heldout_fraction * 2**64
            heldout = [problem for problem in train if _split_hash(problem.row.key) < limit]
            train = [problem for problem in train if _split_hash(problem.row.key) >= limit]
        rule = "must hold at least one row for training"
        require(bool(train) or not options.path, "task.options.path", rule, options.path)
        self._train = train
        # The sort is stable, so copies of a problem stay in the order of their lines.
        self._heldout = sorted(heldout, key=lambda problem: digest(problem.row.key))

    def prompt(self, position: int) -> Prompt:
        return self._prompt("train", position, self._problem_at(position))

    def heldout(self, count: int) -> list[Prompt]:
        if self.name != DATASET and count == self.options.heldout_rows:
            count = min(count, len(self._heldout))  # all rows of a known set; if it has fewer, that is reported
        rule = f"must be at most the {len(self._heldout)} held-out rows of {self._heldout_source}"
        require(count <= len(self._heldout), "task.heldout_prompts", rule, count)
        return [self._prompt("heldout", index, problem) for index, problem in enumerate(self._heldout[:count])]

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        problem = self._problem_at(position)
        if problem.row.solution is None:
            raise ValueError(
                "task.options.format: must be a format whose rows hold right answers, "
                f"got {self.options.format!r} and a row without one ({problem.where})"
            )
        return self._prompt("train", position, problem), problem.row.solution

    def listed(self) -> Iterator[ListedPrompt]:
        for stream, problems in (("train", self._train), ("heldout", self._heldout)):
            for index, problem in enumerate(problems):
                yield ListedPrompt(
                    prompt=self._prompt(stream, index, problem),
                    file=problem.file,
                    line=problem.line,
                    columns=problem.row.columns,
                )

    @property
    def _heldout_source(self) -> str:
        return self.options.heldout_path or f"{self.options.path} (task.options.heldout_fraction)"

    def _problem_at(self, position: int) -> Problem:
        require(position >= 0, "position", "must not be negative", position)
        if not self._train:
            raise EvaluationOnly(evaluation_only(self.name, self.options.heldout_path))
        epoch, index = divmod(position, len(self._train))
        if self._order[0] != epoch:
            order = list(range(len(self._train)))
            generator(self.seed, DATASET, "epoch", epoch).shuffle(order)
            self._order = (epoch, order)
        return self._train[self._order[1][index]]

    def _prompt(self, stream: str, position: int, problem: Problem) -> Prompt:
        return Prompt(
            id=f"{self.name}/{stream}/{problem.name}",
            position=position,
            text=problem.text,
            messages=problem.messages,
            verifier=self.options.verifier or problem.row.verifier or FORMATS[self.options.format].verifier,
            problem=problem.row.problem,
        )


def _split_hash(key: str) -> int:
    """Return the hash that decides whether a problem is held out. White space does not change it."""
    return digest("side/" + " ".join(key.split()))


def _apart(train: list[Problem], heldout: list[Problem], *, refuse: bool) -> list[Problem]:
    """Return the train problems that are not held out too.

    Args:
        refuse: raise ValueError for the first one that is. The rows of a known set are as they were published.
    """
    held = {_split_hash(problem.row.key): problem.where for problem in heldout}
    both = [problem for problem in train if _split_hash(problem.row.key) in held]
    if both and refuse:
        other = held[_split_hash(both[0].row.key)]
        raise ValueError(f"{both[0].where}: the problem is also held out, in {other}")
    return [problem for problem in train if _split_hash(problem.row.key) not in held] if both else train


def files_of(path: str, field: str) -> list[Path]:
    """Return the files of rows that a path names, on this machine or on the Hub. Raises ValueError, naming `field`."""
    name = rows_name(path)
    return data_files(path, field) if name is None else hub_files(name, field)


def _read(options: DatasetOptions, path: str, field: str, *, lenient: bool) -> list[Problem]:
    """Read the rows of files.

    Args:
        lenient: leave out malformed rows, unless all are, as users cannot mend those of a published set. What is
            missing is reported by its number of rows.
    """
    files = files_of(path, field)
    template = options.prompt_template or FORMATS[options.format].template
    same_name = len({file.name for file in files}) < len(files)
    problems: list[Problem] = []
    first: ValueError | None = None
    for file in files:
        name = f"{file.parent.name}/{file.name}/" if same_name else f"{file.name}/" * (len(files) > 1)
        for line, value in rows(file):
            try:
                problems.append(_problem(options, template, value, file, line, f"{name}line-{line}"))
            except ValueError as error:
                if not lenient:
                    raise
                first = first or error
    if first is not None and not problems:
        raise first
    return problems


def _problem(options: DatasetOptions, template: str, value: Any, file: Path, line: int, name: str) -> Problem:
    """Convert a data row. Raise ValueError, with file and line, if it is malformed."""
    try:
        if isinstance(value, list) and FORMATS[options.format].arrays:
            value = {str(index): inner for index, inner in enumerate(value)}
        if not isinstance(value, dict):
            raise Malformed(f"must be an object with fields, got {type(value).__name__}")
        row = FORMATS[options.format].read(value, options)
        _require_unicode(row, value)
    except Malformed as error:
        likely = likely_format(value) if options.format == "plain" and isinstance(value, dict) else ""
        hint = f" (did you mean task.options.format={likely}?)" if likely else ""
        raise ValueError(f"{file}, line {line}: {error}{hint}") from None
    text, messages = template.format_map(row.shown), row.messages
    if messages:
        messages = (*messages[:-1], {"role": "user", "content": text})
        text = chat_text(messages)
    return Problem(row=row, text=text, messages=messages, name=name, file=file, line=line)


def _require_unicode(row: Row, value: dict[str, Any]) -> None:
    """Raise Malformed, naming the column, if a text of the row has half of a surrogate pair, which is no character."""
    try:
        _unicode([row.shown, row.messages, row.problem, row.solution])
    except UnicodeEncodeError as error:
        columns = [name for name, inner in value.items() if not _is_unicode([name, inner])]
        found = f"\\u{ord(error.object[error.start]):04x}"
        raise Malformed(f"field {', '.join(map(repr, columns))} must be Unicode text, got the lone {found}") from None


def _unicode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _is_unicode(value: Any) -> bool:
    try:
        return bool(_unicode(value))
    except UnicodeEncodeError:
        return False
