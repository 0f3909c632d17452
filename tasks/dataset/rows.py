"""Row: one problem, read from a data row of any format. Also the formats whose answers are values."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from configs.checks import require
from tasks.options import PATH
from trajectories.trajectory import Message, chat_text

BRACES = re.compile(r"\\.|[{}]", re.DOTALL)
"""Braces. Escaped characters match too, so that an escaped brace does not count as one."""


Answer = str | int | float | list[Any]
"""A right answer, or several: any of them is right."""
ROLES = ("system", "user", "assistant")
"""Roles of messages. Only the first message may have the first role."""
GOLD_LIMITS = ("gold_seconds", "gold_rows")
"""Options of the formats whose right answers are queries."""


class Malformed(Exception):
    """A data row does not fit its format. `tasks.dataset.task` adds file and line to the message."""


@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """Options of the task dataset that the readers of rows need."""

    prompt_field: str = "prompt"
    """Column of the prompt, a text or a list of messages. Format plain only; other formats have fixed columns."""
    answer_field: str = "answer"
    """Column of the right answer, a string, a number, or a list of several right ones; `a.b` is the field `b` of the
    column `a`. Format plain only. The verifier gets every column, and this one also under the name `answer`."""
    database_dir: str = field(default="", metadata=PATH)
    """Folder of databases `<database_dir>/<db_id>/<db_id>.sqlite`. Formats spider and bird only."""
    gold_seconds: float = 60.0
    """Processor seconds that a gold query may take on one database. It runs once in each worker process of the grader.
    Formats sql, spider and bird only."""
    gold_rows: int = 200_000
    """Largest number of rows of the result of a gold query. Formats sql, spider and bird only."""

    def __post_init__(self) -> None:
        for name in ("prompt_field", "answer_field"):
            require(bool(getattr(self, name)), f"task.options.{name}", "must not be empty", getattr(self, name))
        for name in GOLD_LIMITS:
            require(getattr(self, name) > 0, f"task.options.{name}", "must be above 0", getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One problem of a dataset.

    Example: Row(key="What is 6 times 7?", shown={"question": "What is 6 times 7?"},
    problem={"answer": "42", "question": "What is 6 times 7?"}, solution="\\boxed{42}")
    """

    key: str
    """The question without the prompt template. Its hash decides whether the problem is held out."""
    shown: Mapping[str, str]
    """Values of the template fields."""
    problem: Mapping[str, Any]
    """Data for the verifier."""
    solution: str | None
    """An answer that the verifier must find correct; None if the row holds none."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Column of the row by field of `problem`, where the names differ."""
    messages: tuple[Message, ...] = ()
    """The turns of a chat. The prompt template replaces the content of the last one."""
    verifier: str = ""
    """Overrides the format's verifier."""


@dataclass(frozen=True, kw_only=True)
class Format:
    """Reader, prompt template and verifier of the rows of one kind of dataset."""

    read: Callable[[dict[str, Any], RowOptions], Row]
    """Converts a data row; raises Malformed with the reason."""
    fields: tuple[str, ...]
    """Template fields: the keys of `Row.shown`."""
    template: str
    """Default prompt template, in the syntax of `str.format`."""
    verifier: str
    arrays: bool = False
    """Whether a row may be an array, which is read as an object with the fields 0, 1 and so on."""


def text_of(row: dict[str, Any], *names: str) -> str:
    """Return the value of the first of these columns that the row has. Raise Malformed unless it is non-blank text."""
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


def prompt_of(row: dict[str, Any], name: str) -> tuple[str, tuple[Message, ...]]:
    """Return the text of a prompt and its turns: a column holds text, or a list of messages whose last is the user's.

    Returns: the text, or the content of the last message; the messages, empty for a text.
    """
    value = row.get(name)
    if not isinstance(value, list):
        return text_of(row, name), ()
    messages: list[Message] = []
    for number, message in enumerate(value, start=1):
        where = f"field {name!r}, message {number}"
        given = {key: inner for key, inner in message.items() if inner is not None} if isinstance(message, dict) else {}
        if set(given) != {"role", "content"} or not isinstance(given["content"], str):
            raise Malformed(f"{where} must be an object with role and a text as content, got {message!r:.100}")
        allowed = ROLES if number == 1 else ROLES[1:]
        if given["role"] not in allowed:
            raise Malformed(f"{where} must have the role {' or '.join(allowed)}, got {given['role']!r:.100}")
        messages.append({"role": given["role"], "content": given["content"]})
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise Malformed(f"field {name!r} must end in a message of the user, got {value!r:.100}")
    return messages[-1]["content"], tuple(messages)


