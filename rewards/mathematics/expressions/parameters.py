"""Compare families of values whose parameter has another letter: `\\pi/4 + k\\pi` and `\\pi/4 + n\\pi`."""

import re
from collections.abc import Callable

from rewards.mathematics.expressions.operators import replaced
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.trees import nodes, symbols
from rewards.mathematics.text import unwrap_text

INTEGERS = {"k", "n", "m"}
CONSTANTS = {"C", "A", "K", "c", "C_1", "c_1"}
# `, k\in\mathbb Z`, ` (k \in \mathbb{Z})`, ` for any integer k`, `, where k is an integer`.
INTEGER_CONDITION = re.compile(
    r"(?:,? |,)\(?(?:(?:for|where|with) )?(?:(?:any |every |all |some )?integers? (?P<named>[knm])"
    r"|(?P<letter>[knm]) ?(?:\\in ?\\mathbb ?\{?Z\}?|is an(?:y)? integer))\)?$"
)


def without_integer_condition(text: str) -> str:
    """Return a family of values without the condition that its parameter is an integer; any other text unchanged.

    Example: `"\\pi/4 + k\\pi, k \\in \\mathbb Z"` -> `"\\pi/4 + k\\pi"`.
    """
    if r"\pi" not in text and r"\circ" not in text:
        return text
    plain = " ".join(unwrap_text(text).split())
    condition = INTEGER_CONDITION.search(plain)
    value = plain[: condition.start()] if condition else ""
    letter = condition and (condition["named"] or condition["letter"])
    return value if letter and re.search(rf"(?<![A-Za-z\\]){letter}(?![A-Za-z])", value) else text


def with_parameter_of(gold: Node, answer: Node) -> Node:
    """Return the answer with the letter of the gold for its parameter, if one symbol of each is a parameter.

    A parameter is an integer multiple of `\\pi` or of an angle in degrees, or the constant factor of an exponential
    function in the solution of a differential equation, `Ce^x`. It occurs once.
    """
    in_gold, in_answer = symbols(gold) - symbols(answer), symbols(answer) - symbols(gold)
    if len(in_gold) == len(in_answer) == 1:
        (letter,), (other,) = in_gold, in_answer
        for letters, multiplied in ((INTEGERS, _is_half_turn), (CONSTANTS, _is_exponential)):
            in_letters = {letter, other} <= letters
            if in_letters and _is_parameter(gold, letter, multiplied) and _is_parameter(answer, other, multiplied):
                return replaced(answer, ("sym", other), ("sym", letter))
    return answer


def _is_parameter(tree: Node, letter: str, multiplied: Callable[[Node], bool]) -> bool:
    """Return whether a letter occurs once in a tree, as a factor beside a factor of a kind.

    It does not occur in functions, powers or denominators.
    """
    parts = list(nodes(tree))
    closed = [part for part in parts if part[0] in ("call", "opaque", "pow", "root")]
    closed += [part[2] for part in parts if part[0] == "div"]
    if any(letter in symbols(part) for part in closed) or parts.count(("sym", letter)) != 1:
        return False
    products = [_factors(part) for part in parts if part[0] in ("mul", "div")]
    return any(
        any(map(multiplied, factors)) and any(letter in symbols(factor) for factor in factors) for factors in products
    )


def _factors(node: Node) -> list[Node]:
    """Return the factors of a product, or of the numerator of a quotient."""
    if node[0] == "mul":
        return [factor for part in node[1] for factor in _factors(part)]
    return _factors(node[1]) if node[0] in ("div", "neg") else [node]


def _is_half_turn(node: Node) -> bool:
    return node == ("const", "pi") or (node[0] == "degrees" and not symbols(node))


def _is_exponential(node: Node) -> bool:
    is_power = node[0] == "pow" and not symbols(node[1]) and bool(symbols(node[2]))
    return is_power or (node[:2] == ("call", "exp") and bool(symbols(node)))
