"""Formats whose answers are programs, tested by assertions on a function or by their output for an input."""

import ast
import builtins
import json
import re
from collections.abc import Sequence
from typing import Any

from tasks.dataset.rows import Malformed, Row, RowOptions, text_of

CALLABLE = re.compile(r"[A-Za-z_]\w*(?:\(\))?(?:\.[A-Za-z_]\w*)*")
DEFINES_CHECK = re.compile(r"^def[ \t]+check[ \t]*\(", re.MULTILINE)
TIMEOUT_LIMIT_S = 60
"""Largest `timeout_s` of a row."""
CASE_FIELDS = ("stdin", "stdout")
COMPARISONS = ("exact", "tokens")
ASSERT = "Write the Python function `{entry_point}`. Answer with the whole program in a ```python block."
STDIO = (
    "Write a Python program that reads from standard input and writes to standard output. "
    "Answer with the whole program in a ```python block."
)


def read_code(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row with assertions on a function, or with inputs and outputs of a program."""
    kind = text_of(row, "kind")
    if kind == "assert":
        problem: dict[str, Any] = {"kind": kind, "tests": text_of(row, "tests"), **_entry_point(row, required=False)}
        if row.get("prompt") is not None:
            problem |= {"prompt": text_of(row, "prompt")}
    elif kind == "stdio":
        problem = {"kind": kind, "tests": _cases(row.get("tests")), **_compare(row)}
    else:
        raise Malformed(f"field 'kind' must be 'assert' or 'stdio', got {kind!r:.100}")
    if DEFINES_CHECK.search(str(problem["tests"])) and "entry_point" not in problem:
        raise Malformed("must have the field 'entry_point', because its tests define check(candidate)")
    problem |= _limits(row)
    question = (
        text_of(row, "question") if row.get("question") is not None else _as_question(text_of(row, "prompt"), kind)
    )
    solution = text_of(row, "solution") if row.get("solution") is not None else None
    return Row(
        key=question,
        shown={"question": question, "how": how(kind, str(problem.get("entry_point", "")))},
        problem=problem,
        solution=None if solution is None else fenced(solution),
    )


def read_humaneval(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of HumanEval; the answer completes the function that the prompt begins."""
    prompt, entry = text_of(row, "prompt"), _entry_point(row, required=True)
    # The prompt ends inside the function, and the solution is the rest of the function.
    solution = text_of(row, "canonical_solution") if row.get("canonical_solution") is not None else None
    return Row(
        key=prompt,
        shown={"prompt": prompt.strip("\n"), "entry_point": entry["entry_point"]},
        problem={"kind": "assert", "prompt": prompt, "tests": text_of(row, "test")} | entry,
        solution=None if solution is None else fenced(prompt + solution),
    )


def read_mbpp(row: dict[str, Any], options: RowOptions) -> Row:
    """Read a row of MBPP; the prompt names the tested function and shows the first test."""
    question = text_of(row, "text", "prompt")
    shown = _lines(row, "test_list")
    if not shown:
        raise Malformed("field 'test_list' must hold at least one assertion, got none")
    imports = _lines(row, "test_imports")
    setup = row.get("test_setup_code") or ""
    if not isinstance(setup, str):
        raise Malformed(f"field 'test_setup_code' must be a string, got {setup!r:.100}")
    tests = [*imports, *([setup] if setup.strip() else []), *shown, *_lines(row, "challenge_test_list")]
    code = text_of(row, "code") if row.get("code") is not None else None
    entry = _tested_function(shown[0], code)
    return Row(
        key=question,
        shown={"question": question, "entry_point": entry, "example": shown[0], "examples": "\n".join(shown)},
        problem={"kind": "assert", "entry_point": entry, "tests": "\n".join(tests) + "\n"},
        solution=None if code is None else fenced(code),
    )


def how(kind: str, entry_point: str) -> str:
    """Return the sentence of the prompt that gives the form of the answer."""
    if kind == "stdio":
        return STDIO
    return ASSERT.format(entry_point=entry_point) if entry_point else "Answer with Python in a ```python block."


def fenced(code: str) -> str:
    """Return the program as a Python block of Markdown."""
    return "```python\n" + code.strip("\n") + "\n```"


def _as_question(prompt: str, kind: str) -> str:
    """Return the question of a row that has only a prompt: Python code for a function, prose for a program."""
    return fenced(prompt) if kind == "assert" else prompt


def _entry_point(row: dict[str, Any], required: bool) -> dict[str, str]:
    if not required and row.get("entry_point") is None:
        return {}
    name = text_of(row, "entry_point")
    if not CALLABLE.fullmatch(name):
        raise Malformed(f"field 'entry_point' must be a name or a method as in Solution().name, got {name!r:.100}")
    return {"entry_point": name}


def _cases(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise Malformed(f"field 'tests' must be a non-empty list of objects with stdin and stdout, got {value!r:.100}")
    for case in value:
        if not isinstance(case, dict) or not all(isinstance(case.get(name), str) for name in CASE_FIELDS):
            raise Malformed(f"field 'tests' must hold objects with the strings stdin and stdout, got {case!r:.100}")
    return [{name: case[name] for name in CASE_FIELDS} for case in value]


def _compare(row: dict[str, Any]) -> dict[str, str]:
    """Return how the row's verifier compares output."""
    if row.get("compare") is None:
        return {}
    if row["compare"] not in COMPARISONS:
        raise Malformed(f"field 'compare' must be one of {', '.join(COMPARISONS)}, got {row['compare']!r:.100}")
    return {"compare": row["compare"]}


def _limits(row: dict[str, Any]) -> dict[str, Any]:
    """Return the timeout and the kind of reward that a row sets for its verifier."""
    seconds, reward = row.get("timeout_s"), row.get("reward")
    limits = {name: row[name] for name in ("timeout_s", "reward") if row.get(name) is not None}
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (number and 0 < seconds <= TIMEOUT_LIMIT_S):
        raise Malformed(f"field 'timeout_s' must be in (0, {TIMEOUT_LIMIT_S}] seconds, got {seconds!r:.100}")
    if reward not in (None, "all", "fraction"):
        raise Malformed(f"field 'reward' must be 'all' or 'fraction', got {reward!r:.100}")
    return limits


def _lines(row: dict[str, Any], name: str) -> list[str]:
    """Return a list of strings, or one encoded as JSON, from a column; an empty list if it is missing."""
    value = row.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Malformed(f"field {name!r} must be a list of strings or its JSON ({error})") from None
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(line, str) and line.strip() for line in value):
        raise Malformed(f"field {name!r} must be a list of non-empty strings, got {value!r:.100}")
    return value


def _tested_function(assertion: str, code: str | None) -> str:
    """Return the tested function: the first name called that `code` defines; without code, that is not a built-in."""
    called = [
        node.func.id
        for node in ast.walk(_parsed(assertion, "test_list"))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    defined = called if code is None else _defined(_parsed(code, "code").body)
    names = [name for name in called if name in defined and (code is not None or not hasattr(builtins, name))]
    if not names:
        where = "none that the field 'code' defines" if code is not None else "none"
        raise Malformed(f"field 'test_list' must call the function it tests, got {where} in {assertion!r:.100}")
    return names[0]


def _defined(body: Sequence[ast.stmt]) -> set[str]:
    """Return the names that statements define at top level."""
    names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    targets = [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    return names | {target.id for target in targets if isinstance(target, ast.Name)}


def _parsed(source: str, field: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Malformed(f"field {field!r} must be Python ({type(error).__name__}: {error})") from None
