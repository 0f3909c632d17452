"""Read operators with a variable of their own: sums, products, integrals, derivatives and limits; remainders, and
conjugates, real and imaginary parts of complex numbers.

The nodes are ("sum"|"product", name, low, high, body), ("integral", name, low, high, body), where both ends are None if
it is indefinite, ("derivative", name, order, body) and ("limit", name, place, side, body), where side is "+", "-" or
"+-". `("const", "infinity")` has no value outside of places and ends.
"""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from rewards.mathematics.expressions.tokens import CLOSING, SYMBOLS, ParseError

Node = tuple[Any, ...]
SUMS = {"sum": "sum", "prod": "product"}
ARROWS = {r"\to", r"\rightarrow", r"\longrightarrow"}
DIFFERENTIALS = {"d", r"\partial"}
COMPLEX_PARTS = {"Re": "re", "Im": "im", "arg": "arg", "overline": "conj", "bar": "conj"}
ORDER_LIMIT = 6
"""Largest order of a derivative."""


def read_operator(parser: Any, name: str) -> Node | None:
    """Return the node of an operator whose command was just taken; None if the command is none.

    Args:
        parser: the parser of expressions. It is moved behind the operator and its operand.
    Raises: ParseError.
    """
    if name in SUMS:
        return _sum(parser, SUMS[name])
    if name == "int":
        return _integral(parser)
    if name == "lim":
        return _limit(parser)
    if name == "frac":
        return _derivative(parser)
    if name == "infty":
        return ("const", "infinity")
    if name in COMPLEX_PARTS and (name in ("Re", "Im", "arg") or _holds_imaginary_unit(parser)):
        operand = parser.argument() if parser.current == "{" else parser.postfix()
        return ("call", COMPLEX_PARTS[name], [operand])
    return None


def is_vector(node: Node) -> bool:
    """Return whether a node is a vector such as `\\vec{a}`, or a multiple or sum of vectors."""
    if node[0] in ("neg", "div", "pow"):
        return is_vector(node[1])
    if node[0] in ("add", "mul"):
        return any(map(is_vector, node[1]))
    return bool(node[0] == "sym" and node[1].startswith((r"\vec", r"\overrightarrow", r"\hat")))


def remainder(dividend: Node, divisor: Node) -> Node:
    """Return `a mod b` as a - b * floor(a / b)."""
    whole = ("call", "floor", [("div", dividend, divisor)])
    return ("add", [dividend, ("neg", ("mul", [divisor, whole]))])


def _operand(parser: Any) -> Node:
    """Parse the factors behind an operator, up to the next sign."""
    parser.enter_level()
    node: Node = parser.term()
    parser.depth -= 1
    return node


def _variable(parser: Any) -> str:
    """Parse a symbol and return its name."""
    token = parser.take()
    if token[0] == "\\":
        node = parser.command(token[1:])
    elif len(token) == 1 and token.isalpha():
        node = ("sym", token + parser.subscript_and_primes())  # also `i` and `e`, which are constants elsewhere
    else:
        node = ("none",)
    if node[0] != "sym":
        raise ParseError("an operator without a variable")
    return str(node[1])


def _sum(parser: Any, kind: str) -> Node:
    low: Node | None = None
    high: Node | None = None
    name = ""
    for _ in range(2):
        if parser.current == "_":
            parser.take()
            parser.expect("{")
            name, low, above = _range(parser)
            high = above or high
            parser.expect("}")
        elif parser.current == "^":
            parser.take()
            high = parser.argument()
    if low is None or high is None:
        raise ParseError("a sum without ends")
    return (kind, name, low, high, _with_variable(parser, name))


def _range(parser: Any) -> tuple[str, Node, Node | None]:
    """Parse `k=1`, `k \\ge 1` or `1 \\le k \\le n` and return the variable and the ends."""
    if parser.tokens[parser.position + 1 : parser.position + 2] in (["="], [r"\ge"]):
        name = _variable(parser)
        sign = parser.take()
        return name, parser.sum(), ("const", "infinity") if sign == r"\ge" else None
    low = parser.sum()
    parser.expect(r"\le")
    name = _variable(parser)
    parser.expect(r"\le")
    return name, low, parser.sum()


def _with_variable(parser: Any, name: str) -> Node:
    """Parse the operand, in which `i` is the variable of a sum over i."""
    operand = _operand(parser)
    return replaced(operand, ("const", name), ("sym", name)) if name in ("i", "e") else operand


def replaced(node: Node, old: Node, new: Node) -> Node:
    """Return a tree with another node in each place of one."""
    if node == old:
        return new
    return rebuilt(node, lambda part: replaced(part, old, new))


