"""Decide whether two expressions are equal.

Rational values compare exactly. Otherwise both expressions are evaluated to many digits at values of their symbols that
are drawn for this pair of texts. A difference at one of them refutes equality. Agreement at all of them is taken as
equality for expressions that are analytic. Those with steps, absolute values, even roots or logarithms must also be
equal for any value of these parts, or agree on sampled lines (`sampling.py`), and sympy must not refute them there
(`symbolic`). The precision grows with the range of the intermediate values, so that a small difference cannot disappear
beside a large number: `10^{30} + 1` differs from `10^{30}`.
"""

import contextlib
import re
import threading
from fractions import Fraction
from typing import Any

from rewards.mathematics.expressions.agreement import (
    FIRST_DIGITS,
    Comparison,
    OutOfWork,
    Work,
    compare_at,
    compare_on_lines,
    real_fraction,
)
from rewards.mathematics.expressions.conventions import conventions
from rewards.mathematics.expressions.domains import has_smaller_domain
from rewards.mathematics.expressions.evaluation import CONTEXTS, Convention, TooLarge, Undefined, approximate, exact
from rewards.mathematics.expressions.matrix_products import is_matrix_product, same_matrix_product
from rewards.mathematics.expressions.parameters import with_parameter_of
from rewards.mathematics.expressions.parser import Node, parse
from rewards.mathematics.expressions.sampling import Assignment, assignments, generator, line_assignments
from rewards.mathematics.expressions.tokens import ParseError
from rewards.mathematics.expressions.trees import (
    abstracted,
    ordered,
    piecewise_nodes,
    symbols,
)
from rewards.mathematics.numerals import parse_number
from rewards.mathematics.symbolic.calculus import (
    compare_derivatives,
    compare_operators,
    has_operators,
    integration_variable,
)
from rewards.mathematics.symbolic.proof import decide
from rewards.mathematics.text import unwrap_text

DECIMAL_PLACES = re.compile(r"[+-]?[0-9]*\.([0-9]+)")


class Grounds(threading.local):
    """How the comparisons of one answer were decided: "proved", "sampled" and "undecided" are noted here
    by `compare`."""

    def __init__(self) -> None:
        self.notes: set[str] = set()


GROUNDS = Grounds()


def same_expression(gold: str, answer: str) -> bool:
    """Return whether two expressions are equal. False if one of them cannot be parsed or equality is undecided.

    Example: `"(x+1)^2"` and `"x^2+2x+1"` -> True.
    Raises: TooLarge.
    """
    if (r"\vec" in gold) != (r"\vec" in answer):  # only one of the two marks its vectors
        gold, answer = (re.sub(r"\\vec ?\{?([a-z])\}?", r"\1", text) for text in (gold, answer))
    gold_tree, answer_tree = parse_or_none(gold), parse_or_none(answer)
    if gold_tree is None or answer_tree is None:
        return False
    if is_matrix_product(gold_tree):
        return same_matrix_product(gold_tree, answer_tree)
    return compare(gold_tree, with_parameter_of(gold_tree, answer_tree)) == "equal"


def compare(gold: Node, answer: Node) -> Comparison:
    """Compare two expressions, and note in GROUNDS if a proof or sampling decided, or nothing did.

    Two expressions that end in a constant of integration need to be equal up to a constant. An answer may lack a part
    of the domain of the gold, as `2\\ln x` of `\\ln x^2`, but not the large positive values.
    Raises: TooLarge.
    """
    if has_operators(gold) or has_operators(answer):
        result, ground = compare_operators(gold, answer, _compare_values)
        GROUNDS.notes.add("undecided" if result == "undecided" else ground)
        return result
    result = _compare_values(gold, answer)
    variable = integration_variable(gold, answer) if result != "equal" else None
    if variable:
        result = compare_derivatives(gold, answer, variable, _compare_values)
    return "different" if result == "equal" and has_smaller_domain(gold, answer) else result


