"""Walk, order and abstract expression trees without evaluating them."""

from collections.abc import Iterator

from rewards.mathematics.expressions.evaluation import exact
from rewards.mathematics.expressions.operators import rebuilt
from rewards.mathematics.expressions.parser import Node

LOGARITHMS = {"log", "ln", "lg"}
STEPS = {"floor", "ceiling"}
SYMMETRIC = {"max", "min", "gcd", "lcm"}
"""Calls whose arguments have no order."""
PIECEWISE = {"abs", "max", "min", *STEPS, *LOGARITHMS}
"""Calls whose formula changes, or whose domain ends, where an argument passes some value."""


def children(node: Node) -> Iterator[Node]:
    """Yield the nodes directly below a node."""
    for part in node[1:]:
        for inner in part if isinstance(part, list) else [part]:
            if isinstance(inner, tuple):
                yield inner


def nodes(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes below it."""
    yield node
    for child in children(node):
        yield from nodes(child)


def symbols(node: Node) -> set[str]:
    """Return the names of the symbols and unknown functions of a tree."""
    return {part[1] for part in nodes(node) if part[0] in ("sym", "opaque")}


def size(node: Node) -> int:
    """Return the number of nodes of a tree."""
    return sum(1 for _ in nodes(node))


def is_monomial(node: Node) -> bool:
    """Return whether a tree is a product of numbers and of positive powers of symbols: `ma`, `-2x`, `x/3`, `mc^2`."""
    if node[0] == "mul":
        return all(map(is_monomial, node[1]))
    if node[0] == "div":
        return is_monomial(node[1]) and not symbols(node[2])
    if node[0] == "pow" and symbols(node):
        return node[2][0] == "num" and is_monomial(node[1])
    return node[0] == "sym" or not symbols(node) or (node[0] == "neg" and is_monomial(node[1]))


def ordered(node: Node) -> Node:
    """Return the tree with sums and products flattened and their parts sorted: equal trees are equal expressions."""
    if node[0] in ("add", "mul"):
        parts: list[Node] = []
        for part in map(ordered, node[1]):
            parts += part[1] if part[0] == node[0] else [part]
        return (node[0], sorted(parts, key=repr))
    if node[0] == "call" and node[1] in SYMMETRIC:
        return (*node[:2], sorted(map(ordered, node[2]), key=repr))
    return rebuilt(node, ordered)


def is_piecewise(node: Node) -> bool:
    """Return whether a node is a step, an absolute value, an even root or a logarithm of an expression with symbols."""
    if node[0] == "call":
        return node[1] in PIECEWISE and bool(symbols(node))
    if node[0] not in ("root", "pow") or not symbols(node[1]):
        return False
    power = exact(node[2])
    if power is None:
        return not symbols(node[2])
    return power % 2 == 0 if node[0] == "root" else power.denominator % 2 == 0


def piecewise_nodes(*trees: Node) -> list[Node]:
    """Return the different piecewise nodes of some trees."""
    return list({repr(ordered(node)): node for tree in trees for node in nodes(tree) if is_piecewise(node)}.values())


def abstracted(node: Node, names: dict[str, str]) -> Node:
    """Return the tree with a symbol for each piecewise node, the same one for equal nodes.

    Two trees that are equal with these symbols are equal whatever the nodes are.

    Args:
        names: the symbol of each node by its ordered form; new nodes are added.
    """
    if is_piecewise(node):
        return ("sym", names.setdefault(repr(ordered(node)), f"piece {len(names)}"))
    return rebuilt(node, lambda part: abstracted(part, names))
