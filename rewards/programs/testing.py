"""The code verifier: an answer is correct if its program passes the problem's tests, run in sandbox boxes.

Function tests run in their own box, which exchanges only plain data with the program's box. Standard output is compared
here, in the worker. So nothing that the program does can decide the verdict, and no expected value is in its box.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rewards.programs.boxes import close_zygote, zygote
from rewards.programs.extraction import SOURCE_LIMIT, canonical, extract_programs
from rewards.programs.function_tests import run_function_tests
from rewards.programs.problem import AssertProblem, parse
from rewards.programs.stdio_tests import run_stdio_tests
from rewards.sandbox.box import BoxFailed
from rewards.verdict import Verdict, grader_error, wrong

TRIES = 2
"""Largest number of attempts to judge an answer if a box or the zygote fails."""


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Run the program in an answer on the tests of `problem`, and return the verdict.

    A malformed problem, faulty tests or a failed box give `grader_error`.

    Args:
        answer: the response that contains the program.
        problem: a row with the fields of `AssertProblem` or `StdioProblem` (see `problem.py`).
    """
    try:
        parsed = parse(problem)
    except ValueError as error:
        return grader_error(str(error))
    names = parsed.names if isinstance(parsed, AssertProblem) else frozenset()
    texts = extract_programs(answer, names)
    if not texts:
        return wrong("no program", "no_answer")
    if len(texts[0]) > SOURCE_LIMIT:
        return wrong(f"the program is longer than {SOURCE_LIMIT} characters", "rejected")
    texts = [text for text in texts if len(text) <= SOURCE_LIMIT]
    started = time.perf_counter()
    for _ in range(TRIES):
        try:
            level = zygote().level
            verdict = (
                run_function_tests(parsed, texts)
                if isinstance(parsed, AssertProblem)
                else run_stdio_tests(parsed, texts)
            )
            key = canonical(texts[0]) if verdict.status == "correct" else ""
            return replace(verdict, seconds=time.perf_counter() - started, isolation=level, semantic_key=key)
        except (BoxFailed, ConnectionError) as failure:  # perhaps the zygote died: try again with a new one
            close_zygote()
            reason = f"no box: {failure}"
    return grader_error(reason)


def prepare() -> None:
    """Start the zygote before the first answer. Raises BoxFailed if it cannot start."""
    zygote()
