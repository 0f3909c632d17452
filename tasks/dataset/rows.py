"""Row: one problem read from a data row, whatever format it came in; and the formats whose answers are values."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.checks import require
from tasks.options import PATH

BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
"""Braces; an escaped one is text."""


class Malformed(Exception):
    """A data row that its format cannot take. The reader adds file and line."""


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """Those of `task.options` of dataset that say how a row is read."""

    prompt_field: str = "prompt"
    """Column of the prompt; format plain only, the other formats know their columns."""
    answer_field: str = "answer"
    """Column of the right answer, a string or a number; format plain only. Every column reaches the verifier, this one
    as `answer` too."""
    database_dir: str = field(default="", metadata=PATH)
    """Folder of databases `<database_dir>/<db_id>/<db_id>.sqlite`; formats spider and bird only."""

    def __post_init__(self) -> None:
        for name in ("prompt_field", "answer_field"):
            require(bool(getattr(self, name)), f"task.options.{name}", "must not be empty", getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One problem of a dataset.

    Example: Row(key="What is 6 times 7?", shown={"question": "What is 6 times 7?"}, problem={"answer": "42"},
    solution="\\boxed{42}")
    """

    key: str
    """What is asked, without the words around it: decides the side (train or held out) of the problem."""
    shown: Mapping[str, str]
    """What the prompt template may show, by field."""
    problem: Mapping[str, Any]
    """What the verifier gets."""
    solution: str | None
    """A response that the verifier must find correct; None where the row holds none."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """How the rows of a kind of dataset are read, shown and judged."""

    read: Callable[[dict[str, Any], RowOptions], Row]
    """Raises Malformed with the reason."""
    fields: tuple[str, ...]
    """Keys of `Row.shown`."""
    template: str
    """The prompt, as `str.format` reads it."""
    verifier: str


def text_of(row: dict[str, Any], *names: str) -> str:
    """The value of the first of these columns that the row has; Malformed unless that is a string and not blank."""
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        if names[0] in row:
            raise Malformed(f"field {names[0]!r} must be a non-empty string, got None")
        have = ", ".join(map(repr, row)) or "none"
        raise Malformed(f"has no field {' or '.join(map(repr, names))}; its fields are {have}")
    value = row[name]
    if not isinstance(value, str) or not value.strip():
        raise Malformed(f"field {name!r} must be a non-empty string, got {value!r:.100}")
    return value


def answer_of(row: dict[str, Any], name: str) -> str | int | float:
    """The right answer in a column; Malformed unless it is a number or a string that is not blank."""
    if name not in row:
        raise Malformed(f"has no field {name!r}; its fields are {', '.join(map(repr, row)) or 'none'}")
    answer = row[name]
    if isinstance(answer, bool) or not isinstance(answer, str | int | float) or not str(answer).strip():
        raise Malformed(f"field {name!r} must be a non-empty string or a number, got {answer!r:.100}")
    return answer


def read_plain(row: dict[str, Any], options: RowOptions) -> Row:
    prompt, answer = text_of(row, options.prompt_field), answer_of(row, options.answer_field)
    return Row(key=prompt, shown={"prompt": prompt}, problem=row | {"answer": answer}, solution=str(answer))


def read_gsm8k(row: dict[str, Any], options: RowOptions) -> Row:
    question, worked = text_of(row, "question"), text_of(row, "answer")
    reasoning, marker, answer = worked.rpartition("####")
    if not marker or not answer.strip():
        raise Malformed(f"field 'answer' must end in '#### <answer>', got {worked[-100:]!r}")
    return Row(
        key=question,
        shown={"question": question},
        problem={"answer": answer.strip()},
        solution=f"{_without_calculator(reasoning).strip()}\n{_boxed(answer.strip())}".strip(),
    )


def read_math(row: dict[str, Any], options: RowOptions) -> Row:
    question = text_of(row, "problem", "question")
    solution = text_of(row, "solution") if row.get("solution") is not None else ""
    box = last_box(solution)
    answer = answer_of(row, "answer") if row.get("answer") is not None else box
    if answer is None or not str(answer).strip():
        raise Malformed("must have the field 'answer', or a filled \\boxed{} in the field 'solution'")
    solved = solution if box is not None else f"{solution}\n{_boxed(str(answer))}".strip()
    return Row(key=question, shown={"question": question}, problem={"answer": answer}, solution=solved)


def last_box(text: str) -> str | None:
    """What the last `\\boxed{...}` or `\\fbox{...}` holds, or the one symbol of `\\boxed 7`; None without a box."""
    start, word = max((text.rfind(word), word) for word in ("\\boxed", "\\fbox"))
    if start < 0:
        return None
    rest = text[start + len(word) :].lstrip()
    if not rest.startswith("{"):
        return rest[:1] or None
    depth = 0
    for part in BRACES.finditer(rest):
        depth += (part[0] == "{") - (part[0] == "}")
        if depth == 0:
            return rest[1 : part.start()]
    return None


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def _without_calculator(text: str) -> str:
    """GSM8K's reasoning without its notes for a calculator, such as `<<6*7=42>>`."""
    kept, *noted = text.split("<<")
    return kept + "".join(note.partition(">>")[2] for note in noted)