def rebuilt(node: Node, function: Callable[[Node], Node]) -> Node:
    """Return a node with the results of a function in place of the nodes directly below it."""
    return tuple(
        [function(inner) if isinstance(inner, tuple) else inner for inner in part]
        if isinstance(part, list)
        else function(part)
        if isinstance(part, tuple)
        else part
        for part in node
    )


def _limit(parser: Any) -> Node:
    parser.expect("_")
    parser.expect("{")
    name = _variable(parser)
    if parser.take() not in ARROWS:
        raise ParseError("a limit without an arrow")
    end = next((index for index in range(parser.position, len(parser.tokens)) if parser.tokens[index] == "}"), 0)
    side = "+-"
    for marks in (["^", "+"], ["^", "-"]):  # one-sided: `x \to 0^+`
        if parser.tokens[end - 2 : end] == marks:
            side = marks[1]
            del parser.tokens[end - 2 : end]
    if parser.tokens[end - 3 : end + 1] in (["^", "{", "+", "}"], ["^", "{", "-", "}"]):
        side = parser.tokens[end - 1]
        del parser.tokens[end - 3 : end + 1]
    place = parser.sum()
    parser.expect("}")
    return ("limit", name, place, side, _operand(parser))


def _derivative(parser: Any) -> Node | None:
    """Parse `\\frac{d}{dx} f` or `\\frac{d^2}{dx^2} f`; None if the fraction is no such operator."""
    tokens, start = parser.tokens, parser.position
    head = tokens[start : start + 5]
    if len(head) < 5 or head[0] != "{" or head[1] not in DIFFERENTIALS:
        return None
    order, position = (1, start + 2) if head[2] == "}" else (0, start + 4)
    if order == 0:
        if head[2] != "^" or not head[3].isdigit() or head[4] != "}" or not 1 <= int(head[3][:2]) <= ORDER_LIMIT:
            return None
        order = int(head[3])
    if tokens[position : position + 2] != ["}", "{"] or tokens[position + 2 : position + 3] != [head[1]]:
        return None
    parser.position = position + 3
    name = _variable(parser)
    if order > 1 and (parser.take() != "^" or parser.take() != str(order)):
        raise ParseError("a derivative of two orders")
    parser.expect("}")
    return ("derivative", name, order, _operand(parser))


def _integral(parser: Any) -> Node:
    low: Node | None = None
    high: Node | None = None
    for _ in range(2):
        if parser.current == "_":
            parser.take()
            low = parser.argument()
        elif parser.current == "^":
            parser.take()
            high = parser.argument()
    if (low is None) != (high is None):
        raise ParseError("an integral with one end")
    end = _differential(parser.tokens, parser.position)
    if end is None:
        body, name = _over_differential(parser)
        return ("integral", name, low, high, body)
    inner = type(parser)(parser.tokens[parser.position : end])
    inner.depth = parser.depth + 1
    body = inner.sum() if inner.tokens else ("num", Fraction(1))
    if inner.current is not None:
        raise ParseError("an integrand")
    parser.position = end + 1
    return ("integral", _variable(parser), low, high, body)


def _differential(tokens: list[str], start: int) -> int | None:
    """Return the place of the differential that ends an integral, outside all brackets and inner integrals."""
    depth, integrals = 0, 1
    for index in range(start, len(tokens) - 1):
        token = tokens[index]
        depth += (token in CLOSING) - (token in CLOSING.values())
        if depth < 0:
            return None
        integrals += token == r"\int" and depth == 0
        if token == "d" and depth == 0 and _is_symbol(tokens[index + 1]):
            integrals -= 1
            if integrals == 0:
                return index
    return None


def _over_differential(parser: Any) -> tuple[Node, str]:
    """Parse an integrand with the differential in a numerator: `\\int \\frac{dx}{x}`. Return it and the variable."""
    tokens, place = parser.tokens, parser.position
    head = tokens[place : place + 2]
    if head != [r"\frac", "{"]:
        raise ParseError("an integral without a differential")
    end = next((index for index in range(place, len(tokens)) if tokens[index] == "}"), 0)
    if tokens[end - 2 : end - 1] != ["d"] or not _is_symbol(tokens[end - 1]):
        raise ParseError("an integral without a differential")
    name = tokens[end - 1]
    tokens[end - 2 : end] = [] if tokens[end - 3] != "{" else ["1"]
    return _operand(parser), name


def _is_symbol(token: str) -> bool:
    return (len(token) == 1 and token.isalpha()) or token[1:] in SYMBOLS


def _holds_imaginary_unit(parser: Any) -> bool:
    """Return whether the group at hand has `i`: `\\overline{3+4i}` is a conjugate, `\\overline{AB}` a name."""
    tokens, place = parser.tokens, parser.position
    end = next((index for index in range(place, len(tokens)) if tokens[index] == "}"), place)
    return tokens[place : place + 1] == ["{"] and "i" in tokens[place:end]
