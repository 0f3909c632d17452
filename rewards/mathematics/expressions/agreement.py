"""Evaluate two expressions at points and say whether they agree there.

Each point is evaluated precisely enough for the range of the intermediate values. The work on lines is limited.
"""

import contextlib
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Literal

from rewards.mathematics.expressions.evaluation import CONTEXTS, Convention, TooLarge, Undefined, approximate, exact
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.sampling import Assignment
from rewards.mathematics.expressions.trees import nodes

Comparison = Literal["equal", "different", "undecided"]
FIRST_DIGITS = 80
"""Decimal digits of the first evaluation. If the range is above a tenth of this, a second evaluation adds two digits
for each digit of range: its values have errors of at most about `10^-(FIRST_DIGITS + range)`."""
RANGE_LIMIT = 1_000
"""Largest range, in decimal digits, for which two values are compared. Above it TooLarge is raised."""
EQUAL_DIGITS = 60
"""Two values are equal if they differ by at most `10^-(EQUAL_DIGITS + range)`."""
LINE_POINTS = 10
"""Smallest number of points on lines at which two equal expressions are defined."""
WORK_LIMIT = 100_000
"""Largest work on lines to compare two expressions, in sums of two numbers. Above it they are undecided."""
WORK_OF_CALLS = {"factorial": 50, "binomial": 50, "abs": 1, "max": 1, "min": 1, "floor": 2, "ceiling": 2}
"""Work of one call of some functions; of any other function it is 5, and of a power or root 3."""


class OutOfWork(Exception):
    """A comparison on lines has done more work than WORK_LIMIT."""


class Work:
    """Counts the work of evaluating trees."""

    def __init__(self) -> None:
        self.done = 0

    def add(self, *trees: Node, digits: int = FIRST_DIGITS) -> None:
        """Count the evaluation of some trees to a number of digits. Raises: OutOfWork above WORK_LIMIT."""
        self.done += sum(_work_of(node) for tree in trees for node in nodes(tree)) * digits // FIRST_DIGITS
        if self.done > WORK_LIMIT:
            raise OutOfWork


def _work_of(node: Node) -> int:
    if node[0] == "call":
        return WORK_OF_CALLS.get(node[1], 5)
    return 3 if node[0] in ("pow", "root") else 1


def compare_at(points: Iterable[Assignment], gold: Node, answer: Node, convention: Convention) -> Comparison:
    """Compare two trees at points. They must be defined at three, and one defined value alone is a difference.

    Points outside the domain of the convention do not count.
    """
    defined, points = 0, list(points)
    for assignment in points:
        values, digit_range = evaluate_both((gold, answer), assignment, convention)
        if len(values) == 1 and not _is_inside(gold, assignment, convention):
            continue
        if len(values) == 1 or (values and not _agree(values, digit_range)):
            return "different"
        defined += bool(values)
    return "equal" if defined >= min(3, len(points)) else "undecided"


def compare_on_lines(
    lines: Iterable[Assignment], gold: Node, answer: Node, convention: Convention, work: Work
) -> Comparison:
    """Compare two trees at the points of lines, exactly where they have exact values.

    Points at which one of them has no value, or at which the computation is too large, do not count.
    Raises: OutOfWork.
    """
    defined = 0
    for assignment in lines:
        work.add(gold, answer)
        try:
            exactly = _exact_values(gold, answer, assignment)
            if exactly is not None:
                if exactly[0] != exactly[1]:
                    return "different"
                defined += 1
                continue
            values, digit_range = evaluate_both((gold, answer), assignment, convention)
        except TooLarge:
            continue
        if digit_range > FIRST_DIGITS // 10:
            work.add(gold, answer, digits=FIRST_DIGITS + 2 * digit_range)
        if len(values) < 2:
            continue
        if not _agree(values, digit_range):
            return "different"
        defined += 1
    return "equal" if defined >= LINE_POINTS else "undecided"


def differ(gold: Node, answer: Node, assignment: Assignment, convention: Convention) -> bool:
    """Return whether two trees have different values at a point; or only the gold one, and the domain is its own."""
    with contextlib.suppress(TooLarge):
        exactly = _exact_values(gold, answer, assignment)
        if exactly is not None:
            return exactly[0] != exactly[1]
        values, digit_range = evaluate_both((gold, answer), assignment, convention)
        if len(values) == 1:
            return convention.domain == "gold" and _is_inside(gold, assignment, convention)
        return bool(values) and not _agree(values, digit_range)
    return False


def _exact_values(gold: Node, answer: Node, assignment: Assignment) -> tuple[Fraction, Fraction] | None:
    """Return the rational values of two trees at a point; None if one of them has none. Raises: TooLarge."""
    with contextlib.suppress(Undefined):
        values = exact(gold, assignment), exact(answer, assignment)
        if values[0] is not None and values[1] is not None:
            return values[0], values[1]
    return None


def _is_inside(gold: Node, assignment: Assignment, convention: Convention) -> bool:
    """Return whether a point at which only one of two trees has a value is inside the domain of the convention."""
    if convention.domain == "gold":
        return bool(_evaluate((gold,), assignment, FIRST_DIGITS, convention))
    return convention.domain == "complex"


def _agree(values: list[Any], digit_range: int) -> bool:
    return bool(abs(values[0] - values[1]) <= CONTEXTS.context.mpf(10) ** -(EQUAL_DIGITS + digit_range))


def real_fraction(node: Node, assignment: Assignment, convention: Convention) -> Fraction | None:
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
    trees: tuple[Node, ...], assignment: Assignment, digits: int, convention: Convention
) -> list[tuple[Any, int]]:
    found = []
    for tree in trees:
        with contextlib.suppress(Undefined):
            found.append(approximate(tree, assignment, digits, convention))
    return found
