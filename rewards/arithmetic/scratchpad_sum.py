"""The verifier of addition with a scratchpad: compare the result after the scratchpad with the exact sum.

The steps in the scratchpad do not count. The result is all text after the answer's only `</scratch>`: decimal digits,
adjacent or with single spaces between them, without leading zeros.
Source: arXiv:2502.06533.
"""

import re
from collections.abc import Mapping
from typing import Any

from rewards.verdict import Verdict, correct, grader_error, wrong

LENGTH_LIMIT = 20_000
"""Characters of an answer. The scratchpad of two numbers of 30 digits has about 6,000."""
DIGIT_LIMIT = 1_000
"""Digits of an operand."""
END_OF_SCRATCHPAD = "</scratch>"
RESULT = re.compile(r"[ \t\r\n]*([0-9](?: ?[0-9])*)[ \t\r\n]*")


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Return correct if the result is the sum of `problem["operands"]`, two whole numbers from 0 up."""
    operands = problem.get("operands")
    if not (isinstance(operands, list | tuple) and len(operands) == 2 and all(map(_is_operand, operands))):
        return grader_error(f"the problem must have two operands, whole numbers of at most {DIGIT_LIMIT} digits")
    if len(answer) > LENGTH_LIMIT:
        return wrong(f"the answer is longer than {LENGTH_LIMIT} characters")
    _, found, result = answer.partition(END_OF_SCRATCHPAD)
    if not found:
        return wrong(f"the scratchpad does not end in {END_OF_SCRATCHPAD}", "no_answer")
    if not result.strip(" \t\r\n"):
        return wrong(f"there is no result after {END_OF_SCRATCHPAD}", "no_answer")
    match = RESULT.fullmatch(result)
    if match is None:
        return wrong(f"the text after {END_OF_SCRATCHPAD} must be the digits of one number and nothing else")
    result = match[1].replace(" ", "")
    if result != str(sum(operands)):
        return wrong("the result is not the sum", vote=result)
    return correct(vote=result)


def _is_operand(number: object) -> bool:
    return type(number) is int and 0 <= number < 10**DIGIT_LIMIT
