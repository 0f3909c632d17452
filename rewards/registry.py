"""Verifiers: one row of VERIFIERS for each built-in one, and look-up of any verifier by name or import path.

A verifier is a total function (answer, problem) -> Verdict. To add one, write its module, its row and its tests; the
judge, the worker processes and `breadth verify` read the row. A user verifier needs no row: it is named by its import
path or its file (`rewards/user_functions.py`) and may have any signature of `rewards.signatures.adapt`. A verifier's
module is imported only when it is resolved.
"""

import functools
import hashlib
import importlib
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.checks import nearest
from rewards.signatures import Reward, adapt, to_verdict
from rewards.user_functions import FORM, load_function, source_file, split_name
from rewards.verdict import Verdict, grader_error, wrong

Verify = Callable[..., Verdict]
"""A function (answer, problem, context) -> Verdict; the context, of `rewards.forms.Call`, may be left out."""
VerifyAsync = Callable[[str, Mapping[str, Any], Mapping[str, Any]], Awaitable[Verdict]]
NO_CONTEXT: Mapping[str, Any] = {}
PACKAGE = Path(__file__).resolve().parent
SETTING = "task.verifier"
RAISED = " raised "
"""Text between the verifier's name and the error in the reason of a verdict on which the verifier raised."""
JSON_TYPES = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object", bool: "a boolean"}
BUDGET_MARGIN_S = 1.0
"""Seconds added to the deadline of a verifier that computes its own: it should stop by itself first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """A problem with a right and a wrong answer, judged in the worker processes to test the verifier."""

    problem: Mapping[str, Any]
    right: str
    wrong: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field that an input row of `breadth verify` must have, besides `id` and `answer`."""

    name: str
    types: tuple[type, ...]
    """JSON types that are allowed. A boolean is never a number."""
    key: str = ""
    """Key of the value in the problem, where it is not the field's name."""

    @property
    def allowed(self) -> str:
        """The allowed types as text, for help and errors."""
        return " or ".join(dict.fromkeys(JSON_TYPES[kind] for kind in self.types))


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """A built-in verifier: where it is, how it is run and tested, and what `breadth verify` needs.

    Example: Verifier(path="rewards.arithmetic.countdown:verify", help="arithmetic with given numbers", deadline=1.0)
    """

    path: str
    """Import path, `package.module:function`."""
    help: str
    """One line for `breadth verify --help`."""
    deadline: float | str
    """Wall seconds one answer may take, or the import path of a function problem -> seconds."""
    isolation: int = 0
    """Highest isolation level at which the verifier executes answers (queries, programs). 0: it executes none, and
    `sandbox.require` does not apply."""
    forked: bool = False
    """Whether workers are forked from a process that has loaded it. Its `prepare` must start no process or thread."""
    fields: tuple[Field, ...] = ()
    canaries: tuple[Canary, ...] = ()
    faults: str = ""
    """Import path of a function problem -> faults of its gold, for `breadth verify --task`. Empty: none is known."""


