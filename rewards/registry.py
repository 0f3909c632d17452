"""Verifiers by name or by import path, all brought to one shape: a total function (answer, problem) -> Verdict.

A user's own function may be `(answer, problem) -> float | bool | Verdict`, or the common reward signature
`(completions, **columns) -> list[float]`, which is called with lists of one element: `completions`, `prompts` (when the
problem has a `prompt`) and one list per field of the problem. Either may be async. Modules load only when resolved.
"""

import asyncio
import difflib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rewards.verdict import Verdict, grader_error

Verify = Callable[[str, Mapping[str, Any]], Verdict]
VERIFIERS = {
    "countdown": "rewards.countdown_answer:verify",
    "math": "rewards.math_answer:verify",
}
FIELD = "task.verifier"


def check(name: str) -> None:
    """Raise ValueError naming `task.verifier` unless the name leads to a function of a known signature."""
    resolve(name)


def resolve(name: str) -> Verify:
    """The verifier of a registered name or an import path `package.module:function`.

    The working directory counts as a place to import from. What the verifier raises becomes a grader_error. Raises
    ValueError naming `task.verifier` if there is no such function or its signature is not a known one.
    """
    path = VERIFIERS.get(name, name)
    module_name, colon, function_name = path.partition(":")
    if not (colon and module_name and function_name):
        close = difflib.get_close_matches(name, VERIFIERS, n=1, cutoff=0.4)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        known = ", ".join(VERIFIERS)
        raise ValueError(f"{FIELD}: must be one of {known} or read package.module:function{hint}, got {name!r}")
    function = _import(name, module_name, function_name)
    call = _adapt(name, function)

    def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
        try:
            return _verdict(call(answer, problem))
        except Exception as error:  # a fault of the verifier, never of the answer: it masks the trajectory
            return grader_error(f"{name} raised {type(error).__name__}: {error}")

    return verify


def _import(name: str, module_name: str, function_name: str) -> Callable[..., Any]:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name, None)
    except Exception as error:  # whatever a user's module raises while it loads
        raise ValueError(
            f"{FIELD}: must be importable, got {name!r} whose import raised {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise ValueError(f"{FIELD}: must name a function of {module_name}, got {name!r}")
    return function


def _adapt(name: str, function: Callable[..., Any]) -> Callable[[str, Mapping[str, Any]], Any]:
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
            f"{FIELD}: must take (answer, problem) or (completions, **columns), got {name!r} with the signature "
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
