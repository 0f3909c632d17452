"""Decide whether two expressions are equal.

Rational values compare exactly. Otherwise both expressions are evaluated to many digits at values of their symbols that
are drawn for this pair of texts. A difference at one of them refutes equality. Agreement at all of them is taken as
equality for expressions that are analytic; those with steps, absolute values, even roots or logarithms must also agree
on sampled lines (`sampling.py`), or be equal for any value of these parts. The precision grows with the range of the
intermediate values, so that a small difference cannot disappear beside a large number: `10^{30} + 1` differs from
`10^{30}`.
"""

import contextlib
import itertools
import re
import threading
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Literal

from rewards.mathematics.expressions.evaluation import CONTEXTS, Convention, TooLarge, Undefined, approximate, exact
from rewards.mathematics.expressions.parser import Node, parse
from rewards.mathematics.expressions.sampling import Assignment, assignments, generator, line_assignments
from rewards.mathematics.expressions.tokens import ParseError
from rewards.mathematics.expressions.trees import (
    LOGARITHMS,
    abstracted,
    is_piecewise,
    nodes,
    piecewise_nodes,
    size,
    symbols,
)
from rewards.mathematics.numerals import parse_number
from rewards.mathematics.text import unwrap_text

Comparison = Literal["equal", "different", "undecided"]
DECIMAL_PLACES = re.compile(r"[+-]?[0-9]*\.([0-9]+)")
FIRST_DIGITS = 80
"""Decimal digits of the first evaluation. If the range is above a tenth of this, a second evaluation adds two digits
for each digit of range: its values have errors of at most about `10^-(FIRST_DIGITS + range)`."""
RANGE_LIMIT = 1_000
"""Largest range, in decimal digits, for which two values are compared. Above it TooLarge is raised."""
EQUAL_DIGITS = 60
"""Two values are equal if they differ by at most `10^-(EQUAL_DIGITS + range)`."""
LINE_POINTS = 10
"""Smallest number of points on lines at which two equal expressions are defined."""
WORK_LIMIT = 60_000
"""Largest number of nodes that are evaluated to compare two expressions on lines. Above it they are undecided."""
SLOW_CALL_NODES = 50
"""Nodes that one factorial or binomial coefficient counts for."""


class Grounds(threading.local):
    """How the comparisons of one answer were decided: "sampled" and "undecided" are noted here by `compare`."""

    def __init__(self) -> None:
        self.notes: set[str] = set()


GROUNDS = Grounds()


def same_expression(gold: str, answer: str) -> bool:
    """Return whether two expressions are equal. False if one of them cannot be parsed or equality is undecided.

    Example: `"(x+1)^2"` and `"x^2+2x+1"` -> True.
    Raises: TooLarge.
    """
    if (r"\vec" in gold) != (r"\vec" in answer):  # only one of the two marks its vectors
        gold, answer = (re.sub(r"\\vec ?\{?([a-z])\}?", r"\1", text) for text in (gold, answer))
    gold_tree, answer_tree = parse_or_none(gold), parse_or_none(answer)
    return gold_tree is not None and answer_tree is not None and compare(gold_tree, answer_tree) == "equal"


def compare(gold: Node, answer: Node) -> Comparison:
    """Compare two expressions, and note in GROUNDS if sampling on lines decided or nothing did.

    They must have the same symbols and agree under one Convention.
    Raises: TooLarge.
    """
    gold_value, answer_value = _exact_or_none(gold), _exact_or_none(answer)
    if gold_value is not None and answer_value is not None:
        return "equal" if gold_value == answer_value else "different"
    names = sorted(symbols(gold))
    if names != sorted(symbols(answer)):
        return "different"
    results = {_compare_under(gold, answer, names, convention) for convention in _conventions(gold, answer)}
    if "equal" in results:
        return "equal"
    if "undecided" in results:
        GROUNDS.notes.add("undecided")
        return "undecided"
    return "different"


