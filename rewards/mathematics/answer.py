"""The mathematics verifier: the final answer of a response against the gold, exactly.

Numbers compare as fractions, lists and sets as multisets, tuples and intervals in order with their brackets,
expressions exactly or to more digits than they can hide. A hedged or multiple answer to a gold of one value is wrong.
Sizes are bounded before anything is computed, no text is ever evaluated as code, and no signal or global state is used,
so it works in any thread; whatever may still take long ends with the worker process.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from rewards.mathematics.equality import equal
from rewards.mathematics.evaluation import TooLarge
from rewards.mathematics.extraction import Final, final_answer, last_boxes
from rewards.mathematics.text import canonical, depth, normalise
from rewards.verdict import Verdict, correct, grader_error, wrong

LENGTH_LIMIT = 1_000
"""Characters of a final answer."""
DEPTH_LIMIT = 50
SOLUTION = re.compile(r"####|\nA: |\banswer(?: is|:)", re.IGNORECASE)
"""What a gold that is a whole solution has before its answer, if no box."""
SMALL_INTEGER = 15
"""Digits up to which two integers are compared at once."""


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Correct if the final answer of a response equals `problem["answer"]`, a bare answer or a whole solution."""
    if isinstance(problem.get("answer"), bool) or not isinstance(problem.get("answer"), str | int | float):
        return grader_error("the problem must have an answer, a string or a number")
    gold = _gold(str(problem["answer"]))
    if not gold:
        return grader_error("the problem's answer is empty")
    found = Final(answer.strip()) if _is_small_integer(answer.strip()) else final_answer(answer)
    if found is None:
        return wrong("no final answer: no box, no ####, no 'answer is', and not a short answer", "no_answer")
    if len(found.text) > LENGTH_LIMIT:
        return wrong(f"the final answer is longer than {LENGTH_LIMIT} characters", "rejected")
    if _is_small_integer(gold) and _is_small_integer(found.text):
        return correct() if int(gold) == int(found.text) else wrong(f"{found.text} is not the answer")
    if depth(found.text) > DEPTH_LIMIT:
        return wrong(f"the final answer is nested more than {DEPTH_LIMIT} deep", "rejected")
    text = normalise(found.text)
    if not canonical(text):
        return wrong("the final answer is empty", "no_answer")
    try:
        same = equal(gold, text) or _every_box(gold, found)
    except (TooLarge, MemoryError, RecursionError, OverflowError) as error:
        return wrong(f"comparing took more than its share ({type(error).__name__})", "rejected")
    return correct() if same else wrong(f"{text[:200]} is not the answer")


def check_problem(problem: Mapping[str, Any]) -> list[str]:
    """What makes a problem unfit: an answer that is missing, empty, too long, or not equal to itself."""
    value = problem.get("answer")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return [f"answer: must be a string or a number, got {value!r:.100}"]
    gold = _gold(str(value))
    if not gold:
        return [f"answer: must not be empty, got {value!r:.100}"]
    if len(gold) > LENGTH_LIMIT or depth(gold) > DEPTH_LIMIT:
        limits = f"at most {LENGTH_LIMIT} characters and {DEPTH_LIMIT} nested brackets"
        return [f"answer: must have {limits}, got {len(gold)} and {depth(gold)}"]
    verdict = verify(rf"\boxed{{{gold}}}", problem)
    return (
        [] if verdict.status == "correct" else [f"answer: must equal itself, got {verdict.status} for {value!r:.100}"]
    )


@lru_cache(maxsize=4096)
def _gold(text: str) -> str:
    """The normalised final answer of a data row, which may hold a whole solution."""
    if last_boxes(text) or SOLUTION.search(text):
        found = final_answer(text)
        text = found.text if found else ""
    text = normalise(text[: LENGTH_LIMIT + 1].strip())
    return text if canonical(text) else ""


def _is_small_integer(text: str) -> bool:
    digits = text[1:] if text[:1] == "-" else text
    return len(digits) <= SMALL_INTEGER and digits.isascii() and digits.isdigit()


def _every_box(gold: str, found: Final) -> bool:
    """Whether several joined boxes all hold the gold, each in another spelling."""
    return bool(found.boxes) and all(equal(gold, normalise(box)) for box in found.boxes)
