"""Prove or refute that two trees of one symbol with floors or ceilings are equal.

The symbol is x = L m + t with an integer m and 0 <= t < L, where L is a common multiple of all denominators. Then the
floor of a linear argument is an integer multiple of m plus a function of t that is constant between breakpoints. So the
trees are polynomials of m and t in each of finitely many cells of t, and at each breakpoint.
"""

import itertools
from collections.abc import Callable, Iterator
from fractions import Fraction
from math import ceil, floor, lcm
from typing import Any

from rewards.mathematics.expressions.agreement import Comparison
from rewards.mathematics.expressions.evaluation import exact
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.sampling import Assignment
from rewards.mathematics.expressions.trees import STEPS, nodes, symbols
from rewards.mathematics.symbolic.limits import Undecided
from rewards.mathematics.symbolic.symbols import library, rational

PERIOD_LIMIT = 1_000
"""Largest period L."""
CELLS_LIMIT = 100
"""Largest number of cells of t."""
ROUNDS = (0, 1, -2, 5)
"""Values of m at which numbers are compared."""
Cell = tuple[Fraction, Fraction]
"""An open interval of t, or one point as an interval of length 0."""


class NeedsSplit(Exception):
    """An argument passes integers at these places inside a cell."""

    def __init__(self, places: list[Fraction]) -> None:
        super().__init__()
        self.places = places


def decide_steps(gold: Node, answer: Node, differ: Callable[[Assignment], bool]) -> Comparison | None:
    """Return whether two trees are equal; None if they are not polynomials of one symbol and of steps.

    Raises: Undecided.
    """
    parts = [part for tree in (gold, answer) for part in nodes(tree)]
    names = symbols(gold) | symbols(answer)
    steps = [part for part in parts if part[0] == "call"]
    if len(names) != 1 or not steps or not all(part[1] in STEPS for part in steps):
        return None
    if any(part[0] in ("root", "const", "degrees", "opaque") for part in parts):
        return None
    (name,) = names
    sympy = library()
    m, t = sympy.symbols("m t")
    denominators = [value.denominator for part in parts if (value := _number(part)) is not None]
    denominators += [abs(value.numerator) for part in parts if part[0] == "div" and (value := _number(part[2]))]
    period = lcm(*denominators)
    if period > PERIOD_LIMIT:
        raise Undecided

    def difference(cell: Cell) -> Any:
        value = _Value(name, period * m + t, cell, m, t)
        result = value.of(gold) - value.of(answer)
        return result if cell[0] < cell[1] else result.subs(t, rational(cell[0]))

    undecided = False
    whole = Fraction(0), Fraction(period)
    for cell, value in [*_cells(whole, difference), *_cells((whole[0], whole[0]), difference)]:
        if sympy.expand(sympy.fraction(sympy.together(value))[0]) == 0:
            continue
        middle = (cell[0] + cell[1]) / 2
        if any(differ({name: period * count + middle}) for count in ROUNDS):
            return "different"
        undecided = True
    return "undecided" if undecided else "equal"


def _number(node: Node) -> Fraction | None:
    return exact(node) if node[0] in ("num", "neg", "div", "mul", "pow", "add") else None


def _cells(
    cell: Cell, difference: Callable[[Cell], Any], budget: list[int] | None = None
) -> Iterator[tuple[Cell, Any]]:
    """Yield the cells into which one is split by the breakpoints of the steps, with the difference in each.

    Args:
        budget: the number of cells that may still be made.
    Raises: Undecided when it is spent.
    """
    budget = [CELLS_LIMIT] if budget is None else budget
    budget[0] -= 1
    if budget[0] < 0:
        raise Undecided
    try:
        found = difference(cell)
    except NeedsSplit as split:
        ends = [cell[0], *split.places, cell[1]]
        for low, high in itertools.pairwise(ends):
            yield from _cells((low, high), difference, budget)
        for place in split.places:
            yield from _cells((place, place), difference, budget)
        return
    yield cell, found


class _Value:
    """Computes trees in one cell as polynomials of m and t."""

    def __init__(self, name: str, symbol: Any, cell: Cell, m: Any, t: Any) -> None:
        self.name, self.symbol, self.cell, self.m, self.t = name, symbol, cell, m, t
        self.sympy = library()

    def of(self, node: Node) -> Any:
        """Return the value of a tree. Raises: NeedsSplit, Undecided."""
        kind = node[0]
        if kind == "num":
            return rational(node[1])
        if kind == "sym":
            return self.symbol
        if kind == "neg":
            return -self.of(node[1])
        if kind in ("add", "mul"):
            return (self.sympy.Add if kind == "add" else self.sympy.Mul)(*map(self.of, node[1]))
        if kind == "div":
            return self.of(node[1]) / self.of(node[2])
        if kind == "pow":
            exponent = exact(node[2])
            if exponent is None or exponent.denominator != 1:
                raise Undecided
            return self.of(node[1]) ** int(exponent)
        argument = self.of(node[2][0])
        return self.floor(argument) if node[1] == "floor" else -self.floor(-argument)

    def floor(self, argument: Any) -> Any:
        polynomial = self.sympy.Poly(self.sympy.expand(argument), self.m, self.t)
        if polynomial.total_degree() > 1:
            raise Undecided
        rounds, slope, start = (
            Fraction(value.p, value.q)
            for value in map(polynomial.coeff_monomial, (self.m, self.t, self.sympy.Integer(1)))
        )
        if rounds.denominator != 1:
            raise Undecided
        low, high = sorted(slope * place + start for place in self.cell)
        inside = range(floor(low) + 1, ceil(high))
        if len(inside) > CELLS_LIMIT:
            raise Undecided
        if inside and slope:
            raise NeedsSplit(sorted((level - start) / slope for level in inside))
        return int(rounds) * self.m + floor((low + high) / 2)
