"""Convert trees of the reader to sympy expressions and back. No text reaches sympy.

The size of a tree must be checked before (`sizes.py`).
"""

import functools
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from rewards.mathematics.expressions.evaluation import TooLarge, Undefined, exact
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.trees import LOGARITHMS
from rewards.mathematics.symbolic.limits import Undecided

BITS_LIMIT = 1_000
"""Largest number of bits of a number."""
SAME_NAME = (
    *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "acot", "asec", "acsc"),
    *("sinh", "cosh", "tanh", "factorial", "binomial", "gcd", "lcm"),
)
"""Calls of the reader that sympy has under the same name."""
OTHER_NAMES = {"abs": "Abs", "floor": "floor", "ceiling": "ceiling", "max": "Max", "min": "Min", "exp": "exp"}
CALLS = {name: name for name in SAME_NAME} | OTHER_NAMES
BACK = {sympy_name: name for name, sympy_name in CALLS.items()}
OPERATORS = {"sum", "product", "integral", "derivative", "limit"}
Names = dict[str, Any]
"""The sympy symbol of each symbol of the reader."""


def library() -> Any:
    """Return the module sympy, which a worker imports when it starts (`answer.prepare`)."""
    import sympy  # here, as the modules that import this one are also used where nothing is verified

    return sympy


@functools.cache
def warm_up() -> None:
    """Use each part of sympy once: many of its modules are imported on first use."""
    sympy = library()
    x, k = sympy.Symbol("x", real=True), sympy.Symbol("k", integer=True)
    sympy.Integral(sympy.exp(-(x**2)), (x, 0, sympy.oo)).doit()
    sympy.Sum(1 / k**2 + 1 / 2**k, (k, 1, sympy.oo)).doit()
    sympy.Sum(sympy.binomial(x, k), (k, 0, x)).doit()
    sympy.Limit(sympy.sin(x) / x, x, 0).doit()
    sympy.solveset(x**2 < 4, x, sympy.S.Reals)
    sympy.factor_list(sympy.trigsimp(x**2 - sympy.sin(x) ** 2 - sympy.cos(x) ** 2))


def exact_or_none(node: Node) -> Fraction | None:
    """Return the rational value of a tree, if it has one. Raises: Undecided where it is too large or undefined."""
    try:
        return exact(node)
    except (TooLarge, Undefined):
        raise Undecided from None


def to_sympy(node: Node, names: Names, decimal_log: bool = False) -> Any:
    """Return a tree as a sympy expression of real symbols.

    Args:
        names: the symbols so far; new ones are added.
    Raises: Undecided for a node that sympy has no counterpart of, and for numbers above a limit.
    """
    sympy = library()
    kind = node[0]
    if kind == "sym":
        return names.setdefault(node[1], sympy.Dummy(f"s{len(names)}", real=True))
    if kind == "const":
        return {"pi": sympy.pi, "e": sympy.E, "i": sympy.I, "infinity": sympy.oo}[node[1]]
    value = exact_or_none(node) if kind in ("num", "add", "mul", "div", "pow", "neg") else None
    if value is not None:
        return rational(value)

    def inner(part: Node) -> Any:
        return to_sympy(part, names, decimal_log)

    if kind == "neg":
        return -inner(node[1])
    if kind in ("add", "mul"):
        return (sympy.Add if kind == "add" else sympy.Mul)(*map(inner, node[1]))
    if kind == "div":
        return inner(node[1]) / inner(node[2])
    if kind == "pow":
        return inner(node[1]) ** inner(node[2])
    if kind == "root":
        return inner(node[1]) ** (1 / inner(node[2]))
    if kind == "call":
        arguments = [inner(part) for part in node[2]]
        if node[1] in LOGARITHMS:
            ten = node[1] == "lg" or (node[1] == "log" and decimal_log)
            return sympy.log(*arguments, *([10] if ten and len(arguments) == 1 else []))
        if node[1] in CALLS:
            return getattr(sympy, CALLS[node[1]])(*arguments)
    if kind in OPERATORS:
        return _operator(node, names, decimal_log)
    raise Undecided