def _compare_values(gold: Node, answer: Node) -> Comparison:
    """Compare two expressions without operators. They must have the same symbols and agree under one Convention."""
    gold_value, answer_value = _exact_or_none(gold), _exact_or_none(answer)
    if gold_value is not None and answer_value is not None:
        return "equal" if gold_value == answer_value else "different"
    names = sorted(symbols(gold))
    if names != sorted(symbols(answer)):
        return "different"
    work = Work()
    results = {_compare_under(gold, answer, names, convention, work) for convention in conventions(gold, answer)}
    if "equal" in results or ("undecided" in results and ordered(gold) == ordered(answer)):
        return "equal"
    if "undecided" in results:
        GROUNDS.notes.add("undecided")
        return "undecided"
    return "different"


def _compare_under(gold: Node, answer: Node, names: list[str], convention: Convention, work: Work) -> Comparison:
    """Compare two trees at points, and on lines if they have piecewise nodes that are not the same in both."""
    draw = generator(repr(gold), repr(answer))
    at_points = compare_at(assignments(names, draw), gold, answer, convention)
    pieces = piecewise_nodes(gold, answer) if names else []
    if at_points == "different" or not pieces:
        return at_points
    piece_names: dict[str, str] = {}
    abstract = abstracted(gold, piece_names), abstracted(answer, piece_names)
    abstract_names = sorted(symbols(abstract[0]) | symbols(abstract[1]))
    if compare_at(assignments(abstract_names, draw), *abstract, convention) == "equal":
        return "equal"

    def evaluate(node: Node, assignment: Assignment) -> Fraction | None:
        work.add(node)
        return real_fraction(node, assignment, convention)

    on_lines: Comparison = "undecided"
    with contextlib.suppress(OutOfWork):
        lines = line_assignments((gold, answer), pieces, names, draw, evaluate)
        on_lines = compare_on_lines(lines, gold, answer, convention, work)
    if on_lines == "different":
        return on_lines
    proof = decide(gold, answer, convention)
    result = on_lines if proof == "undecided" else proof
    if result == "equal":
        GROUNDS.notes.add("sampled" if proof == "undecided" else "proved")
    return result


def real_value(text: str) -> Any | None:
    """Return the real value of a text without symbols as an mpmath number of FIRST_DIGITS digits, infinity included.

    None for any other text.
    """
    sign = text.replace(" ", "").removesuffix(r"\infty")
    if sign in ("", "+", "-") and r"\infty" in text:
        return CONTEXTS.context.inf * (-1 if sign == "-" else 1)
    node = parse_or_none(text)
    if node is None or symbols(node):
        return None
    try:
        value, _ = approximate(node, {}, FIRST_DIGITS, Convention())
    except (TooLarge, Undefined):
        return None
    return CONTEXTS.context.re(value) if CONTEXTS.context.im(value) == 0 else None


def rounds_to(text: str, decimal: str) -> bool:
    """Return whether `decimal` is the value of `text` rounded or truncated to the decimal places of `decimal`.

    False if `text` has symbols. Example: `"\\sqrt{2}"` and `"1.41"` -> True.
    """
    value, digits, decimal_places = real_value(text), parse_number(decimal), DECIMAL_PLACES.fullmatch(decimal)
    if value is None or digits is None or decimal_places is None:
        return False
    context = CONTEXTS.context
    error = (value - context.mpf(digits.numerator) / digits.denominator) * 10 ** len(decimal_places[1])
    truncated = 0 <= error < 1 if digits > 0 else -1 < error <= 0
    return bool(truncated or abs(error) <= 0.5)


def parse_or_none(text: str) -> Node | None:
    """Parse a number or an expression; None if the text is neither. `1e-3` is a number, not the difference 1*e - 3."""
    text = text.replace("$", "")
    value = parse_number(text)
    try:
        return parse(unwrap_text(text)) if value is None else ("num", value)
    except ParseError:
        return None


def _exact_or_none(node: Node) -> Fraction | None:
    try:
        return exact(node)
    except Undefined:
        return None