def _compare_under(gold: Node, answer: Node, names: list[str], convention: Convention) -> Comparison:
    """Compare two trees at points, and on lines if they have piecewise nodes that are not the same in both."""
    draw = generator(repr(gold), repr(answer))
    at_points = _compare_at(assignments(names, draw), gold, answer, convention)
    pieces = piecewise_nodes(gold, answer) if names else []
    if at_points == "different" or not pieces:
        return at_points
    piece_names: dict[str, str] = {}
    abstract = abstracted(gold, piece_names), abstracted(answer, piece_names)
    abstract_names = sorted(symbols(abstract[0]) | symbols(abstract[1]))
    if _compare_at(assignments(abstract_names, draw), *abstract, convention) == "equal":
        return "equal"
    work = _Work()

    def evaluate(node: Node, assignment: Assignment) -> Fraction | None:
        work.add(node)
        return _real_fraction(node, assignment, convention)

    try:
        lines = line_assignments((gold, answer), pieces, names, draw, evaluate)
        on_lines = _compare_on_lines(lines, gold, answer, convention, work)
    except OutOfWork:
        return "undecided"
    if on_lines == "equal":
        GROUNDS.notes.add("sampled")
    return on_lines


class OutOfWork(Exception):
    """A comparison on lines has evaluated more than WORK_LIMIT nodes."""


class _Work:
    """Counts the nodes that are evaluated."""

    def __init__(self) -> None:
        self.nodes = 0

    def add(self, *trees: Node) -> None:
        """Count the nodes of some trees. Raises: OutOfWork above WORK_LIMIT."""
        self.nodes += sum(map(_cost, trees))
        if self.nodes > WORK_LIMIT:
            raise OutOfWork


def _cost(tree: Node) -> int:
    slow = sum(1 for node in nodes(tree) if node[0] == "call" and node[1] in ("factorial", "binomial"))
    return size(tree) + SLOW_CALL_NODES * slow


def _compare_at(points: Iterable[Assignment], gold: Node, answer: Node, convention: Convention) -> Comparison:
    """Compare two trees at points. They must be defined at three, and one defined value alone is a difference.

    A point at which a logarithm makes a value complex is outside the domain.
    """
    defined, points = 0, list(points)
    real_only = _have_real_logarithms(gold, answer)
    for assignment in points:
        values, digit_range = evaluate_both((gold, answer), assignment, convention)
        if real_only and (len(values) == 1 or any(CONTEXTS.context.im(value) for value in values)):
            continue
        if len(values) == 1 or (values and not _agree(values, digit_range)):
            return "different"
        defined += bool(values)
    return "equal" if defined >= min(3, len(points)) else "undecided"


def _compare_on_lines(
    lines: Iterable[Assignment], gold: Node, answer: Node, convention: Convention, work: _Work
) -> Comparison:
    """Compare two trees at the points of lines, exactly where they have exact values.

    Points at which one of them has no value, or at which the computation is too large, do not count.
    Raises: OutOfWork.
    """
    defined = 0
    real_only = _have_real_logarithms(gold, answer)
    for assignment in lines:
        work.add(gold, answer)
        try:
            exactly = exact(gold, assignment), exact(answer, assignment)
            if exactly[0] is not None and exactly[1] is not None:
                if exactly[0] != exactly[1]:
                    return "different"
                defined += 1
                continue
            values, digit_range = evaluate_both((gold, answer), assignment, convention)
        except (TooLarge, Undefined):
            continue
        if len(values) < 2 or (real_only and any(CONTEXTS.context.im(value) for value in values)):
            continue
        if not _agree(values, digit_range):
            return "different"
        defined += 1
    return "equal" if defined >= LINE_POINTS else "undecided"


def _have_real_logarithms(*trees: Node) -> bool:
    """Return whether each tree has a logarithm of symbols, and so is meant for the values where that is real.

    An absolute value or an imaginary unit means the opposite.
    """
    parts = [list(nodes(tree)) for tree in trees]
    if any(part == ("const", "i") or part[:2] == ("call", "abs") for tree in parts for part in tree):
        return False
    return all(
        any(part[0] == "call" and part[1] in LOGARITHMS and is_piecewise(part) for part in tree) for tree in parts
    )


