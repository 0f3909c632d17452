"""Compare trees with sums, products, integrals, derivatives or limits.

Finite sums and products with numbers as ends are written out. Those with symbols in their ends are first compared at
drawn integers. sympy computes the closed form of everything else. What has none is equal only to the same operator with
an equal operand. Indefinite integrals, and expressions with a constant of integration, are compared by their
derivatives.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from typing import Literal

from rewards.mathematics.expressions.agreement import Comparison
from rewards.mathematics.expressions.evaluation import TooLarge, Undefined, exact
from rewards.mathematics.expressions.operators import rebuilt, replaced
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.sampling import Assignment, assignments, generator
from rewards.mathematics.expressions.trees import nodes, ordered, size, symbols
from rewards.mathematics.symbolic.limits import Undecided, limited
from rewards.mathematics.symbolic.sizes import check_size
from rewards.mathematics.symbolic.symbols import OPERATORS, Names, from_sympy, library, to_sympy

Ground = Literal["", "proved", "sampled"]
"""What decided a comparison: exact values, a proof of sympy, or sampled points."""
Compare = Callable[[Node, Node], Comparison]
WRITTEN_OUT = 20_000
"""Largest number of nodes of a sum or product that is written out."""
LAST_INTEGER = 40
INTEGER_POINTS = 8
"""Points of integers up to LAST_INTEGER at which sums and products are compared whose ends have symbols."""
INTEGRATION_VARIABLES = ("x", "t", "u", "y", r"\theta", "s", "z", "r", "v", "w")
COMMAND = re.compile(r"\\[A-Za-z]+")
CONSTANTS = ("C", "c", "K", "k", "C_1", "c_1")
"""Names of a constant of integration. In a gold it is `C`."""


def has_operators(tree: Node) -> bool:
    """Return whether a tree has a sum, product, integral, derivative or limit."""
    return any(node[0] in OPERATORS for node in nodes(tree))


def compare_operators(gold: Node, answer: Node, compare: Compare) -> tuple[Comparison, Ground]:
    """Return whether two trees are equal of which at least one has operators, and what decided.

    Args:
        compare: compares two trees without operators.
    Raises: TooLarge.
    """
    gold, answer = renamed(gold), renamed(answer)
    if ordered(gold) == ordered(answer):
        return "equal", ""
    written = _closed_sums(gold), _closed_sums(answer)
    if not any(map(has_operators, written)):
        return compare(*written), ""
    at_integers = _compare_at_integers(gold, answer, compare)
    if at_integers == "different":
        return "different", ""
    closed = _closed(gold), _closed(answer)
    variable = next((node[1] for tree in closed for node in nodes(tree) if _is_indefinite(node)), None)
    result = compare_derivatives(*closed, variable, compare) if variable else _compare_closed(*closed, compare)
    if result != "equal" and at_integers == "equal":
        return "equal", "sampled"
    return result, "proved" if result == "equal" else ""


def integration_variable(gold: Node, answer: Node) -> str | None:
    """Return the variable of two expressions that both end in a constant of integration; else None.

    Example: `x^2 + C` and `x^2 + 1 + c` -> `"x"`.
    """
    if not _has_constant(gold, CONSTANTS[:1]) or not _has_constant(answer, CONSTANTS):
        return None
    names = sorted(symbols(gold) - {"C"})
    if any(name[0].isupper() for name in names):
        return None
    return next((name for name in INTEGRATION_VARIABLES if name in names), None)


def _has_constant(tree: Node, names: tuple[str, ...]) -> bool:
    """Return whether one term of a tree is one of these symbols, which it has nowhere else."""
    terms = tree[1] if tree[0] == "add" else []
    found = [term[1] for term in terms if term[0] == "sym" and term[1] in names]
    return len(found) == 1 and sum(node == ("sym", found[0]) for node in nodes(tree)) == 1


def compare_derivatives(gold: Node, answer: Node, variable: str, compare: Compare) -> Comparison:
    """Return whether two trees are equal up to a constant: whether their derivatives are equal."""
    try:
        derived = _derivative(gold, variable), _derivative(answer, variable)
    except Undecided:
        return "undecided"
    return compare(*derived)


def _derivative(tree: Node, variable: str) -> Node:
    check_size(tree)
    names: Names = {}

    def derive() -> Node:
        expression = to_sympy(tree, names)
        return from_sympy(expression.diff(to_sympy(("sym", variable), names)).doit(), names)

    result: Node = limited(derive)
    return result


def renamed(node: Node, names: dict[str, str] | None = None, depth: int = 0) -> Node:
    """Return a tree in which each bound variable is named by its depth, so that its name does not matter."""
    names = names or {}
    if node[0] in ("sym", "opaque"):
        return _renamed_symbol(node, names, depth)
    if node[0] == "derivative" or _is_indefinite(node):
        return (node[0], names.get(node[1], node[1]), *node[2:-1], renamed(node[-1], names, depth + 1))
    if node[0] in OPERATORS:
        places = [renamed(place, names, depth + 1) if isinstance(place, tuple) else place for place in node[2:-1]]
        bound = f"bound {depth}"
        return (node[0], bound, *places, renamed(node[-1], names | {node[1]: bound}, depth + 1))
    return rebuilt(node, lambda part: renamed(part, names, depth))


def _renamed_symbol(node: Node, names: dict[str, str], depth: int) -> Node:
    """Rename a symbol or unknown function. It is a function of the bound variables in its index: `a_k`, `f_{k+1}`."""
    if node[0] == "sym" and node[1] in names:
        return ("sym", names[node[1]])
    base, _, index = node[1].partition("_")
    arguments = [renamed(part, names, depth) for part in node[2]] if node[0] == "opaque" else []
    letters = COMMAND.sub("", index)
    found = [name for name in names if name in (letters if len(name) == 1 else index)]
    if not found:
        return (*node[:2], arguments) if node[0] == "opaque" else node
    for number, name in enumerate(found):
        index = index.replace(name, f"#{number}")
    return ("opaque", f"{base}_{index}", [*(("sym", names[name]) for name in found), *arguments])


def _is_indefinite(node: Node) -> bool:
    return bool(node[0] == "integral" and node[2] is None)


def _closed(node: Node) -> Node:
    """Return a tree with the closed form in place of each operator that has one. Indefinite integrals stay."""
    node = rebuilt(node, _closed)
    if node[0] not in OPERATORS or _is_indefinite(node):
        return node
    if node[0] == "derivative" and node[3][0] == "opaque" and node[3][2] == [("sym", node[1])]:
        return ("opaque", node[3][1] + "'" * node[2], node[3][2])
    written = _written_out(node)
    if written is not None:
        return written
    try:
        check_size(node)
        names: Names = {}
        closed: Node = limited(lambda: _computed(node, names))
    except Undecided:
        return node
    return closed


def _computed(node: Node, names: Names) -> Node:
    result = to_sympy(node, names).doit()
    try:
        return from_sympy(result, names)
    except Undecided:  # as for values of special functions that have a closed form
        return from_sympy(library().simplify(library().expand_func(result)), names)


def _written_out(node: Node) -> Node | None:
    """Return a sum or product of few terms, with integers as ends, without its operator; else None."""
    if node[0] not in ("sum", "product"):
        return None
    low, high = _integer(node[2]), _integer(node[3])
    if low is None or high is None or (high - low + 1) * size(node[4]) > WRITTEN_OUT:
        return None
    terms = [_with_index(node[4], ("sym", node[1]), Fraction(index)) for index in range(low, high + 1)]
    if node[0] == "sum":
        return ("add", terms) if terms else ("num", Fraction(0))
    return _product(terms)


def _with_index(node: Node, variable: Node, value: Fraction) -> Node:
    """Return a tree with a value for the variable of a sum. `a_k` becomes the symbol `a_1`."""
    if node[0] == "opaque" and node[1].endswith("_#0") and node[2] == [variable]:
        return ("sym", f"{node[1][:-2]}{value}")
    return ("num", value) if node == variable else rebuilt(node, lambda part: _with_index(part, variable, value))


def _product(terms: list[Node]) -> Node:
    """Return a product as a balanced tree, so that its depth is small."""
    if len(terms) < 2:
        return terms[0] if terms else ("num", Fraction(1))
    half = len(terms) // 2
    return ("mul", [_product(terms[:half]), _product(terms[half:])])


def _integer(node: Node) -> int | None:
    try:
        value = exact(node)
    except (TooLarge, Undefined):
        return None
    return int(value) if value is not None and value.denominator == 1 else None


def _compare_at_integers(gold: Node, answer: Node, compare: Compare) -> Comparison:
    """Compare two trees at integers for the symbols in the ends of sums and products. "undecided" if there are none."""
    sums = [node for tree in (gold, answer) for node in nodes(tree) if node[0] in ("sum", "product")]
    free = (symbols(gold) | symbols(answer)) - {node[1] for node in sums}
    counts = sorted({name for node in sums for place in node[2:4] for name in symbols(place)} & free)
    if not counts or not all(_integer(node[2]) is not None for node in sums):
        return "undecided"
    draw, results = generator(repr(gold), repr(answer), "integers"), set()
    others = sorted(free - set(counts))
    for point in (assignments(others, draw) * INTEGER_POINTS)[:INTEGER_POINTS]:
        values: Assignment = point | {name: Fraction(draw.randint(3, LAST_INTEGER)) for name in counts}
        trees = [_closed_sums(_at(tree, values)) for tree in (gold, answer)]
        if any(map(has_operators, trees)):
            return "undecided"
        results.add(compare(trees[0], trees[1]))
    return "equal" if results == {"equal"} else "different" if "different" in results else "undecided"


def _at(tree: Node, values: Assignment) -> Node:
    for name, value in values.items():
        tree = replaced(tree, ("sym", name), ("num", value))
    return tree


def _closed_sums(node: Node) -> Node:
    """Return a tree with its sums and products written out where they can be."""
    node = rebuilt(node, _closed_sums)
    return (_written_out(node) or node) if node[0] in ("sum", "product") else node


def _compare_closed(gold: Node, answer: Node, compare: Compare) -> Comparison:
    """Compare two trees in which only operators without a closed form are left."""
    infinite = [any(node == ("const", "infinity") for node in nodes(tree)) for tree in (gold, answer)]
    is_open = any(map(has_operators, (gold, answer)))
    if any(infinite) and not is_open:
        lone = [tree in (("const", "infinity"), ("neg", ("const", "infinity"))) for tree in (gold, answer)]
        return ("equal" if gold == answer else "different") if infinite == lone else "undecided"
    if not is_open:
        return compare(gold, answer)
    known: list[Node] = []
    result = compare(_abstracted(gold, known, compare), _abstracted(answer, known, compare))
    return "equal" if result == "equal" else "undecided"


def _abstracted(node: Node, known: list[Node], compare: Compare) -> Node:
    """Return a tree with a symbol in place of each operator, the same one for equal operators.

    Args:
        known: the operators that have a symbol; new ones are added.
    """
    if node[0] in OPERATORS:
        index = next((index for index, other in enumerate(known) if _same_operator(node, other, compare)), len(known))
        if index == len(known):
            known.append(node)
        return ("sym", f"operator {index}")
    return rebuilt(node, lambda part: _abstracted(part, known, compare))


def _same_operator(one: Node, other: Node, compare: Compare) -> bool:
    """Return whether two operators have the same kind and variable, and equal places and operands."""
    if one[:2] != other[:2] or len(one) != len(other):
        return False
    for left, right in zip(one[2:], other[2:], strict=True):
        if isinstance(left, tuple) and isinstance(right, tuple):
            if ordered(left) != ordered(right) and (
                any(map(has_operators, (left, right))) or compare(left, right) != "equal"
            ):
                return False
        elif left != right:
            return False
    return True
