"""Call verifier functions of every accepted signature, and convert their return values to Verdicts."""

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from rewards.verdict import Verdict, grader_error


def adapt(name: str, function: Callable[..., Any], setting: str) -> Callable[[str, Mapping[str, Any]], Any]:
    """Return a synchronous function (answer, problem) -> return value of `function`.

    Args:
        name: the verifier's name or import path, for the error message.
        function: sync or async, `(answer, problem)` or `(completions, **columns)`. The second form is called with lists
            of one element: `completions`, `prompts` (if the problem has a `prompt`) and one list per field of the
            problem.
        setting: the setting or option that named the verifier, for the error message.

    Raises:
        ValueError: the function has another signature.
    """
    parameters = inspect.signature(function).parameters
    if "completions" in parameters:
        accepts_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())

        def call_with_columns(answer: str, problem: Mapping[str, Any]) -> Any:
            columns = {field: [value] for field, value in problem.items()}
            columns |= {"prompts": [problem["prompt"]]} if "prompt" in problem else {}
            columns["completions"] = [answer]
            rewards = _run_if_async(function(**{k: v for k, v in columns.items() if accepts_all or k in parameters}))
            if len(rewards) != 1:
                raise ValueError(f"returned {len(rewards)} rewards for one completion")
            return rewards[0]

        return call_with_columns
    try:
        inspect.signature(function).bind("answer", {})
    except TypeError:
        raise ValueError(
            f"{setting}: must take (answer, problem) or (completions, **columns), got {name!r} with the signature "
            f"{inspect.signature(function)}"
        ) from None
    return lambda answer, problem: _run_if_async(function(answer, problem))


def to_verdict(value: Any) -> Verdict:
    """Convert a return value to a Verdict. A number is correct from 1 up; a value that is not a finite number is a
    grader_error."""
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


def _run_if_async(value: Any) -> Any:
    """Run an awaitable to its end and return its result; return any other value unchanged."""
    return _runner().run(_await(value)) if inspect.isawaitable(value) else value


async def _await(value: Any) -> Any:
    return await value


_RUNNERS: list[asyncio.Runner] = []


def _runner() -> asyncio.Runner:
    """Return the one event loop of this process. It is never closed, so that the clients of an async verifier stay
    usable from one answer to the next."""
    if not _RUNNERS:
        _RUNNERS.append(asyncio.Runner())
    return _RUNNERS[0]
