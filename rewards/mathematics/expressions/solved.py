"""Decide whether an equation or inequality is solved as its gold is: `3x + 5 = 26` is not the answer `x = 7`."""

from rewards.mathematics.expressions.identity import parse_or_none
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.trees import is_monomial, symbols
from rewards.mathematics.names import is_name
from rewards.mathematics.text import canonical

COORDINATES = {"x", "y"}


def is_solved_like(gold: list[str], answer: list[str], ordered: bool) -> bool:
    """Return whether the answer is solved if the gold is, each given by its left and right side.

    A gold is solved if one side is a name that the other side does not have. Then the answer must be solved for that
    name, except that
    - a curve, an equation in x and y only, has no preferred form: `2x - y + 1 = 0` is `y = 2x + 1`;
    - a law, a name that is a product of symbols, may be solved for any of them: `a = F/m` is `F = ma`;
    - an inequality with a number may also be a multiple of the name or have a zero side: `2x - 1 < 0` is `x < 1/2`.

    Args:
        ordered: the relations have a direction, as `<` has.
    """
    expressions = _solved_for(gold)
    if not expressions:
        return True
    answered = _solved_for(answer)
    if expressions.keys() & answered.keys():
        return True
    expression = next(iter(expressions.values()))
    others = symbols(expression)
    if not others:
        return ordered and _isolates(answer)
    if expressions.keys() | others == COORDINATES:
        return True
    return not ordered and bool(answered) and len(others) > 1 and is_monomial(expression)


def _solved_for(sides: list[str]) -> dict[str, Node]:
    """Return each name for which a relation is solved, with the expression on the other side."""
    solved = {}
    for side, other in (sides, sides[::-1]):
        head, expression = parse_or_none(side.partition("(")[0]), parse_or_none(other)
        if head is None or expression is None or head[0] == "div" or not is_name(side):
            continue
        if symbols(head) and not symbols(head) & symbols(expression):
            solved[canonical(side)] = expression
    return solved


def _isolates(sides: list[str]) -> bool:
    """Return whether one side is zero, or one is a number and the other a multiple of a symbol."""
    trees = [tree for tree in map(parse_or_none, sides) if tree is not None]
    return any(tree == ("num", 0) for tree in trees) or all(is_monomial(tree) for tree in trees)
