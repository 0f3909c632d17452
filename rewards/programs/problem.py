"""Problems for programs: parse and check the fields of a row, and bound the time of the tests."""

import ast
import importlib
import math
import re
from collections.abc import Mapping, Sized
from dataclasses import dataclass
from typing import Any

from rewards.programs.outputs import COMPARISONS
from rewards.sandbox.inside.names import MODULES, PROGRAM_MODULE, sort_names
from rewards.sandbox.inside.source import bound_names, helpers, requested_names

DEFAULT_TIMEOUT_S = 5.0
TOTAL_TIMEOUT_S = 60.0
"""Limit for all tests of one answer together."""
BOX_ALLOWANCE_S = 10.0
"""Allowance for making and ending boxes on a busy machine."""
TESTS_LIMIT = 16 * 2**20
"""Maximum characters of prompt and tests together."""
CALLED = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
DEFINES_CHECK = re.compile(r"^def[ \t]+check[ \t]*\(", re.MULTILINE)
ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(?:\(\))?(?:\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertProblem:
    """Tests in Python that call the program. They define `check(candidate)`, or are plain asserts.

    Example: AssertProblem(prompt="", entry_point="add", tests="assert add(1, 2) == 3")
    """

    prompt: str
    """Code that the program continues, or helpers for the program and the tests. Prose is ignored."""
    entry_point: str
    """A name, a method as in `Solution().add`, or "" for plain asserts."""
    tests: str
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Wall time in seconds for all tests together."""
    fraction: bool = False
    """Whether the reward is the fraction of tests passed. Otherwise it is 1 if all pass, else 0."""

    @property
    def names(self) -> frozenset[str]:
        """Return the names of which a program defines at least one."""
        if self.entry_point:
            return frozenset(self.entry_point.replace("()", "").split(".")[-1:])
        return frozenset(CALLED.findall(self.tests))


@dataclass(frozen=True, slots=True, kw_only=True)
class StdioProblem:
    """Pairs of standard input and expected standard output."""

    tests: tuple[tuple[str, str], ...]
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Wall time in seconds for each test."""
    fraction: bool = False
    compare: str = "exact"
    """How output is compared with the expected one: `exact`, or by `tokens` with numbers to 1e-6."""


Problem = AssertProblem | StdioProblem


def parse(problem: Mapping[str, Any]) -> Problem:
    """Return the problem of a row.

    Raises:
        ValueError: a field is missing or wrong. The message is "field: rule, got value".
    """
    kind = problem.get("kind")
    _require(kind in ("assert", "stdio"), "kind", "must be assert or stdio", kind)
    timeout_s = problem.get("timeout_s")
    timeout_s = DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
    _require(_is_duration(timeout_s), "timeout_s", f"must be in (0, {TOTAL_TIMEOUT_S:g}]", timeout_s)
    reward = problem.get("reward") or "all"
    _require(reward in ("all", "fraction"), "reward", "must be all or fraction", reward)
    compare = problem.get("compare") or "exact"
    _require(compare in COMPARISONS, "compare", f"must be one of {', '.join(COMPARISONS)}", compare)
    _require(kind == "stdio" or compare == "exact", "compare", "must be left out with kind assert", compare)
    if kind == "stdio":
        tests = problem.get("tests")
        _require(isinstance(tests, list | tuple) and len(tests) > 0, "tests", "must be a list of at least one", tests)
        pairs = tuple(_pair(test) for test in tests or ())
        expects_output = any(expected.strip() for _, expected in pairs)
        _require(expects_output, "tests", "must expect some output", pairs)
        fraction = reward == "fraction"
        return StdioProblem(tests=pairs, timeout_s=float(timeout_s), fraction=fraction, compare=compare)
    return _parse_assert(problem, float(timeout_s), reward == "fraction")


def check_problem(problem: Mapping[str, Any]) -> list[str]:
    """Return the faults of a problem: a field is missing or wrong, the tests are not Python, or they use names that
    nothing defines. Runs no test."""
    try:
        parsed = parse(problem)
        if isinstance(parsed, AssertProblem):
            compile(parsed.tests, "tests", "exec")
            if undefined := _undefined_names(parsed):
                rule = "must define every name, or import it from solution, unless it is the entry point"
                return [f"tests: {rule}, got {', '.join(undefined)}"]
    except SyntaxError as error:
        return [f"tests: must be Python, got {error.msg} in line {error.lineno} of them"]
    except ValueError as error:
        return [str(error)]
    return []


def _undefined_names(problem: AssertProblem) -> list[str]:
    """Return the names that the tests use and that neither they, the prompt, the program nor the library define."""
    prompt = helpers(problem.prompt, problem.entry_point)
    bound = bound_names(prompt)
    tree = ast.parse(problem.tests)
    for node in [*prompt, *tree.body]:
        if isinstance(node, ast.ImportFrom) and node.module != PROGRAM_MODULE and node.names[0].name == "*":
            if node.module not in MODULES:
                return []
            bound |= set(dir(importlib.import_module(node.module)))
    requested = requested_names(problem.prompt, problem.entry_point)
    return sorted(sort_names(problem.tests, tree, problem.entry_point, bound, requested).undefined)


def _parse_assert(problem: Mapping[str, Any], timeout_s: float, fraction: bool) -> AssertProblem:
    """Return the problem of a row with `kind: assert`. Raises ValueError as `parse` does."""
    prompt, entry_point = problem.get("prompt") or "", problem.get("entry_point") or ""
    tests = problem.get("tests")
    if isinstance(tests, list | tuple) and all(isinstance(test, str) for test in tests):
        tests = "\n".join(tests)
    _require(isinstance(tests, str), "tests", "must be code, or a list of pieces of code", tests)
    _require(isinstance(prompt, str), "prompt", "must be a string", prompt)
    _require(isinstance(entry_point, str), "entry_point", "must be a string", entry_point)
    assert isinstance(tests, str)
    length = len(prompt) + len(tests)
    _require(
        length <= TESTS_LIMIT, "tests", f"must have at most {TESTS_LIMIT} characters, together with the prompt", tests
    )
    _require("assert" in tests or "raise" in tests, "tests", "must assert something", tests)
    named = not entry_point or ENTRY_POINT.fullmatch(entry_point)
    _require(bool(named), "entry_point", "must be a name or a method as in Solution().name", entry_point)
    needed = bool(entry_point) or not DEFINES_CHECK.search(tests)
    _require(needed, "entry_point", "must be given when the tests define check(candidate)", entry_point)
    return AssertProblem(prompt=prompt, entry_point=entry_point, tests=tests, timeout_s=timeout_s, fraction=fraction)


def budget_s(problem: Mapping[str, Any]) -> float:
    """Return the wall seconds within which one answer to `problem` is judged, also on a busy machine.

    Never raises: a malformed problem gets the time that its refusal takes.
    """
    timeout_s, tests = problem.get("timeout_s"), problem.get("tests")
    if timeout_s is None:
        timeout_s = DEFAULT_TIMEOUT_S
    elif not _is_duration(timeout_s):
        return BOX_ALLOWANCE_S
    count = len(tests) if problem.get("kind") == "stdio" and isinstance(tests, list | tuple) else 1
    return 2 * min(float(timeout_s) * count, TOTAL_TIMEOUT_S) + BOX_ALLOWANCE_S


def _is_duration(value: Any) -> bool:
    """Return whether the value is a number in (0, TOTAL_TIMEOUT_S]."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 < value <= TOTAL_TIMEOUT_S


def _pair(test: Any) -> tuple[str, str]:
    """Return the standard input and the expected output of a test. Raises ValueError."""
    well_formed = isinstance(test, Mapping) and all(isinstance(test.get(field), str) for field in ("stdin", "stdout"))
    _require(well_formed, "tests", "must each have stdin and stdout, two strings", test)
    return test["stdin"], test["stdout"]


def _require(ok: bool, name: str, rule: str, value: object) -> None:
    if not ok:
        shown = repr(value) if name != "tests" else _outline(value)  # a reason must not reveal the text of tests
        raise ValueError(f"{name}: {rule}, got {shown if len(shown) <= 100 else shown[:100] + '...'}")


def _outline(value: object) -> str:
    """Return type and length of a value, without its contents."""
    return f"{type(value).__name__} of length {len(value)}" if isinstance(value, Sized) else type(value).__name__
