"""The mathematics verifier: compare the final answer of a response with the gold answer.

Numbers compare as exact fractions, lists and sets as multisets (in order if the question asks for an order), tuples and
intervals in order and with their brackets. Expressions compare exactly where both are rational, else numerically with a
precision that grows with their values. A hedged answer ("5 or 6") or several answers to a gold of one value are wrong.

Sizes are checked before anything is computed, and no text is evaluated as code. The verifier works in any thread, but
what needs sympy is decided in the main thread only (`symbolic/limits.py`). A computation that still takes too long is
ended by killing the worker process.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from configs.extraction import FIELD, RULE, STRICT, is_mode
from rewards.mathematics.equality import equal
from rewards.mathematics.expressions.evaluation import TooLarge
from rewards.mathematics.expressions.identity import GROUNDS, real_value
from rewards.mathematics.extraction import FinalAnswer, final_answer, last_boxes
from rewards.mathematics.modes import extract, no_answer
from rewards.mathematics.numerals import parse_number
from rewards.mathematics.quantities.parsing import counted_things, parse_quantity
from rewards.mathematics.structures import list_items, split_relation
from rewards.mathematics.symbolic.limits import start_verdict
from rewards.mathematics.symbolic.questions import OPERATOR, asks_for, asks_for_order, restates
from rewards.mathematics.symbolic.symbols import warm_up
from rewards.mathematics.text import canonical, nesting_depth, normalise
from rewards.verdict import RIGHT_VOTE, UNDECIDED, Verdict, correct, grader_error, wrong

LENGTH_LIMIT = 1_000
"""Largest number of characters of a final answer."""
DEPTH_LIMIT = 50
"""Largest nesting depth of brackets in a final answer."""
SOLUTION_MARKER = re.compile(r"####|\nA: |\banswer(?: is|:)", re.IGNORECASE)
"""Marks the final answer in a gold that is a whole solution without a box."""
REASONS = {"sampled": "equal at sampled points", "proved": "equal by a proof of sympy"}
"""Reason of a correct verdict, by the ground of the comparison, the weakest first."""
QUESTION_FIELDS = ("question", "problem", "prompt", "messages")
"""Fields of a problem that may hold its question, the first one that is there."""
QUESTION_LIMIT = 10_000
"""Characters of a question in which things that it counts are looked for."""
SMALL_INTEGER_DIGITS = 15
"""Largest number of digits of integers that are compared directly, without the other stages."""


def prepare() -> None:
    """Import sympy and what it imports on first use, so that no answer pays for it."""
    warm_up()


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Return whether the final answer of a response equals the gold answer.

    Args:
        answer: the text of the response.
        problem: `problem["answer"]` is the gold: a number, an answer (`"\\frac12"`) or a solution that ends in one;
            or a list of golds, of which the response may equal any. `problem["extraction"]`, if it is given, is the
            mode in which the final answer is extracted. The question is the text or chat `question`, `problem`,
            `prompt` or `messages`, if there is one. It says which nouns may stand behind a number, which expression
            may name the answer (`m+n = 5`), whether the order of a list counts, and what is still to be computed.
    Returns: the status is correct, wrong, no_answer, rejected (the final answer exceeds a limit) or grader_error (the
        problem has no usable gold or mode).

    Example: gold `"\\frac12"` and response `"so it is \\boxed{0.5}"` -> correct.
    """
    golds, mode = problem.get("answer"), problem.get(FIELD, STRICT)
    if not is_mode(mode):
        return grader_error(f"{FIELD}: {RULE}, got {mode!r:.100}")
    if not isinstance(golds, list):
        return _verify(answer, golds, problem, mode)
    if not golds:
        return grader_error("answer: the problem must have one, got an empty list")
    verdicts = {(verdict := _verify(answer, gold, problem, mode)).status: verdict for gold in golds}
    return verdicts.get("correct") or verdicts.get("grader_error") or next(iter(verdicts.values()))


