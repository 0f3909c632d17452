"""Compare products of matrices that are letters, in which the order counts: `A^{-1}B` is not `BA^{-1}`."""

import re
from fractions import Fraction
from random import Random

from rewards.mathematics.expressions.evaluation import BIT_LIMIT, TooLarge
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.sampling import generator
from rewards.mathematics.expressions.trees import nodes, symbols

Matrix = tuple[Fraction, Fraction, Fraction, Fraction]
"""The entries a, b, c, d of the matrix (a b; c d)."""
MATRIX_NAME = re.compile("[A-Z]")
DIMENSIONS = {"M", "L", "T"}
"""Mass, length and time: `MLT^{-1}` is a product of scalars."""
TRANSPOSE = ("sym", "T")
IDENTITY: Matrix = (Fraction(1), Fraction(0), Fraction(0), Fraction(1))
POWER_LIMIT = 20


def is_matrix_product(tree: Node) -> bool:
    """Return whether a tree has only capital letters, two or more, and an inverse or a transpose of one of them."""
    marks = [node for node in nodes(tree) if node[0] == "pow" and symbols(node[1])]
    names = _matrices(tree)
    return (
        len(names) > 1
        and not names <= DIMENSIONS
        and all(MATRIX_NAME.fullmatch(name) for name in names)
        and any(mark[2] == TRANSPOSE or _whole(mark[2]) == -1 for mark in marks)
    )


def same_matrix_product(gold: Node, answer: Node) -> bool:
    """Return whether two trees have equal values if each capital letter is the same drawn matrix in both; I is 1.

    Raises: TooLarge.
    """
    names = _matrices(gold) | {"I"}
    if names != _matrices(answer) | {"I"}:
        return False
    draw = generator(repr(gold), repr(answer), "matrices")
    values = {name: IDENTITY if name == "I" else _drawn(draw) for name in sorted(names)}
    expected = _value(gold, values)
    return expected is not None and expected == _value(answer, values)


def _matrices(tree: Node) -> set[str]:
    """Return the symbols of a tree without the T of its transposes."""
    if tree[0] == "pow" and tree[2] == TRANSPOSE:
        return _matrices(tree[1])
    if tree[0] in ("mul", "add"):
        return set().union(*map(_matrices, tree[1]))
    return _matrices(tree[1]) if tree[0] in ("pow", "neg") else symbols(tree)


def _drawn(draw: Random) -> Matrix:
    a, b, c, d = (Fraction(draw.randint(-(10**6), 10**6)) for _ in range(4))
    return a, b, c, d


def _whole(exponent: Node) -> int | None:
    """Return the value of an exponent that is a small integer, else None."""
    negative = exponent[0] == "neg"
    number = exponent[1] if negative else exponent
    if number[0] != "num" or number[1].denominator != 1 or number[1] > POWER_LIMIT:
        return None
    return -int(number[1]) if negative else int(number[1])


def _value(tree: Node, values: dict[str, Matrix]) -> Matrix | None:
    """Return the value of a tree of sums, products and powers; None for any other tree or without an inverse."""
    if tree[0] == "num":
        return tree[1], Fraction(0), Fraction(0), tree[1]
    if tree[0] == "sym":
        return values.get(tree[1])
    if tree[0] == "neg":
        return _value(("mul", [("num", Fraction(-1)), tree[1]]), values)
    if tree[0] == "pow":
        base = _value(tree[1], values)
        return None if base is None else _power(base, tree[2])
    if tree[0] not in ("add", "mul"):
        return None
    parts = [_value(part, values) for part in tree[1]]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    total = known[0]
    for part in known[1:]:
        total = _product(total, part) if tree[0] == "mul" else _sum(total, part)
    return total


def _power(base: Matrix, exponent: Node) -> Matrix | None:
    a, b, c, d = base
    if exponent == TRANSPOSE:
        return a, c, b, d
    power, determinant = _whole(exponent), a * d - b * c
    if power is None or (power < 0 and not determinant):
        return None
    if power < 0:
        base = d / determinant, -b / determinant, -c / determinant, a / determinant
    result = IDENTITY
    for _ in range(abs(power)):
        result = _product(result, base)
    return result


def _sum(left: Matrix, right: Matrix) -> Matrix:
    a, b, c, d = (one + other for one, other in zip(left, right, strict=True))
    return a, b, c, d


def _product(left: Matrix, right: Matrix) -> Matrix:
    (a, b, c, d), (e, f, g, h) = left, right
    if any(entry.numerator.bit_length() + entry.denominator.bit_length() > BIT_LIMIT for entry in (*left, *right)):
        raise TooLarge
    return a * e + b * g, a * f + b * h, c * e + d * g, c * f + d * h
