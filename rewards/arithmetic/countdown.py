"""The Countdown verifier: parse the answer as an arithmetic expression, and check its numbers and its exact value.

Grammar: expression = term (("+" | "-") term)*, term = atom (("*" | "/") atom)*, atom = number | "(" expression ")".
There is no unary minus, and a number has no leading zero. ASCII white space separates tokens and is otherwise ignored.
No text is evaluated as code.
"""

import re
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from rewards.verdict import Verdict, correct, grader_error, wrong

LENGTH_LIMIT = 200
"""Characters of an answer without the white space at its ends."""
DEPTH_LIMIT = 50
"""Nested parentheses."""
TOKEN = re.compile(r"[ \t\r\n]*(?:(0|[1-9][0-9]*)|([-+*/()]))")


class Malformed(ValueError):
    """The answer is not an arithmetic expression, or divides by zero."""


def verify(answer: str, problem: Mapping[str, Any]) -> Verdict:
    """Return correct if the answer uses each of `problem["numbers"]` exactly once and equals `problem["target"]`."""
    numbers, target = problem.get("numbers"), problem.get("target")
    if not (isinstance(numbers, list | tuple) and numbers and all(type(n) is int for n in [*numbers, target])):
        return grader_error("the problem must have integer numbers and an integer target")
    text = answer.strip(" \t\r\n")
    if not text:
        return wrong("the answer is empty", "no_answer")
    if len(text) > LENGTH_LIMIT:
        return wrong(f"the answer is longer than {LENGTH_LIMIT} characters")
    try:
        parser = Parser(_tokens(text))
        value = parser.parse()
    except Malformed as error:
        return wrong(str(error))
    used, given = Counter(parser.numbers), Counter(numbers)
    if used != given:
        extra, missing = sorted((used - given).elements()), sorted((given - used).elements())
        return wrong(f"each number must be used exactly once; too many: {extra}, missing: {missing}")
    if value != target:
        return wrong(f"evaluates to {value}, not {target}")
    return correct()


class Parser:
    """Recursive-descent parser of a list of tokens. Values are exact: integers, or fractions after a division."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.numbers: list[int] = []
        """Numbers read so far, in order."""

    def parse(self) -> int | Fraction:
        """Return the value of the expression. Raises Malformed if the tokens are not one expression."""
        value = self._expression()
        if self._next():
            raise Malformed(f"expected an operator, got {self._next()!r} at token {self.position + 1}")
        return value

    def _next(self) -> str:
        """Return the current token; empty after the last one."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def _expression(self) -> int | Fraction:
        value = self._term()
        while (operator := self._next()) in ("+", "-"):
            self.position += 1
            right = self._term()
            value = value + right if operator == "+" else value - right
        return value

    def _term(self) -> int | Fraction:
        value = self._atom()
        while (operator := self._next()) in ("*", "/"):
            self.position += 1
            right = self._atom()
            if operator == "*":
                value = value * right
            elif right == 0:
                raise Malformed("divides by zero")
            else:
                value = Fraction(value) / right
        return value

    def _atom(self) -> int | Fraction:
        token = self._next()
        self.position += 1
        if token.isdigit():
            self.numbers.append(int(token))
            return self.numbers[-1]
        if token != "(":
            raise Malformed(f"expected a number or '(', got {token or 'the end'!r} at token {self.position}")
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise Malformed(f"parentheses are nested more than {DEPTH_LIMIT} deep")
        value = self._expression()
        if self._next() != ")":
            raise Malformed(f"expected ')', got {self._next() or 'the end'!r} at token {self.position + 1}")
        self.position += 1
        self.depth -= 1
        return value


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None:
            raise Malformed(f"unexpected {text[position : position + 10].lstrip()[:1]!r} at character {position + 1}")
        tokens.append(match[1] or match[2])
        position = match.end()
    return tokens