VERIFIERS: dict[str, Verifier] = {
    "countdown": Verifier(
        path="rewards.arithmetic.countdown:verify",
        help="an arithmetic expression that uses every given number once and equals the target",
        deadline=1.0,
        fields=(Field(name="numbers", types=(list,)), Field(name="target", types=(int, float))),
        canaries=(Canary(problem={"numbers": [3, 7, 12], "target": 22}, right="3+7+12", wrong="3*7+12"),),
    ),
    "math": Verifier(
        path="rewards.mathematics.answer:verify",
        help="the final answer of a response, compared exactly with the gold answer",
        deadline=3.0,
        forked=True,
        fields=(Field(name="gold", types=(str, int, float, list), key="answer"),),
        faults="rewards.mathematics.answer:check_problem",
        canaries=(
            Canary(problem={"answer": r"\frac{1}{2}+x"}, right=r"\boxed{x+0.5}", wrong=r"\boxed{x+0.6}"),
            Canary(problem={"answer": "72"}, right=r"so \boxed{72}", wrong=r"so \boxed{27}"),
            Canary(problem={"answer": r"\sum_{n=0}^\infty\frac1{2^n}"}, right=r"\boxed{2}", wrong=r"\boxed{1}"),
        ),
    ),
    "sql": Verifier(
        path="rewards.sql.query:verify",
        help="a query whose result on every database equals the result of the gold query",
        deadline=5.0,
        isolation=2,
        fields=(Field(name="schema_sql", types=(str,)), Field(name="gold_sql", types=(str,))),
        faults="rewards.sql.query:check_problem",
        canaries=(
            Canary(
                problem={
                    "schema_sql": "CREATE TABLE birds (name TEXT, grams INTEGER);"
                    "INSERT INTO birds VALUES ('wren', 9), ('canary', 20), ('rook', 450), ('owl', 300);",
                    "gold_sql": "SELECT name FROM birds WHERE grams > 10 ORDER BY grams",
                },
                right="SELECT b.name FROM birds AS b WHERE NOT b.grams <= 10 ORDER BY b.grams ASC",
                wrong="SELECT name FROM birds WHERE grams > 10 ORDER BY grams DESC",
            ),
        ),
    ),
    "code": Verifier(
        path="rewards.programs.testing:verify",
        help="a program that passes its tests: asserts on a function, or standard input and output",
        deadline="rewards.programs.problem:budget_s",
        isolation=3,
        fields=(Field(name="kind", types=(str,)), Field(name="tests", types=(str, list))),
        faults="rewards.programs.problem:check_problem",
        canaries=(
            Canary(
                problem={
                    "kind": "assert",
                    "prompt": 'def twice(x):\n    """The value added to itself."""\n',
                    "entry_point": "twice",
                    "tests": "def check(candidate):\n    assert candidate(3) == 6\n"
                    "    assert candidate('ab') == 'abab'\n",
                },
                right="def twice(x):\n    return x + x\n",
                wrong="def twice(x):\n    return x if x == 6 else 6\n",
            ),
            Canary(
                problem={
                    "kind": "stdio",
                    "tests": [{"stdin": "2 3\n", "stdout": "5\n"}, {"stdin": "4 4\n", "stdout": "8\n"}],
                },
                right="a, b = map(int, input().split())\nprint(a + b)\n",
                wrong="input()\nprint(5)\n",
            ),
        ),
    ),
    "scratchpad_sum": Verifier(
        path="rewards.arithmetic.scratchpad_sum:verify",
        help="the sum of two whole numbers, written after the scratchpad",
        deadline=1.0,
        fields=(Field(name="operands", types=(list,)),),
        canaries=(Canary(problem={"operands": [95, 7]}, right="</scratch>\n1 0 2\n", wrong="102</scratch>\n0 2\n"),),
    ),
    "first_number": Verifier(
        path="rewards.arithmetic.first_number:verify",
        help="the first number of the answer, compared with a whole number",
        deadline=1.0,
        fields=(Field(name="number", types=(int,)),),
        canaries=(Canary(problem={"number": 123}, right=" 123\n12 + 4 =", wrong=" 12\n123"),),
    ),
}


def names() -> str:
    """Return the names that are allowed for a verifier, as text for help and errors."""
    return f"{', '.join(VERIFIERS)}, {FORM}"


def check(name: str, setting: str = SETTING) -> None:
    """Raise ValueError naming `setting` unless `resolve` succeeds."""
    resolve(name, setting)


