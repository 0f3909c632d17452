"""Call verifier functions of every accepted signature, and convert their return values to Verdicts.

Arguments are bound by the names of the parameters. `rewards/forms.py` has the accepted signatures.
"""

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import TYPE_CHECKING, Any

from rewards.forms import FORMS, Call, Form, Style
from rewards.verdict import Verdict, grader_error

if TYPE_CHECKING:
    import asyncio

NO_REWARD = "the verifier returned None, no reward"
"""Reason of the verdict where a function gives an answer no reward."""
WRONG_STYLE = (TypeError, AttributeError, KeyError, IndexError)
"""Exceptions of a function that gets the other style than it is written for."""


@dataclass(kw_only=True)
class Reward:
    """A function of a user, callable as (answer, problem, context) whatever its signature is."""

    function: Callable[..., Any]
    form: Form
    parameters: Mapping[str, inspect.Parameter]
    styles: list[Style] = field(default_factory=list)
    """Styles that the function may be written for, the likeliest first; one alone after the first call that worked."""

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        return inspect.iscoroutinefunction(_innermost(self.function))

    @property
    def file(self) -> str:
        """The source file of the function; empty if it has none."""
        code = _code(self.function)
        return code.co_filename if code is not None else ""

    def call(self, answer: str, problem: Mapping[str, Any], context: Mapping[str, Any]) -> Any:
        """Return the reward. An awaitable that the function returns is run to its end."""
        try:
            self._reward(answer, problem, context, blocking=True).send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("nothing is awaited")

    async def call_async(self, answer: str, problem: Mapping[str, Any], context: Mapping[str, Any]) -> Any:
        """Return the reward; awaits in the running event loop."""
        return await self._reward(answer, problem, context, blocking=False)

    async def _reward(
        self, answer: str, problem: Mapping[str, Any], context: Mapping[str, Any], *, blocking: bool
    ) -> Any:
        first: Exception | None = None
        for style in list(self.styles):
            arguments = self._arguments(Call(answer=answer, problem=problem, context=context, style=style))
            try:
                value = self.function(**arguments)
                if inspect.isawaitable(value):
                    value = _runner().run(_await(value)) if blocking else await value
            except WRONG_STYLE as error:  # A function for messages fails on strings, and most others on messages.
                first = first or error
                continue
            if first is None or answer:
                self.styles = [style]
            return self.form.reward(value)
        assert first is not None
        raise first

    def _arguments(self, call: Call) -> dict[str, Any]:
        """Bind values to parameters by name. Another required parameter gets the problem's column of its name."""
        values = self.form.values(call)
        accepts_all = any(p.kind is p.VAR_KEYWORD for p in self.parameters.values())
        bound = {name: value for name, value in values.items() if accepts_all or name in self.parameters}
        for name, parameter in self.parameters.items():
            is_required = parameter.default is parameter.empty and parameter.kind in NAMED
            if not is_required or name in bound:
                continue
            if name not in call.problem:
                columns = ", ".join(map(str, call.problem)) or "none"
                raise TypeError(f"its parameter {name!r} is neither known nor a column of the problem ({columns})")
            bound[name] = call.problem[name]
        return bound


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def adapt(name: str, function: Callable[..., Any], setting: str) -> Reward:
    """Return the user's function as a Reward.

    Args:
        name: the verifier's name, for the error message.
        function: sync or async, of a signature in FORMS.
        setting: the setting or option that named the verifier, for the error message.

    Raises:
        ValueError: the function has another signature.
    """
    parameters: Mapping[str, inspect.Parameter]
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # Some functions written in C have no signature.
        parameters = {}
    form = next((form for key, form in FORMS.items() if key in parameters), None)
    unnamed = [p.name for p in parameters.values() if p.kind is p.POSITIONAL_ONLY]
    lacks_answer = form is FORMS["problem"] and "answer" not in parameters
    if form is None or unnamed or lacks_answer or inspect.isclass(function):
        accepted = "; ".join(FORMS[key].text for key in list(FORMS)[::-1])
        got = f"({', '.join(map(str, parameters.values()))})"
        raise ValueError(f"{setting}: must take, by these names, {accepted}, got {name!r} with the signature {got}")
    styles = list(form.styles)
    if _reads_messages(function):
        styles.reverse()
    return Reward(function=function, form=form, parameters=parameters, styles=styles)


def _reads_messages(function: Callable[..., Any]) -> bool:
    """Return whether the function's own code has the constant "content", the key of a message's text."""
    code = _code(function)
    return code is not None and "content" in _constants(code)


def _code(function: Callable[..., Any]) -> CodeType | None:
    code: CodeType | None = getattr(_innermost(function), "__code__", None)
    return code


def _innermost(function: Any) -> Any:
    """Return the function or method behind wrappers, partial applications and a callable object."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    return function if inspect.isroutine(function) else inspect.unwrap(function.__call__)


def _constants(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _constants(constant)
        elif isinstance(constant, str):
            yield constant


def to_verdict(value: Any) -> Verdict:
    """Convert a return value to a Verdict. A number is correct from 1 up; a value that is not a finite number is a
    grader_error. The other finite numbers of a dict with `reward` or `score` are its parts, and the texts
    `semantic_key` and `vote` are those of the verdict."""
    if isinstance(value, Verdict):
        assert value.reward is None or math.isfinite(value.reward), f"reward must be finite, got {value.reward}"
        return value
    if isinstance(value, Mapping):
        return _of_parts(value)
    if value is None:
        return grader_error(NO_REWARD)
    try:
        reward = float(value)
    except (TypeError, ValueError):
        return grader_error(f"the verifier returned {value!r:.100}, not a number")
    if not math.isfinite(reward):
        return grader_error(f"the verifier returned {reward}")
    return Verdict(reward=reward, status="correct" if reward >= 1 else "wrong")


def _of_parts(value: Mapping[Any, Any]) -> Verdict:
    """Return the verdict of a dict with the reward and, by other names, its parts."""
    named = next((name for name in ("reward", "score") if name in value), "")
    if not named:
        return grader_error(f"the verifier returned a dict without 'reward' or 'score': {value!r:.100}")
    verdict = to_verdict(value[named])
    numbers = {str(k): float(v) for k, v in value.items() if k not in (named, "answer") and isinstance(v, int | float)}
    parts = {name: number for name, number in numbers.items() if math.isfinite(number)}
    key, vote = (_text(value.get(name, "")) for name in ("semantic_key", "vote"))
    return verdict if verdict.reward is None else replace(verdict, parts=parts, semantic_key=key, vote=vote)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


async def _await(value: Any) -> Any:
    return await value


_RUNNERS: "list[asyncio.Runner]" = []


def _runner() -> "asyncio.Runner":
    """Return the one event loop of this process. It is never closed, so that the clients of an async verifier stay
    usable from one answer to the next."""
    import asyncio  # Here, as it takes a third of the time in which a worker starts, and few verifiers need it.

    if not _RUNNERS:
        _RUNNERS.append(asyncio.Runner())
    return _RUNNERS[0]
