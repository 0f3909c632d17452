"""Equality of two mathematical expressions through math-verify, with what the library lacks around it.

What it would have to compute is bounded before it compares, and what it calls equal is checked once more at 50 digits,
because it rounds. It may still take long: its own timeouts are off, since they are signals, and the worker pool kills.
"""

import math
import re
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse
from math_verify import verify as library_verify

DIGIT_LIMIT = 10_000
"""Decimal digits of the numbers that comparing two expressions may bring about."""
# A final answer is a closed form; these ask the library to compute without bound.
UNBOUNDED = re.compile(r"\\(?:sum|prod|int|iint|oint|lim|limsup|liminf)(?![A-Za-z])|!\s*!")
EAGER = re.compile(r"\\(?:[dt]?binom|gcd|lcm|mod|pmod|bmod|det|operatorname)(?![A-Za-z])|\bgcd\b|\blcm\b")
"""What the library's parser computes while it reads."""
POINTS = (sympy.Rational(-1237, 911), sympy.Rational(1549, 733), sympy.Rational(577, 1999))
"""Where expressions with symbols are compared; each symbol takes its own shift of these."""


def symbolically_equal(gold: str, answer: str) -> bool:
    """Whether two LaTeX expressions, relations or matrices are equal; False for what cannot be read or bounded."""
    ours, theirs = _parse(gold), _parse(answer)
    if ours is None or theirs is None:
        return False
    same = library_verify(ours, theirs, strict=True, allow_set_relation_comp=True, timeout_seconds=None)
    return bool(same) and _equal_at_points(ours, theirs)


def _parse(text: str) -> Any:
    """A sympy object, with exact decimals and the imaginary unit; None if the library cannot read the text, or if its
    value could be too large to compute. Parsing evaluates nothing but what UNBOUNDED and EAGER hold back."""
    if UNBOUNDED.search(text) or (EAGER.search(text) and re.search(r"[0-9]{4}|[\^!]", text)):
        return None
    parsed = parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)
    if not parsed or isinstance(parsed[0], str) or _digits(parsed[0]) > DIGIT_LIMIT:
        return None
    exact = {value: sympy.Rational(str(value)) for value in parsed[0].atoms(sympy.Float)}
    imaginary = {symbol: sympy.I for symbol in parsed[0].free_symbols if symbol.name == "i"}
    return parsed[0].xreplace(exact | imaginary)


def _digits(node: Any) -> float:
    """An upper bound on the decimal digits of any number that computing the expression can bring about."""
    if isinstance(node, sympy.MatrixBase):
        return max(map(_digits, node), default=0.0)
    if isinstance(node, sympy.Rational):
        return max(math.log10(abs(node.p) + 1), math.log10(node.q))
    if isinstance(node, sympy.Float):
        return abs(math.log10(abs(float(node)) + 1e-300))
    parts = [_digits(part) for part in node.args] or [1.0]
    if max(parts) > DIGIT_LIMIT:
        return math.inf
    if isinstance(node, sympy.Pow | sympy.exp):
        base, exponent = parts if isinstance(node, sympy.Pow) else [1.0, *parts]
        return math.inf if exponent > 9 else max(base, 1.0) * 10**exponent
    if isinstance(node, sympy.factorial | sympy.gamma | sympy.factorial2):
        return math.inf if parts[0] > 3 else 3 * 10 ** parts[0]
    return sum(parts) if isinstance(node, sympy.Mul) else max(parts) + math.log10(len(parts))


def _equal_at_points(ours: Any, theirs: Any) -> bool:
    """Whether two expressions agree to 40 digits wherever symbols are given values; what is no expression passes."""
    if isinstance(ours, sympy.MatrixBase) and isinstance(theirs, sympy.MatrixBase):
        return ours.shape == theirs.shape and all(map(_equal_at_points, ours, theirs))
    if not (isinstance(ours, sympy.Expr) and isinstance(theirs, sympy.Expr)):
        return True
    symbols = sorted(ours.free_symbols | theirs.free_symbols, key=str)
    defined = 0
    for point in POINTS if symbols else POINTS[:1]:
        values = {symbol: point + sympy.Rational(index, 7) for index, symbol in enumerate(symbols)}
        left, right = (side.subs(values).doit() for side in (ours, theirs))
        if left.is_Rational and right.is_Rational:
            same = left == right
        else:
            left, right = (sympy.N(side, 50) for side in (left, right))
            if not (left.is_number and right.is_number and left.is_finite and right.is_finite):
                continue
            same = bool(abs(left - right) <= sympy.Float("1e-40", 50) * max(abs(left), abs(right)))
        if not same:
            return False
        defined += 1
    return defined > 0
