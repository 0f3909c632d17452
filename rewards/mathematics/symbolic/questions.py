"""Read the formulas of a question: what it asks to compute, and whether it asks for an order.

An answer that only repeats a formula of the question is no answer to it. Only the beginning of a question is read.
"""

import re
from fractions import Fraction
from functools import lru_cache

from rewards.mathematics.expressions.evaluation import TooLarge, Undefined, exact
from rewards.mathematics.expressions.identity import parse_or_none
from rewards.mathematics.expressions.operators import rebuilt, replaced
from rewards.mathematics.expressions.parser import Node, parse
from rewards.mathematics.expressions.tokens import ParseError
from rewards.mathematics.expressions.trees import ordered, size, symbols
from rewards.mathematics.quantities.parsing import split_unit
from rewards.mathematics.structures import split_relation
from rewards.mathematics.symbolic.calculus import renamed
from rewards.mathematics.text import canonical, normalise, unwrap_text

QUESTION_LIMIT = 2_000
"""Characters of a question that are read."""
FORMULA_LIMIT = 20
"""Formulas of a question that are read."""
LENGTH_LIMIT = 300
"""Largest number of characters of a formula that is read."""
SIZE_LIMIT = 200
"""Largest number of nodes of a tree that is compared with a formula."""
MODULO_LIMIT = 3
"""Largest number of remainders in a formula: the tree of each has its dividend twice."""
DISPLAYED = r"\$\$([^$]+)\$\$|\\\[(.{1,300}?)\\\]"
INLINE = r"\$([^$]+)\$|\\\((.{1,300}?)\\\)"
# Arithmetic outside of math signs: `123 * 456`, `\gcd(12, 18)`, `2^10`.
COMMANDS = r"\\(?:sqrt|frac|gcd|lcm|times|cdot|div|log|ln|bmod|binom|sin|cos|tan|pi|[lr]floor|[lr]ceil)(?![A-Za-z])"
WORDS = r"(?<![A-Za-z])(?:gcd|lcm|sqrt|log|ln|mod)(?![A-Za-z])"
PLAIN = rf"(?<![\w.\\])((?=[\\(\[0-9gls|-])(?:{COMMANDS}|{WORDS}|[0-9+*/^()._,!{{}}\[\]×·÷−| -]){{2,80}})"
FORMULA = re.compile(f"{DISPLAYED}|{INLINE}|{PLAIN}", re.DOTALL)
NUMBER = re.compile(r"[0-9., ]*-?")
# "Find the value of $m+n$": the command stands directly before the formula.
ASKED = re.compile(
    r"\b(?:find|compute|evaluate|determine|calculate|report|give|enter|what is|value of)"
    r"(?: the)?(?: exact| numerical)?(?: value)?(?: of)?:? *$",
    re.IGNORECASE,
)
CHANGED = re.compile(r"\b(?:half|twice|double|triple|square|cube|reciprocal|opposite|negative)\b", re.IGNORECASE)
# What may stand behind a formula whose value is asked for; "times 2" and "modulo 7" may not.
ASKED_END = re.compile(r"\s*(?:[.?!,;:]|$|(?:if|where|when|given|for|as)\b)", re.IGNORECASE)
ASKED_LENGTH = 60
# A question that offers formulas to choose from: one of them is an answer.
CHOICE = re.compile(
    r"\bwhich (?:of|one|number|expression|value|is (?:the )?[a-z]{1,12}(?:er|est))\b"
    r"|\bchoose (?:the|one)\b|\boptions\b",
    re.IGNORECASE,
)
ORDER = re.compile(
    r"\bfrom (?:the )?(?:least|smallest|lowest|shortest|lightest|youngest|slowest|cheapest) to\b"
    r"|\bfrom (?:the )?(?:greatest|largest|biggest|highest|longest|tallest|heaviest|oldest|fastest|most) to\b"
    r"|\bin (?:an? )?(?:strictly )?(?:ascending|descending|increasing|decreasing) order\b"
    r"|(?:^|[.?!;:] *|\bto )rank (?:the|these|them|all)\b|\b(?:arrange|put|place) [^.?!]{1,80} in order\b(?! to\b)",
    re.IGNORECASE,
)
OPERATOR = re.compile(r"\\(?:sum|prod|int|lim|frac ?\{ ?d ?[}^])")
"""Sums, products, integrals, limits and derivatives."""
DETERMINANT = re.compile(r"\\(?:det|begin)(?![A-Za-z])")
ONE, ZERO = ("num", Fraction(1)), ("num", Fraction(0))


