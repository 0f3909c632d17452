"""Choose the values of the symbols at which two expressions are compared.

All values are drawn from a generator that is seeded by both texts, so no answer can be zero at all of them by design.
Expressions with steps, absolute values, even roots or logarithms are compared on lines as well: at integers, beside
their constants, on both sides of each breakpoint that is found on the line, and at large values.
"""

import contextlib
import hashlib
import itertools
import math
import random
from collections.abc import Callable, Iterator
from fractions import Fraction

from rewards.mathematics.expressions.evaluation import TooLarge, Undefined, exact
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.trees import STEPS, nodes

LINE_SYMBOLS = 4
"""Largest number of symbols along which lines are sampled."""
CONSTANTS_LIMIT = 8
"""Largest number of constants of the two expressions near which a line is sampled."""
CONSTANT_BITS = 1_000
"""Largest number of bits of such a constant."""
BREAKPOINTS_LIMIT = 6
"""Largest number of breakpoints of one piecewise node on a line."""
ITERATIONS = 40
"""Largest number of steps to a breakpoint."""
ROOT_BITS = 140
"""Binary digits of the place of a breakpoint that is no simple fraction."""
OFFSETS = (Fraction(1, 50), Fraction(1, 10**5), Fraction(1, 10**12), Fraction(1, 10**25))
"""Distances from a breakpoint at which both sides are sampled."""
LARGE = (20, 101, 1009, 10**4 + 7, 10**6 + 3, 10**9 + 7, 10**14 + 31, 10**25 + 13)
ROW = [Fraction(value) for value in range(-7, 8)] + [Fraction(value, 2) for value in (-7, -3, -1, 1, 3, 7)]

Assignment = dict[str, Fraction]
Evaluate = Callable[[Node, Assignment], Fraction | None]
"""Returns the real value of a node, rounded to a fraction; None if it has none."""


def generator(*texts: str) -> random.Random:
    """Return a random generator that is seeded by texts."""
    digest = hashlib.blake2b("\0".join(texts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return random.Random(int.from_bytes(digest))


def assignments(names: list[str], draw: random.Random) -> list[Assignment]:
    """Return values of the symbols at five points: all positive, all negative, below 1, and of both signs."""
    if not names:
        return [{}]
    signs: list[Callable[[], int]] = [
        lambda: 1,
        lambda: draw.choice((-1, 1)),
        lambda: -1,
        lambda: draw.choice((-1, 1)),
        lambda: 1,
    ]
    spans = [(1, 3), (1, 2), (1, 3), (0, 1), (3, 7)]
    return [{name: sign() * _fraction(draw, *span) for name in names} for sign, span in zip(signs, spans, strict=True)]


def _fraction(draw: random.Random, low: int, high: int) -> Fraction:
    denominator = draw.randrange(401, 2003, 2)
    return Fraction(draw.randrange(low * denominator + 37, high * denominator), denominator)


def line_assignments(
    trees: tuple[Node, Node], pieces: list[Node], names: list[str], draw: random.Random, evaluate: Evaluate
) -> Iterator[Assignment]:
    """Yield values of the symbols along a line for each symbol, and at integers of all symbols.

    Args:
        pieces: the piecewise nodes of the trees.
    """
    for limit in (4, 12, 12, 30):
        yield {name: Fraction(draw.randint(1, limit)) for name in names}
        yield {name: Fraction(draw.randint(-limit, limit)) for name in names}
    constants = _constants(trees)
    near = [place for constant in constants for place in (constant, constant - 1, constant + Fraction(1, 3))]
    large = [Fraction(value) for value in LARGE] + [4 * abs(constant) + 1 for constant in constants]
    grid = sorted({*ROW, *near, *large, *(-value for value in (*near, *large))})
    bases = assignments(names, draw)[:3:2] if len(names) > 1 else [{}]
    for base, name in itertools.product(bases, names[:LINE_SYMBOLS]):
        for value in grid:
            yield base | {name: value}
        for piece in pieces:
            for place in _breakpoints(piece, name, base, grid, evaluate):
                for offset in OFFSETS:
                    yield base | {name: place - offset}
                    yield base | {name: place + offset}
                yield base | {name: place}


def _constants(trees: tuple[Node, Node]) -> list[Fraction]:
    """Return the largest constants of the trees, such as 10^9 in `x - 10^9`: breakpoints are likely near them."""
    found = set()
    for node in itertools.chain(*map(nodes, trees)):
        with contextlib.suppress(TooLarge, Undefined):
            value = exact(node)
            if value and value.denominator.bit_length() + value.numerator.bit_length() <= CONSTANT_BITS:
                found.add(abs(value))
    return sorted(found, reverse=True)[:CONSTANTS_LIMIT]


def _breakpoints(piece: Node, name: str, base: Assignment, grid: list[Fraction], evaluate: Evaluate) -> list[Fraction]:
    """Return values of a symbol at which a piecewise node changes its formula: where its argument passes zero, where a
    step function passes an integer, or where the arguments of max and min cross.
    """
    places: list[Fraction] = []
    for argument, is_step in _arguments(piece):

        def value_at(place: Fraction, argument: Node = argument) -> Fraction | None:
            return evaluate(argument, base | {name: place})

        values = [value_at(place) for place in grid]
        steps = zip(itertools.pairwise(grid), itertools.pairwise(values), strict=True)
        for (left, right), (low, high) in sorted(
            steps, key=lambda step: abs(step[0][0] + step[0][1])
        ):  # the nearest to 0 first
            if low is None or high is None or low == high or len(places) >= BREAKPOINTS_LIMIT:
                continue
            level = Fraction(math.floor(max(low, high))) if is_step else Fraction(0)
            if min(low, high) < level <= max(low, high):
                places.append(_crossing(value_at, level, (left, low - level), (right, high - level)))
    return places


def _arguments(piece: Node) -> list[tuple[Node, bool]]:
    """Return the expressions whose zeros, or passages of an integer, are the breakpoints of a node."""
    if piece[0] != "call":
        return [(piece[1], False)]
    if piece[1] in ("max", "min"):
        return [(("add", [piece[2][0], ("neg", other)]), False) for other in piece[2][1:]]
    return [(argument, piece[1] in STEPS) for argument in piece[2]]


def _crossing(
    value_at: Callable[[Fraction], Fraction | None],
    level: Fraction,
    left: tuple[Fraction, Fraction],
    right: tuple[Fraction, Fraction],
) -> Fraction:
    """Return the place between two places where a function passes a level, by the Illinois method.

    The place is exact if it is a simple fraction.

    Args:
        left, right: a place on each side, and by how much the function there exceeds the level.
    """
    (low, below), (high, above) = left, right
    place = high
    for _ in range(ITERATIONS):
        if below == above:
            break
        place = Fraction(round((high - above * (high - low) / (above - below)) * 2**ROOT_BITS), 2**ROOT_BITS)
        simple = place.limit_denominator(2000)
        if abs(simple - place) < Fraction(1, 2**40) and value_at(simple) == level:
            return simple
        value = value_at(place)
        if value is None or abs(value - level) < Fraction(1, 2**ROOT_BITS):
            break
        excess = value - level
        if (excess < 0) == (above < 0):
            below /= 2
        else:
            low, below = high, above
        high, above = place, excess
    return place