def resolve(name: str, setting: str = SETTING) -> Verify:
    """Import a verifier and return it as a function that never raises.

    An exception becomes a grader_error. In a built-in verifier, MemoryError and RecursionError are attributed to the
    answer instead.

    Args:
        name: a name in VERIFIERS, an import path `package.module:function` or a file `path/to/file.py:function`.
        setting: the setting or option that holds the name, for the error message.

    Raises:
        ValueError: there is no such function, its import fails, or its signature is not supported.
    """
    if name not in VERIFIERS:
        reward = _user_reward(name, setting)

        def verify_user(answer: str, problem: Mapping[str, Any], context: Mapping[str, Any] = NO_CONTEXT) -> Verdict:
            try:
                return to_verdict(reward.call(answer, problem, context))
            except Exception as error:
                return _raised(name, error, reward)

        return verify_user
    call = _import_path(VERIFIERS[name].path)

    def verify(answer: str, problem: Mapping[str, Any], context: Mapping[str, Any] = NO_CONTEXT) -> Verdict:
        try:
            return to_verdict(call(answer, problem))
        except MemoryError:
            return wrong("judging the answer takes more memory than is allowed", "memory")
        except RecursionError:
            return wrong("judging the answer takes a deeper recursion than is allowed", "rejected")
        except Exception as error:
            return _raised(name, error)

    return verify


def resolve_async(name: str, setting: str = SETTING) -> VerifyAsync | None:
    """Return a user verifier that is a coroutine function as one that never raises, and None for any other verifier.

    Raises as `resolve` does.
    """
    if name in VERIFIERS:
        return None
    reward = _user_reward(name, setting)
    if not reward.is_async:
        return None

    async def verify(answer: str, problem: Mapping[str, Any], context: Mapping[str, Any]) -> Verdict:
        try:
            return to_verdict(await reward.call_async(answer, problem, context))
        except Exception as error:
            return _raised(name, error, reward)

    return verify


def _user_reward(name: str, setting: str) -> Reward:
    if not all(split_name(name)):
        raise ValueError(f"{setting}: must be one of {names()}{nearest(name, VERIFIERS)}, got {name!r}")
    return adapt(name, load_function(name, setting), setting)


def _raised(name: str, error: Exception, reward: Reward | None = None) -> Verdict:
    """Return the verdict where the verifier raised: it is at fault, not the answer, and the trajectory is masked.

    The reason ends with the line of the user's file from which the error came.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if reward is not None and frame.filename == reward.file]
    where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in own[-1:])
    return grader_error(f"{name}{RAISED}{type(error).__name__}: {error}{where}")


def prepare(name: str) -> None:
    """Call `prepare()` of a built-in verifier's module, if it has one, before the next answer is judged.

    An exception of that function is passed on: this process cannot judge then.
    """
    if name in VERIFIERS:
        function = getattr(importlib.import_module(VERIFIERS[name].path.partition(":")[0]), "prepare", None)
        if function is not None:
            function()


def deadline_s(name: str, problem: Mapping[str, Any], bound: float) -> float:
    """Return the wall seconds that one answer to `problem` may take.

    A fixed deadline of a built-in verifier is limited by `bound`. A deadline computed from the problem is not. A user
    verifier has no deadline but `bound`.
    """
    row = VERIFIERS.get(name)
    if row is None:
        return bound
    if not isinstance(row.deadline, str):
        return min(row.deadline, bound)
    budget: float = _import_path(row.deadline)(problem)
    return budget + BUDGET_MARGIN_S


def problem_faults(name: str, problem: Mapping[str, Any]) -> list[str]:
    """Return the faults of a problem, such as a gold that does not equal itself; empty if no check is known.

    The gold is run in this process: problems are trusted, answers are not.
    """
    row = VERIFIERS.get(name)
    return list(_import_path(row.faults)(problem)) if row is not None and row.faults else []


def _import_path(path: str) -> Callable[..., Any]:
    """Import the function of a row's path."""
    module_name, _, function_name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module_name), function_name)
    return function


@functools.cache
def version_of(name: str) -> str:
    """Return `name@fingerprint`. The fingerprint covers all sources of this package for a built-in verifier, the file
    of its module for a user verifier."""
    if name in VERIFIERS:
        files = sorted(PACKAGE.rglob("*.py"))
    else:
        source = source_file(name)
        files = [source] if source else []
    digest = hashlib.blake2b(digest_size=6)
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{name}@{digest.hexdigest()}"