def _operator(node: Node, names: Names, decimal_log: bool) -> Any:
    """Return a sum, product, integral, derivative or limit, which sympy does not compute yet."""
    sympy = library()
    kind, name, *places, body = node
    if kind == "derivative":
        return sympy.Derivative(to_sympy(body, names, decimal_log), (to_sympy(("sym", name), names), places[0]))
    if kind == "integral" and places[0] is None:
        return sympy.Integral(to_sympy(body, names, decimal_log), to_sympy(("sym", name), names))
    variable = sympy.Dummy("k", integer=True) if kind in ("sum", "product") else sympy.Dummy("x", real=True)
    inner = names | {name: variable}
    operand = to_sympy(body, inner, decimal_log)
    names |= {added: symbol for added, symbol in inner.items() if added != name}
    if kind == "limit":
        return sympy.Limit(operand, variable, to_sympy(places[0], names, decimal_log), places[1])
    low, high = (to_sympy(place, names, decimal_log) for place in places)
    return {"sum": sympy.Sum, "product": sympy.Product, "integral": sympy.Integral}[kind](
        operand, (variable, low, high)
    )


def rational(value: Fraction) -> Any:
    """Return a fraction as a sympy number. Raises: Undecided above BITS_LIMIT."""
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > BITS_LIMIT:
        raise Undecided
    return library().Rational(value.numerator, value.denominator)


def from_sympy(expression: Any, names: Mapping[str, Any]) -> Node:
    """Return a sympy expression as a tree of the reader.

    Args:
        names: the sympy symbols by the names of the tree.
    Raises: Undecided for an expression without a counterpart, such as an integral that has no closed form.
    """
    return _from(expression, {symbol: name for name, symbol in names.items()})


def _from(expression: Any, names: Mapping[Any, str]) -> Node:
    sympy = library()
    if expression.is_Symbol and expression in names:
        return ("sym", names[expression])
    if expression.is_Rational:
        return ("num", Fraction(expression.p, expression.q))
    constants = ((sympy.pi, "pi"), (sympy.E, "e"), (sympy.I, "i"), (sympy.oo, "infinity"))
    for constant, name in constants:
        if expression == constant:
            return ("const", name)
    if expression is sympy.S.NegativeInfinity:
        return ("neg", ("const", "infinity"))
    if isinstance(expression, sympy.Piecewise):
        return _from(_generic_branch(expression), names)
    arguments = [_from(argument, names) for argument in expression.args]
    if expression.is_Add:
        return ("add", arguments)
    if expression.is_Mul:
        result = arguments[0]
        for argument in arguments[1:]:
            result = ("mul", [result, argument])
        return result
    if expression.is_Pow:
        return ("pow", *arguments)
    name = type(expression).__name__
    if name == "log":
        return ("call", "ln", arguments)
    if name == "gamma":
        return ("call", "factorial", [("add", [arguments[0], ("num", Fraction(-1))])])
    if name == "sign":
        return ("div", arguments[0], ("call", "abs", arguments))
    if name in ("RisingFactorial", "FallingFactorial"):
        return _from(expression.rewrite(sympy.gamma), names)
    if name in BACK:
        return ("call", BACK[name], arguments)
    raise Undecided


def _generic_branch(expression: Any) -> Any:
    """Return the branch of a Piecewise of sympy that holds for almost all values, or where a series converges.

    Raises: Undecided if there are several.
    """
    sympy = library()
    open_kinds = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit)
    branches = [(value, condition) for value, condition in expression.args if not isinstance(condition, sympy.Equality)]
    closed = [(value, condition) for value, condition in branches if not value.has(*open_kinds)]
    if len(closed) == 1 or (closed and isinstance(closed[0][1], sympy.Unequality)):
        return closed[0][0]
    raise Undecided