def _vote(text: str) -> str:
    """Return the vote of a wrong final answer, equal for equal numbers however they are written: "1/2" and "0.5".

    Other expressions are compared as texts, without white space.
    """
    number = parse_number(text)
    return "".join(text.split()) if number is None else f"{number.numerator:x}/{number.denominator:x}"


def _verify(answer: str, given: Any, problem: Mapping[str, Any], mode: str) -> Verdict:
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
        if int(gold) == int(read):
            return correct(extracted=read, vote=RIGHT_VOTE)
        return wrong(f"{read} is not the answer", extracted=read, vote=_vote(read))
    if nesting_depth(read) > DEPTH_LIMIT:
        return wrong(f"the brackets of the final answer are nested more than {DEPTH_LIMIT} deep", "rejected", read)
    text = normalise(read)
    if not canonical(text):
        return wrong("the final answer is empty", "no_answer", read)
    GROUNDS.notes.clear()
    start_verdict()
    question = _question(problem)
    try:
        is_equal = equal(gold, text) or _every_box_equals(gold, final) or _names_what_is_asked(gold, text, question)
        fault = _fault_in_view_of_question(gold, text, question) if is_equal and question else ""
    except (TooLarge, MemoryError, RecursionError, OverflowError) as error:
        reason = f"comparing it with the gold would exceed a size limit ({type(error).__name__})"
        return wrong(reason, "rejected", read)
    if fault:
        return wrong(f"{text[:200]} {fault}", extracted=read, vote=_vote(text))
    if is_equal or _counts_what_the_question_names(gold, text, question):
        reason = next((REASONS[ground] for ground in REASONS if ground in GROUNDS.notes), "")
        return correct(reason, extracted=read, vote=RIGHT_VOTE)
    if "undecided" in GROUNDS.notes:
        reason = f"{UNDECIDED}neither numbers nor sympy show whether {text[:200]} is the answer"
        return wrong(reason, extracted=read, vote=_vote(text))
    return wrong(f"{text[:200]} is not the answer", extracted=read, vote=_vote(text))


def _counts_what_the_question_names(gold: str, answer: str, question: str) -> bool:
    """Return whether the gold is a number and the answer is that number of things that the question names."""
    value = parse_number(gold)
    if value is None or not question:
        return False
    quantity = parse_quantity(answer, counted_things(question))
    return quantity is not None and not quantity.percent and quantity.value == value


def _names_what_is_asked(gold: str, answer: str, question: str) -> bool:
    """Return whether the answer equates an expression that the question asks for to the gold: `m + n = 5`."""
    sides, signs = split_relation(answer)
    return set(signs) == {"="} and asks_for(question, sides[0]) and equal(gold, "=".join(sides[1:]))


def _fault_in_view_of_question(gold: str, answer: str, question: str) -> str:
    """Return what is wrong with an answer that equals the gold: it restates the question, or has another order."""
    has_operator = OPERATOR.search(answer) and not OPERATOR.search(gold)
    is_number = parse_number(gold) is not None and "^" not in gold
    if (has_operator or is_number) and restates(question, answer):
        return "is only what the question asks to compute"
    if asks_for_order(question) and not _same_order(list_items(gold) or [], list_items(answer) or []):
        return "is in another order"
    return ""


def _same_order(gold: list[str], answer: list[str]) -> bool:
    """Return whether two lists of equal items have them in the same order. A gold of numbers must itself be sorted."""
    values: list[Any] = [real_value(item) for item in gold]
    if None not in values and values not in (sorted(values), sorted(values, reverse=True)):
        return True
    return len(gold) != len(answer) or all(map(equal, gold, answer))


def _question(problem: Mapping[str, Any]) -> str:
    """Return the beginning of a problem's question, which may be a chat; "" if there is none."""
    for value in map(problem.get, QUESTION_FIELDS):
        last = value[-1] if isinstance(value, list) and value else None
        text = last.get("content") if isinstance(last, Mapping) else value
        if isinstance(text, str):
            return text[:QUESTION_LIMIT]
    return ""


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
    verdict = _verify(rf"\boxed{{{gold}}}", value, {}, STRICT)
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