def answer_of(row: dict[str, Any], name: str) -> Answer:
    """Return the right answer in a column, or a list of right answers; `a.b` is the field `b` of the column `a`.

    Raises:
        Malformed: it is not a number, a non-blank string, or a list of these.
    """
    column, _, inner = name.partition(".")
    holder, key = (row, name) if name in row else (row.get(column), inner)
    if not isinstance(holder, dict) or key not in holder:
        raise Malformed(f"has no field {name!r}; its fields are {', '.join(map(repr, row)) or 'none'}")
    answer: Answer = holder[key]
    if not is_answer(answer):
        raise Malformed(
            f"field {name!r} must be a non-empty string or a number, or a list of them, got {answer!r:.100}"
        )
    return answer


def is_answer(value: Any) -> bool:
    """Return whether a value can be a right answer: a number, a non-blank string, or a list of them."""
    values = value if isinstance(value, list) else [value]
    single = (isinstance(one, str | int | float) and not isinstance(one, bool) and str(one).strip() for one in values)
    return bool(values) and all(single)


def first_of(answer: Answer) -> str:
    """Return a right answer, the first of several, as text."""
    return str(answer[0] if isinstance(answer, list) else answer)


def read_plain(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of two columns, prompt and answer; the verifier gets the other columns too."""
    (prompt, messages), answer = prompt_of(row, options.prompt_field), answer_of(row, options.answer_field)
    return Row(
        key=chat_text(messages) if messages else prompt,
        shown={"prompt": prompt},
        problem=row | {"answer": answer},
        solution=first_of(answer),
        columns={"answer": options.answer_field},
        messages=messages,
    )


def read_gsm8k(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of GSM8K; the right answer follows `####` in the column `answer`."""
    question, worked = text_of(row, "question"), text_of(row, "answer")
    reasoning, marker, answer = worked.rpartition("####")
    if not marker or not answer.strip():
        raise Malformed(f"field 'answer' must end in '#### <answer>', got {worked[-100:]!r}")
    return Row(
        key=question,
        shown={"question": question},
        problem={"answer": answer.strip(), "question": question},
        solution=f"{_without_calculator(reasoning).strip()}\n{_boxed(answer.strip())}".strip(),
    )


def read_math(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of MATH; the right answer is the column `answer`, or the last box of the column `solution`."""
    question = text_of(row, "problem", "question")
    solution = text_of(row, "solution") if row.get("solution") else ""  # DeepScaleR has empty ones
    box = last_box(solution)
    column = "solution" if row.get("answer") is None else "answer"
    answer = answer_of(row, "answer") if column == "answer" else box
    if answer is None or not str(answer).strip():
        raise Malformed("must have the field 'answer', or a filled \\boxed{} in the field 'solution'")
    solved = solution if box is not None else f"{solution}\n{_boxed(first_of(answer))}".strip()
    return Row(
        key=question,
        shown={"question": question},
        problem={"answer": answer, "question": question},
        solution=solved,
        columns={"answer": column},
    )


def last_box(text: str) -> str | None:
    """Return what is in the last `\\boxed{...}` or `\\fbox{...}`, or the symbol after `\\boxed`; None without a box."""
    start, word = max((text.rfind(word), word) for word in ("\\boxed", "\\fbox"))
    if start < 0:
        return None
    rest = text[start + len(word) :].lstrip()
    if not rest.startswith("{"):
        return rest[:1] or None
    depth = 0
    for match in BRACES.finditer(rest):
        depth += (match[0] == "{") - (match[0] == "}")
        if depth == 0:
            return rest[1 : match.start()]
    return None


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def _without_calculator(text: str) -> str:
    """Remove GSM8K's calculator annotations, such as `<<6*7=42>>`."""
    first, *rest = text.split("<<")
    return first + "".join(piece.partition(">>")[2] for piece in rest)
