"""Verifiers by name or by import path, all brought to one shape: a total function (answer, problem) -> Verdict.

A user's own function may be `(answer, problem) -> float | bool | Verdict`, or the common reward signature
`(completions, **columns) -> list[float]`, which is called with lists of one element: `completions`, `prompts` (when the
problem has a `prompt`) and one list per field of the problem. Either may be async. Modules load only when resolved.
"""

import asyncio
import functools
import hashlib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.checks import nearest
from rewards.verdict import Verdict, grader_error, wrong

Verify = Callable[[str, Mapping[str, Any]], Verdict]
ROOM = Path(__file__).resolve().parent
FIELD = "task.verifier"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltIn:
    """A verifier of ours: where it is, and the wall seconds one answer may take there."""

    path: str
    timeout_s: float = 0.0
    budget: str = ""
    """In place of `timeout_s`, the import path of a function problem -> seconds."""
    runs_at: int = 0
    """Highest isolation level at which answers are run, as queries or programs; 0: they are not run, and no level can
    be demanded."""


VERIFIERS = {
    "countdown": BuiltIn(path="rewards.arithmetic.countdown:verify", timeout_s=1.0),
    "math": BuiltIn(path="rewards.mathematics.answer:verify", timeout_s=3.0),
    "sql": BuiltIn(path="rewards.sql.query:verify", timeout_s=5.0, runs_at=2),
    "code": BuiltIn(path="rewards.programs.testing:verify", budget="rewards.programs.problem:budget_s", runs_at=3),
    "scratchpad_sum": BuiltIn(path="rewards.arithmetic.scratchpad_sum:verify", timeout_s=1.0),
}
RAISED = " raised "
"""Between name and error in the reason of a verdict on which the verifier raised."""
BUDGET_MARGIN_S = 1.0
"""A verifier that keeps a deadline of its own is ended this much later, if it fails to."""


def check(name: str, field: str = FIELD) -> None:
    """Raise ValueError naming `field` unless the name leads to a function of a known signature."""
    resolve(name, field)


def resolve(name: str, field: str = FIELD) -> Verify:
    """The verifier of a registered name or an import path `package.module:function`.

    The working directory counts as a place to import from. What the verifier raises becomes a grader_error; in one of
    ours, running out of memory or depth is the answer's doing. Raises ValueError naming `field` if there is no such
    function or its signature is not a known one.
    """
    module_name, function_name = _parts(name, field)
    call = _adapt(name, _import(name, module_name, function_name, field), field)
    ours = name in VERIFIERS

    def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
        try:
            return _verdict(call(answer, problem))
        except Exception as error:  # a fault of the verifier, never of the answer: it masks the trajectory
            if ours and isinstance(error, MemoryError):
                return wrong("judging it takes more memory than an answer may take", "memory")
            if ours and isinstance(error, RecursionError):
                return wrong("judging it nests deeper than an answer may", "rejected")
            return grader_error(f"{name}{RAISED}{type(error).__name__}: {error}")

    return verify


def prepare(name: str) -> None:
    """Do ahead of the next answer what the module of a verifier of ours wants done, in its function `prepare`. Raises
    what that raises: this process cannot judge then."""
    if name in VERIFIERS:
        ready = getattr(importlib.import_module(_parts(name)[0]), "prepare", None)
        if ready is not None:
            ready()


def deadline_s(name: str, problem: Mapping[str, Any], bound: float) -> float:
    """Wall seconds one answer to `problem` may take: the verifier's own limit, and `bound` where that is less. A
    verifier of a user has only the bound; one whose limit comes from the problem only that limit."""
    known = VERIFIERS.get(name)
    if known is None:
        return bound
    if not known.budget:
        return min(known.timeout_s, bound)
    module_name, _, function_name = known.budget.partition(":")
    budget: float = getattr(importlib.import_module(module_name), function_name)(problem)
    return budget + BUDGET_MARGIN_S


@functools.cache
def version_of(name: str) -> str:
    """Name and fingerprint: of all sources here for a verifier of ours, of its module's file for a user's own."""
    if name in VERIFIERS:
        files = sorted(ROOM.rglob("*.py"))
    else:
        source = getattr(importlib.import_module(_parts(name)[0]), "__file__", None)
        files = [Path(source)] if source else []
    digest = hashlib.blake2b(digest_size=6)
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return f"{name}@{digest.hexdigest()}"


def _parts(name: str, field: str = FIELD) -> tuple[str, str]:
    """Module and function."""
    path = VERIFIERS[name].path if name in VERIFIERS else name
    module_name, colon, function_name = path.partition(":")
    if not (colon and module_name and function_name):
        known = ", ".join(VERIFIERS)
        hint = nearest(name, VERIFIERS)
        raise ValueError(f"{field}: must be one of {known} or read package.module:function{hint}, got {name!r}")
    return module_name, function_name


def _import(name: str, module_name: str, function_name: str, field: str) -> Callable[..., Any]:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name, None)
    except Exception as error:  # whatever a user's module raises while it loads
        raise ValueError(
            f"{field}: must be importable, got {name!r} whose import raised {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise ValueError(f"{field}: must name a function of {module_name}, got {name!r}")
    return function


def _adapt(name: str, function: Callable[..., Any], field: str) -> Callable[[str, Mapping[str, Any]], Any]:
    """One calling convention for the signatures users have."""
    parameters = inspect.signature(function).parameters
    if "completions" in parameters:
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

        def call_with_columns(answer: str, problem: Mapping[str, Any]) -> Any:
            columns = {field: [value] for field, value in problem.items()}
            columns |= {"prompts": [problem["prompt"]]} if "prompt" in problem else {}
            columns["completions"] = [answer]
            rewards = _finish(function(**{k: v for k, v in columns.items() if takes_all or k in parameters}))
            if len(rewards) != 1:
                raise ValueError(f"returned {len(rewards)} rewards for one completion")
            return rewards[0]

        return call_with_columns
    try:
        inspect.signature(function).bind("answer", {})
    except TypeError:
        raise ValueError(
            f"{field}: must take (answer, problem) or (completions, **columns), got {name!r} with the signature "
            f"{inspect.signature(function)}"
        ) from None
    return lambda answer, problem: _finish(function(answer, problem))


def _finish(value: Any) -> Any:
    """The value of a plain call, or of an async one run to its end."""
    return _runner().run(_awaited(value)) if inspect.isawaitable(value) else value


async def _awaited(value: Any) -> Any:
    return await value


_RUNNERS: list[asyncio.Runner] = []


def _runner() -> asyncio.Runner:
    """One event loop for the life of the process, so that clients an async verifier holds stay usable."""
    if not _RUNNERS:
        _RUNNERS.append(asyncio.Runner())
    return _RUNNERS[0]


def _verdict(value: Any) -> Verdict:
    """A number counts as correct from 1 up; anything that is no finite number is the verifier's fault."""
    if isinstance(value, Verdict):
        assert value.reward is None or math.isfinite(value.reward), f"reward must be finite, got {value.reward}"
        return value
    try:
        reward = float(value)
    except (TypeError, ValueError):
        return grader_error(f"the verifier returned {value!r:.100}, not a number")
    if not math.isfinite(reward):
        return grader_error(f"the verifier returned {reward}")
    return Verdict(reward=reward, status="correct" if reward >= 1 else "wrong")
