"""Prove or refute that two trees with absolute values, steps, even roots, maxima or logarithms are equal.

The values of the symbols are split into cells (`cells.py`). The trees are equal if their difference is 0 in each cell.
In a cell where sympy does not find that, numbers must show the difference; else equality is undecided.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import lcm
from typing import Any

from rewards.mathematics.expressions.agreement import Comparison, differ
from rewards.mathematics.expressions.evaluation import Convention, exact
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.sampling import Assignment, generator
from rewards.mathematics.expressions.trees import nodes
from rewards.mathematics.symbolic.cells import Cell, NeedsSign, OutsideDomain, Signs
from rewards.mathematics.symbolic.limits import Undecided, limited
from rewards.mathematics.symbolic.sizes import check_size
from rewards.mathematics.symbolic.steps import decide_steps
from rewards.mathematics.symbolic.symbols import Names, library

CELLS_LIMIT = 40
"""Largest number of cells."""
ROOT_DEGREE_LIMIT = 12
"""Largest least common multiple of the degrees of the roots of two trees."""
TRIES = 60
"""Points among which a point of a cell is looked for."""


def decide(gold: Node, answer: Node, convention: Convention) -> Comparison:
    """Return whether two trees are equal: proved by sympy, refuted by numbers, or undecided."""
    try:
        check_size(gold, answer)
        result: Comparison = limited(lambda: _decide(gold, answer, convention))
        return result
    except Undecided:
        return "undecided"


def _decide(gold: Node, answer: Node, convention: Convention) -> Comparison:
    steps = decide_steps(gold, answer, lambda point: differ(gold, answer, point, convention))
    if steps is not None:
        return steps
    names: Names = {}
    roots: Names = {}
    degree, draw = _degree(gold, answer), generator(repr(gold), repr(answer), "cells")

    def difference(signs: Signs) -> tuple[Cell, Any]:
        cell = Cell(signs, names, roots, degree, convention)
        expected = cell.value(gold)
        try:
            return cell, expected - cell.value(answer)
        except OutsideDomain:
            if convention.domain == "gold":
                return cell, library().nan
            raise

    shown, open_cells = 0, 0
    for cell, value in _cells({}, difference):
        if cell.is_zero(value):
            shown += 1
        else:
            open_cells += 1
            if any(
                differ(gold, answer, point, convention)
                for point in itertools.islice(_points(cell.signs, names, draw), 3)
            ):
                return "different"
        if shown + open_cells > CELLS_LIMIT:
            return "undecided"
    return "equal" if shown and not open_cells else "undecided"


def _cells(signs: Signs, difference: Callable[[Signs], tuple[Cell, Any]]) -> Iterator[tuple[Cell, Any]]:
    """Yield each cell in the domain below some signs, with the difference of the trees in it."""
    try:
        found = difference(signs)
    except OutsideDomain:
        return
    except NeedsSign as need:
        for sign in (1, -1):
            further = signs | {need.factor: sign}
            samples = _samples(further)
            if samples is None or any(_has_signs(further, sample) for sample in samples):
                yield from _cells(further, difference)
        return
    yield found


def _samples(signs: Signs) -> list[dict[Any, Any]] | None:
    """Return a point between each two neighbouring roots of the factors, if these are polynomials of one symbol."""
    sympy = library()
    symbols = set().union(*(factor.free_symbols for factor in signs))
    if len(symbols) != 1 or not all(factor.is_polynomial(*symbols) for factor in signs):
        return None
    (symbol,) = symbols
    product = sympy.Poly(sympy.Mul(*signs), symbol)
    intervals = [interval for interval, _ in product.intervals(eps=sympy.Rational(1, 10**6))]
    if not intervals:
        return [{symbol: sympy.Integer(0)}]
    between = [(left[1] + right[0]) / 2 for left, right in itertools.pairwise(intervals)]
    return [{symbol: place} for place in (intervals[0][0] - 1, *between, intervals[-1][1] + 1)]


def _has_signs(signs: Signs, sample: dict[Any, Any]) -> bool:
    return all((factor.subs(sample) * sign).is_positive for factor, sign in signs.items())


def _points(signs: Signs, names: Names, draw: random.Random) -> Iterator[Assignment]:
    """Yield points of a cell: exactly, for polynomials of one symbol, else those of some drawn ones that are in it."""
    samples = _samples(signs) if signs and len(names) == 1 else None
    scales = (1, 1, 3, 10, 100)
    drawn = (
        {symbol: library().Rational(draw.randint(-997, 997) * draw.choice(scales), 311) for symbol in names.values()}
        for _ in range(TRIES)
    )
    for sample in itertools.chain(samples or [], drawn):
        if _has_signs(signs, sample):
            yield {name: Fraction(sample[symbol].p, sample[symbol].q) for name, symbol in names.items()}


def _degree(*trees: Node) -> int:
    """Return the least common multiple of the degrees of all roots."""
    degree = 1
    for node in (node for tree in trees for node in nodes(tree)):
        exponent = exact(node[2]) if node[0] in ("root", "pow") else None
        if exponent is not None:
            degree = lcm(degree, exponent.denominator if node[0] == "pow" else int(abs(exponent)) or 1)
        if degree > ROOT_DEGREE_LIMIT:
            raise Undecided
    return degree