def restates(question: str, answer: str) -> bool:
    """Return whether an answer of one value is only a formula of the question that is still to be computed.

    Bound variables may have other names, and trivial changes do not count: the order of terms, brackets, `+ 0`.
    A number, a fraction and an angle are never one. Example: "Compute $5+3$." and `"3 + 5"` -> True.
    """
    answer, _ = split_unit(split_relation(answer)[0][-1], None)
    if CHOICE.search(question[:QUESTION_LIMIT]):
        return False
    written_out = OPERATOR.search(answer) or DETERMINANT.search(answer)
    if written_out and canonical(answer) in canonical(normalise(question[:QUESTION_LIMIT])):
        return True
    tree = _reduced_tree(answer)
    if tree is None or _is_plain(tree) or (symbols(tree) and not written_out):
        return False
    sides = (side for formula, _ in formulas(question) for side in split_relation(formula)[0])
    return any(_reduced_tree(side) == tree for side in sides)


def asks_for(question: str, expression: str) -> bool:
    """Return whether a question asks for an expression with symbols: "Find $m+n$." and `"n + m"` -> True."""
    tree = _reduced_tree(expression)
    if tree is None or not symbols(tree):
        return False
    return any(asked and _reduced_tree(formula) == tree for formula, asked in formulas(question))


def asks_for_order(question: str) -> bool:
    """Return whether a question asks for values in order: "List them from least to greatest." -> True."""
    return ORDER.search(question[:QUESTION_LIMIT]) is not None


@lru_cache(maxsize=256)
def formulas(question: str) -> tuple[tuple[str, bool], ...]:
    """Return the first formulas of a question, normalised, and whether it asks for the value of each."""
    question = question[:QUESTION_LIMIT]
    found: list[tuple[str, bool]] = []
    for match in FORMULA.finditer(question):
        text = next(group for group in match.groups() if group is not None).strip(" .,;:?\n")
        if len(found) == FORMULA_LIMIT:
            break
        if len(text) <= LENGTH_LIMIT and not NUMBER.fullmatch(text):
            before = question[max(0, match.start() - ASKED_LENGTH) : match.start()]
            rest = question[match.end() : match.end() + ASKED_LENGTH]
            asked = ASKED.search(before) and not CHANGED.search(before) and ASKED_END.match(rest)
            found.append((normalise(text), bool(asked)))
    return tuple(found)


@lru_cache(maxsize=1024)
def _reduced_tree(text: str) -> Node | None:
    """Return the tree of an expression without trivial parts; None if it has none or is too large."""
    if len(text) > LENGTH_LIMIT or text.count("mod") > MODULO_LIMIT:
        return None
    try:
        tree = parse(unwrap_text(text)) if "^" in text else parse_or_none(text)  # `2^{10}` is not yet a number
    except ParseError:
        return None
    return ordered(_reduced(renamed(tree))) if tree is not None and size(tree) <= SIZE_LIMIT else None


def _reduced(node: Node) -> Node:
    """Return a tree without `+ 0` and factors of 1, with fractions of numbers as numbers and roots as powers.

    A sum that starts at 0, with a first term of 0, starts at 1.
    """
    node = rebuilt(node, _reduced)
    if node[0] == "neg" and node[1][0] == "num":
        return ("num", -node[1][1])
    if node[0] in ("add", "mul"):
        neutral = ZERO if node[0] == "add" else ONE
        parts = [part for part in node[1] if part != neutral]
        return (node[0], parts) if len(parts) > 1 else parts[0] if parts else neutral
    if node[0] == "root":
        return ("pow", node[1], _reduced(("div", ONE, node[2])))
    if node[0] == "div" and node[1][0] == node[2][0] == "num" and node[2] != ZERO:
        return ("num", node[1][1] / node[2][1])
    if node[0] in ("div", "pow") and node[2] == ONE:
        return node[1]
    if node[0] == "sum" and node[2] == ZERO and _value_at_zero(node[4], node[1]) == 0:
        return ("sum", node[1], ONE, *node[3:])
    return node


def _value_at_zero(body: Node, name: str) -> object:
    try:
        return exact(replaced(body, ("sym", name), ZERO))
    except (Undefined, TooLarge):
        return None


def _is_plain(tree: Node) -> bool:
    """Return whether a tree is a number, also with a sign, as an angle or with a power of ten: nothing to compute."""
    if tree[0] == "mul":
        return len(tree[1]) == 2 and tree[1][0][0] == "num" and tree[1][1][0] == "pow" and _is_plain(tree[1][1])
    is_power_of_ten = tree[0] == "pow" and tree[1] == ("num", 10) and tree[2][0] == "num"
    return tree[0] == "num" or is_power_of_ten or (tree[0] in ("neg", "degrees") and _is_plain(tree[1]))
