"""Choose the conventions under which two expressions are compared."""

import itertools

from rewards.mathematics.expressions.evaluation import Convention, Domain
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.trees import LOGARITHMS, is_piecewise, nodes


def conventions(gold: Node, answer: Node) -> list[Convention]:
    """Return the conventions that can change the value of one of these trees."""
    parts = [part for tree in (gold, answer) for part in nodes(tree)]
    logs = [False, True] if any(part[:2] == ("call", "log") for part in parts) else [False]
    has_powers = any(part[0] in ("root", "pow") for part in parts)
    choices = itertools.product(logs, [True, False] if has_powers else [True], [_domain(gold, answer)])
    return [Convention(*choice) for choice in choices]


def _domain(gold: Node, answer: Node) -> Domain:
    """Return where two trees are compared.

    If both have logarithms of symbols it is where both are real: `\\ln(x/y)` is `\\ln x - \\ln y`. If both have even
    roots of symbols it is where the gold is real. An absolute value or an imaginary unit means complex values.
    """
    parts = [[part for part in nodes(tree) if is_piecewise(part) or part == ("const", "i")] for tree in (gold, answer)]
    if any(part == ("const", "i") or part[:2] == ("call", "abs") for tree in parts for part in tree):
        return "complex"
    if all(any(part[0] == "call" and part[1] in LOGARITHMS for part in tree) for tree in parts):
        return "common"
    return "gold" if all(any(part[0] in ("root", "pow") for part in tree) for tree in parts) else "complex"
