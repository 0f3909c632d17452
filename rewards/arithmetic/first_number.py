"""The verifier of few-shot sums: compare the first number of the answer with a whole number.

A base language model goes on after its answer with further lines of the pattern, so the text after the first number
does not count.
"""

import re
from collections.abc import Mapping
from typing import Any

from rewards.verdict import Verdict, correct, grader_error, wrong

NUMBER = re.compile(r"[-+−]?\d+(?:[.,]\d+)*")
"""Digits of any script, with points and commas between them, so that 12.5 and 1,234 are one number each."""
LENGTH_LIMIT = 20_000
"""Characters of an answer."""


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Return correct if the first number of the answer is `problem["number"]`, in digits without a leading zero."""
    number = problem.get("number")
    if type(number) is not int:
        return grader_error("the problem must have a whole number")
    if len(answer) > LENGTH_LIMIT:
        return wrong(f"the answer is longer than {LENGTH_LIMIT} characters")
    match = NUMBER.search(answer)
    if match is None:
        return wrong("the answer has no number", "no_answer")
    vote = match[0]
    return correct(vote=vote) if vote == str(number) else wrong("the first number is another one", vote=vote)
