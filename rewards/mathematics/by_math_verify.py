"""The verifier of the package math-verify, for comparison with the field's usual grader (`verifier=math_verify`).

It extracts, parses and compares with math-verify's own rules, at its defaults; only text inside `<think>` is removed
before. The package, and sympy with it, is imported by `prepare` in the worker process, before that is confined. Its own
time limits need signals and are off: the worker is killed at the deadline instead.

Source: https://github.com/huggingface/Math-Verify, `math_verify.parse` and `math_verify.verify`.
"""

import functools
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from rewards.mathematics.answer import gold_text
from rewards.mathematics.extraction import readable
from rewards.verdict import RIGHT_VOTE, Verdict, correct, grader_error, wrong

WARM_UP = (r"\boxed{\frac{x}{2}}", r"$0.5x$")
"""Two answers that are compared before the first one is judged: the first comparison builds the parser's tables."""


def prepare() -> None:
    """Import math-verify and compare two answers with it, so that no answer waits for this."""
    _warm()


@functools.cache
def _warm() -> None:
    gold, answer = map(_parsed, WARM_UP)
    assert _library().verify(gold, answer, timeout_seconds=None)


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Return whether math-verify finds a response equal to the gold answer.

    Args:
        answer: the text of the response.
        problem: `problem["answer"]` is the gold, as for the verifier math: a number, an answer or a solution that ends
            in one, or a list of golds, of which the response may equal any.
    Returns: the status is correct, wrong, no_answer or grader_error (math-verify cannot read a gold).
    """
    golds = [_gold(given) for given in _as_list(problem.get("answer"))]
    if not golds or not all(golds):
        return grader_error("answer: the problem must have one that math-verify can read")
    found = _parsed(readable(answer))
    if not found:
        return wrong("math-verify finds no answer in it", "no_answer")
    text = next((one for one in found if isinstance(one, str)), "")
    if any(_library().verify(gold, found, timeout_seconds=None) for gold in golds):
        return correct(extracted=text, vote=RIGHT_VOTE)
    return wrong(f"{text[:200]} is not the answer", extracted=text, vote="".join(text.split()))


def check_problem(problem: Mapping[str, Any]) -> list[str]:
    """Return the faults of a problem: golds that math-verify cannot read, or does not find equal to themselves."""
    golds = _as_list(problem.get("answer"))
    if not golds:
        return ["answer: must not be an empty list, got []"]
    parsed = [(given, _gold(given)) for given in golds]
    return [
        f"answer: must be readable by math-verify and equal itself, got {given!r:.100}"
        for given, gold in parsed
        if not gold or not _library().verify(gold, gold, timeout_seconds=None)
    ]


def _as_list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else [given]


def _gold(given: Any) -> list[Any]:
    """Return what math-verify reads of a gold, an empty list if nothing. It reads formulas only in a box or dollars."""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return []
    text = gold_text(str(given))
    return _parsed(rf"\boxed{{{text}}}") if text.strip() else []


def _parsed(text: str) -> list[Any]:
    """Return what math-verify extracts from a text: a sympy expression, if it can be parsed, and the text of it."""
    found: list[Any] = _library().parse(text, parsing_timeout=None)
    return found


@functools.cache
def _library() -> ModuleType:
    import math_verify  # It loads sympy, which only a worker process of this verifier needs.

    library: ModuleType = math_verify
    return library