def _agree(values: list[Any], digit_range: int) -> bool:
    return bool(abs(values[0] - values[1]) <= CONTEXTS.context.mpf(10) ** -(EQUAL_DIGITS + digit_range))


def _real_fraction(node: Node, assignment: Assignment, convention: Convention) -> Fraction | None:
    """Return the real value of a tree, exactly or rounded to 60 digits; None if it has none or is too large."""
    try:
        value = exact(node, assignment)
        if value is None:
            rounded, _ = approximate(node, assignment, 60, convention)
            if CONTEXTS.context.im(rounded) == 0:
                mantissa, exponent = CONTEXTS.context.re(rounded).man_exp
                value = Fraction(mantissa) * Fraction(2) ** exponent
    except (TooLarge, Undefined):
        return None
    return value


def real_value(text: str) -> Any | None:
    """Return the real value of a text without symbols as an mpmath number of FIRST_DIGITS digits, infinity included.

    None for any other text.
    """
    sign = text.replace(" ", "").removesuffix(r"\infty")
    if sign in ("", "+", "-") and r"\infty" in text:
        return CONTEXTS.context.inf * (-1 if sign == "-" else 1)
    node = parse_or_none(text)
    if node is None or symbols(node):
        return None
    try:
        value, _ = approximate(node, {}, FIRST_DIGITS, Convention())
    except (TooLarge, Undefined):
        return None
    return CONTEXTS.context.re(value) if CONTEXTS.context.im(value) == 0 else None


def rounds_to(text: str, decimal: str) -> bool:
    """Return whether `decimal` is the value of `text` rounded or truncated to the decimal places of `decimal`.

    False if `text` has symbols. Example: `"\\sqrt{2}"` and `"1.41"` -> True.
    """
    value, digits, decimal_places = real_value(text), parse_number(decimal), DECIMAL_PLACES.fullmatch(decimal)
    if value is None or digits is None or decimal_places is None:
        return False
    context = CONTEXTS.context
    error = (value - context.mpf(digits.numerator) / digits.denominator) * 10 ** len(decimal_places[1])
    truncated = 0 <= error < 1 if digits > 0 else -1 < error <= 0
    return bool(truncated or abs(error) <= 0.5)


def parse_or_none(text: str) -> Node | None:
    """Parse a number or an expression; None if the text is neither. `1e-3` is a number, not the difference 1*e - 3."""
    text = text.replace("$", "")
    value = parse_number(text)
    try:
        return parse(unwrap_text(text)) if value is None else ("num", value)
    except ParseError:
        return None


def _exact_or_none(node: Node) -> Fraction | None:
    try:
        return exact(node)
    except Undefined:
        return None


def _conventions(*trees: Node) -> list[Convention]:
    """Return the conventions that can change the value of any of these trees."""
    parts = [part for tree in trees for part in nodes(tree)]
    logs = [False, True] if any(part[:2] == ("call", "log") for part in parts) else [False]
    has_powers = any(part[0] in ("root", "pow") for part in parts)
    return [Convention(*choice) for choice in itertools.product(logs, [True, False] if has_powers else [True])]


def evaluate_both(trees: tuple[Node, Node], assignment: Assignment, convention: Convention) -> tuple[list[Any], int]:
    """Evaluate two trees at one point, precisely enough for the range of their intermediate values.

    Returns: the values of those that are defined there (none, one or two), and the range in decimal digits.
    Raises: TooLarge above RANGE_LIMIT.
    """
    found = _evaluate(trees, assignment, FIRST_DIGITS, convention)
    digit_range = max((digit_range for _, digit_range in found), default=0)
    if digit_range > RANGE_LIMIT:
        raise TooLarge
    if digit_range > FIRST_DIGITS // 10:
        found = _evaluate(trees, assignment, FIRST_DIGITS + 2 * digit_range, convention)
    return [value for value, _ in found], digit_range


def _evaluate(
    trees: tuple[Node, Node], assignment: Assignment, digits: int, convention: Convention
) -> list[tuple[Any, int]]:
    found = []
    for tree in trees:
        with contextlib.suppress(Undefined):
            found.append(approximate(tree, assignment, digits, convention))
    return found
