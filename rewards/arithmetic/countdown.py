"""The Countdown verifier: parse the answer as an arithmetic expression, and check its numbers and its exact value.

Answers are the same solution, and the same vote, if they differ only in the order and grouping of sums and of products.

Grammar: expression = term (("+" | "-") term)*, term = atom (("*" | "/") atom)*, atom = number | "(" expression ")".
There is no unary minus, and a number has no leading zero. ASCII white space separates tokens and is otherwise ignored.
No text is evaluated as code.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Generic, NamedTuple, TypeVar

from rewards.verdict import Verdict, correct, grader_error, wrong

LENGTH_LIMIT = 200
"""Characters of an answer without the white space at its ends."""
DEPTH_LIMIT = 50
"""Nested parentheses."""
INVERSE = str.maketrans("+-*/", "-+/*")
T = TypeVar("T")
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
        tokens = _tokens(text)
        parser = Parser(tokens, int, _calculate)
        value = parser.parse()
    except Malformed as error:
        return wrong(str(error))
    form = Parser(tokens, _Form, _join).parse().text
    used, given = Counter(parser.numbers), Counter(numbers)
    if used != given:
        extra, missing = sorted((used - given).elements()), sorted((given - used).elements())
        return wrong(f"each number must be used exactly once; too many: {extra}, missing: {missing}", vote=form)
    if value != target:
        return wrong(f"evaluates to {value}, not {target}", vote=form)
    return correct(semantic_key=form, vote=form)


class _Form(NamedTuple):
    """Canonical form of an expression: equal for expressions that differ in the order and grouping of sums and of
    products, and in parentheses that are not needed."""

    text: str
    """A number, or the sorted parts in parentheses. Example: "(+3-(*2*5))" for 3 - 5 * 2."""
    kind: str = ""
    """"+" for a sum or difference, "*" for a product or quotient, "" for a number."""
    parts: tuple[str, ...] = ()
    """The operands of the sum or product, each after its operator."""


class Parser(Generic[T]):
    """Recursive-descent parser of a list of tokens.

    Args:
        number: what a number's text stands for.
        apply: what an operator makes of its two sides.
    """

    def __init__(self, tokens: list[str], number: Callable[[str], T], apply: Callable[[str, T, T], T]) -> None:
        self.tokens, self.number, self.apply = tokens, number, apply
        self.position = 0
        self.depth = 0
        self.numbers: list[int] = []
        """Numbers read so far, in order."""

    def parse(self) -> T:
        """Return what the expression stands for. Raises Malformed if the tokens are not one expression."""
        value = self._expression()
        if self._next():
            raise Malformed(f"expected an operator, got {self._next()!r} at token {self.position + 1}")
        return value

    def _next(self) -> str:
        """Return the current token; empty after the last one."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def _expression(self) -> T:
        value = self._term()
        while (operator := self._next()) in ("+", "-"):
            self.position += 1
            value = self.apply(operator, value, self._term())
        return value

    def _term(self) -> T:
        value = self._atom()
        while (operator := self._next()) in ("*", "/"):
            self.position += 1
            value = self.apply(operator, value, self._atom())
        return value

    def _atom(self) -> T:
        token = self._next()
        self.position += 1
        if token.isdigit():
            self.numbers.append(int(token))
            return self.number(token)
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


def _calculate(operator: str, left: int | Fraction, right: int | Fraction) -> int | Fraction:
    """Return the exact value: an integer, or a fraction after a division."""
    if operator == "+":
        return left + right
    if operator == "-":
        return left - right
    if operator == "*":
        return left * right
    if right == 0:
        raise Malformed("divides by zero")
    return Fraction(left) / right


def _join(operator: str, left: _Form, right: _Form) -> _Form:
    """Return the form of `left operator right`: a sum of sums is one sum, a product of products one product."""
    kind = "+" if operator in "+-" else "*"
    first, second = (form.parts if form.kind == kind else (kind + form.text,) for form in (left, right))
    if operator != kind:
        second = tuple(part[0].translate(INVERSE) + part[1:] for part in second)
    parts = tuple(sorted(first + second))
    return _Form(f"({''.join(parts)})", kind, parts)
