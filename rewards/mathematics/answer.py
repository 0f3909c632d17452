"""The mathematics verifier: compare the final answer of a response with the gold answer.

Numbers compare as exact fractions, lists and sets as multisets, tuples and intervals in order and with their brackets.
Expressions compare exactly where both are rational, else numerically with a precision that grows with their values. A
hedged answer ("5 or 6") or several answers to a gold of one value are wrong.

Sizes are checked before anything is computed, no text is evaluated as code, and no signal or global state is used, so
the verifier works in any thread. A computation that still takes too long is ended by killing the worker process.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from configs.extraction import FIELD, RULE, STRICT, is_mode
from rewards.mathematics.equality import equal
from rewards.mathematics.evaluation import TooLarge
from rewards.mathematics.extraction import FinalAnswer, final_answer, last_boxes
from rewards.mathematics.modes import extract, no_answer
from rewards.mathematics.text import canonical, nesting_depth, normalise
from rewards.verdict import Verdict, correct, grader_error, wrong

LENGTH_LIMIT = 1_000
"""Largest number of characters of a final answer."""
DEPTH_LIMIT = 50
"""Largest nesting depth of brackets in a final answer."""
SOLUTION_MARKER = re.compile(r"####|\nA: |\banswer(?: is|:)", re.IGNORECASE)
"""Marks the final answer in a gold that is a whole solution without a box."""
SMALL_INTEGER_DIGITS = 15
"""Largest number of digits of integers that are compared directly, without the other stages."""


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Return whether the final answer of a response equals the gold answer.

    Args:
        answer: the text of the response.
        problem: `problem["answer"]` is the gold: a number, an answer (`"\\frac12"`) or a solution that ends in one;
            or a list of golds, of which the response may equal any. `problem["extraction"]`, if it is given, is the
            mode in which the final answer is extracted.
    Returns: the status is correct, wrong, no_answer, rejected (the final answer exceeds a limit) or grader_error (the
        problem has no usable gold or mode).

    Example: gold `"\\frac12"` and response `"so it is \\boxed{0.5}"` -> correct.
    """
    golds, mode = problem.get("answer"), problem.get(FIELD, STRICT)
    if not is_mode(mode):
        return grader_error(f"{FIELD}: {RULE}, got {mode!r:.100}")
    if not isinstance(golds, list):
        return _verify(answer, golds, mode)
    if not golds:
        return grader_error("answer: the problem must have one, got an empty list")
    verdicts = {(verdict := _verify(answer, gold, mode)).status: verdict for gold in golds}
    return verdicts.get("correct") or verdicts.get("grader_error") or next(iter(verdicts.values()))


def _verify(answer: str, given: Any, mode: str = STRICT) -> Verdict:
    """Return whether the final answer of a response equals one gold."""
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return grader_error("answer: the problem must have one, a string or a number")
    gold = _gold_answer(str(given))
    if not gold:
        return grader_error("answer: the problem's answer must not be empty")
    is_bare = mode == STRICT and _is_small_integer(answer.strip())
    final = FinalAnswer(answer.strip()) if is_bare else extract(answer, mode)
    if final is None:
        return wrong(no_answer(mode), "no_answer")
    read = final.text
    if len(read) > LENGTH_LIMIT:
        return wrong(f"the final answer is longer than {LENGTH_LIMIT} characters", "rejected", read)
    if _is_small_integer(gold) and _is_small_integer(read):
        return correct(extracted=read) if int(gold) == int(read) else wrong(f"{read} is not the answer", extracted=read)
    if nesting_depth(read) > DEPTH_LIMIT:
        return wrong(f"the brackets of the final answer are nested more than {DEPTH_LIMIT} deep", "rejected", read)
    text = normalise(read)
    if not canonical(text):
        return wrong("the final answer is empty", "no_answer", read)
    try:
        is_equal = equal(gold, text) or _every_box_equals(gold, final)
    except (TooLarge, MemoryError, RecursionError, OverflowError) as error:
        reason = f"comparing it with the gold would exceed a size limit ({type(error).__name__})"
        return wrong(reason, "rejected", read)
    return correct(extracted=read) if is_equal else wrong(f"{text[:200]} is not the answer", extracted=read)


def check_problem(problem: Mapping[str, Any]) -> list[str]:
    """Return the faults of a problem; an empty list if it has none.

    Faults are a gold answer that is missing, empty, too long, nested too deeply or not equal to itself, and an unknown
    extraction mode.
    """
    golds, mode = problem.get("answer"), problem.get(FIELD, STRICT)
    if golds == []:
        return ["answer: must not be an empty list, got []"]
    refused = [] if is_mode(mode) else [f"{FIELD}: {RULE}, got {mode!r:.100}"]
    return refused + [fault for gold in (golds if isinstance(golds, list) else [golds]) for fault in _faults(gold)]


def _faults(value: Any) -> list[str]:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return [f"answer: must be a string or a number, got {value!r:.100}"]
    gold = _gold_answer(str(value))
    if not gold:
        return [f"answer: must not be empty, got {value!r:.100}"]
    if len(gold) > LENGTH_LIMIT or nesting_depth(gold) > DEPTH_LIMIT:
        limits = f"at most {LENGTH_LIMIT} characters and {DEPTH_LIMIT} nested brackets"
        return [f"answer: must have {limits}, got {len(gold)} and {nesting_depth(gold)}"]
    verdict = _verify(rf"\boxed{{{gold}}}", value)
    return (
        [] if verdict.status == "correct" else [f"answer: must equal itself, got {verdict.status} for {value!r:.100}"]
    )


@lru_cache(maxsize=4096)
def _gold_answer(text: str) -> str:
    """Return the normalised gold answer of a data row; "" if there is none."""
    text = normalise(gold_text(text)[: LENGTH_LIMIT + 1].strip())
    return text if canonical(text) else ""


def gold_text(text: str) -> str:
    """Return the gold answer of a data row, which may be a whole solution, as it is written; "" if there is none."""
    if last_boxes(text) or SOLUTION_MARKER.search(text):
        final = final_answer(text)
        return final.text if final else ""
    return text


def _is_small_integer(text: str) -> bool:
    digits = text[1:] if text[:1] == "-" else text
    return len(digits) <= SMALL_INTEGER_DIGITS and digits.isascii() and digits.isdigit()


def _every_box_equals(gold: str, final: FinalAnswer) -> bool:
    """Return whether several boxes are joined and each equals the gold: `\\boxed{1/2} or \\boxed{0.5}`."""
    return bool(final.boxes) and all(equal(gold, normalise(box)) for box in final.boxes)
