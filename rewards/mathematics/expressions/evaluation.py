"""Evaluate expression trees: exactly by rational arithmetic, or approximately to a given number of digits.

The size of each operation is checked before the operation, and TooLarge is raised above the limits. Each thread has its
own mpmath context, so the precision set in one thread does not affect another.
"""

import math
import threading
import zlib
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import mpmath

from rewards.mathematics.expressions.parser import TRIGONOMETRIC, Node

NO_VALUES: Mapping[str, Fraction] = {}
BIT_LIMIT = 16_000
"""Largest number of bits of an exact number, and largest binary exponent of an approximate one."""
FACTORIAL_LIMIT = 1_000
"""Largest n of which n! is computed. A binomial coefficient C(n, k) of integers allows 2 * FACTORIAL_LIMIT."""
GAMMA_DIGITS_LIMIT = 250
"""Largest precision, in decimal digits, for factorials of non-integers: twice the digits take eight times as long."""
ANGLE_BIT_LIMIT = 64
"""Largest binary exponent of an angle: reducing an angle modulo 2*pi takes as many extra digits as it has itself."""


class TooLarge(Exception):
    """The computation would exceed a limit on its size."""


class Undefined(Exception):
    """The expression has no finite value at this point."""


class PrecisionContexts(threading.local):
    """One mpmath context for each thread."""

    def __init__(self) -> None:
        self.context: Any = mpmath.MPContext()


CONTEXTS = PrecisionContexts()


Domain = Literal["complex", "gold", "common"]


class Convention:
    """How to interpret notation that has two meanings.

    Args:
        decimal_log: `log` without a base has base 10 instead of e.
        real_roots: an odd root of a negative number is real, `(-8)^{1/3} = -2`, instead of the principal complex root.
        domain: "complex": a logarithm or an even root of a negative number is complex. Else it is undefined, and two
            expressions are compared where the gold is defined ("gold"), or where both are ("common").
    """

    def __init__(self, decimal_log: bool = False, real_roots: bool = True, domain: Domain = "complex") -> None:
        self.decimal_log = decimal_log
        self.real_roots = real_roots
        self.domain = domain


def exact(node: Node, values: Mapping[str, Fraction] = NO_VALUES) -> Fraction | None:
    """Return the rational value of a tree, or None if rational arithmetic cannot compute it, as for `\\sqrt{2}`.

    Args:
        values: the values of symbols. A tree with another symbol has no value.
    Raises: TooLarge above a limit; Undefined where there is no value, as for `1/0`.
    """
    kind = node[0]
    if kind == "num":
        return _bounded(node[1])
    if kind == "sym":
        return values.get(node[1])
    if kind == "neg":
        value = exact(node[1], values)
        return None if value is None else -value
    if kind in ("add", "mul"):
        return _exact_total(kind, node[1], values)
    if kind in ("div", "pow"):
        left, right = exact(node[1], values), exact(node[2], values)
        if left is None or right is None:
            return None
        if kind == "pow":
            return _exact_power(left, right)
        if right == 0:
            raise Undefined
        return _bounded(left / right)
    if kind == "call":
        arguments = [exact(argument, values) for argument in node[2]]
        known = [argument for argument in arguments if argument is not None]
        return _exact_call(node[1], known) if len(known) == len(arguments) else None
    return None


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > 2 * BIT_LIMIT:
        raise TooLarge
    return value


def _exact_total(kind: str, nodes: list[Node], values: Mapping[str, Fraction]) -> Fraction | None:
    total = Fraction(0 if kind == "add" else 1)
    for node in nodes:
        value = exact(node, values)
        if value is None:
            return None
        total = _bounded(total + value if kind == "add" else total * value)
    return total


def _exact_power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    if base == 0 and exponent <= 0:
        raise Undefined
    if abs(base) in (0, 1):
        return base if exponent % 2 else abs(base)
    if max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent) > BIT_LIMIT:
        raise TooLarge
    return base ** int(exponent)


def _exact_call(name: str, values: list[Fraction]) -> Fraction | None:
    if name in ("floor", "ceiling", "abs", "max", "min"):
        if name in ("max", "min"):
            return (max if name == "max" else min)(values)
        return {"floor": Fraction(math.floor(values[0])), "ceiling": Fraction(math.ceil(values[0]))}.get(
            name, abs(values[0])
        )
    if name not in ("factorial", "double factorial", "binomial", "gcd", "lcm") or any(
        value.denominator != 1 for value in values
    ):
        return None
    whole = [int(value) for value in values]
    if name == "factorial" and whole[0] >= 0:
        if whole[0] > FACTORIAL_LIMIT:
            raise TooLarge
        return Fraction(math.factorial(whole[0]))
    if name == "double factorial" and whole[0] >= 0:
        if whole[0] > FACTORIAL_LIMIT:
            raise TooLarge
        return Fraction(math.prod(range(whole[0], 0, -2)))
    if name == "binomial" and min(whole) >= 0:
        if whole[0] > 2 * FACTORIAL_LIMIT:
            raise TooLarge
        return Fraction(math.comb(*whole))
    if name in ("gcd", "lcm"):
        return _bounded(Fraction((math.gcd if name == "gcd" else math.lcm)(*whole)))
    raise Undefined


def approximate(node: Node, values: dict[str, Fraction], digits: int, convention: Convention) -> tuple[Any, int]:
    """Evaluate a tree to `digits` decimal digits with the given values of its symbols.

    Returns: the value, and its range: the largest number of decimal digits before the decimal point, or of zeros after
        it, of any intermediate value. For intermediate values v it is `max |log10 |v||`, rounded up.
    Raises: TooLarge above a limit; Undefined where there is no finite value.
    """
    evaluator = _Evaluator(values, digits, convention)
    try:
        value = evaluator.value(node)
    except (ArithmeticError, ValueError, TypeError, mpmath.mp.NoConvergence):
        raise Undefined from None  # a pole, or a function outside its domain
    return value, int(evaluator.largest_magnitude * 0.302) + 1  # log10(2) is just below 0.302


class _Evaluator:
    """One evaluation of a tree, which also records the largest binary exponent of its intermediate values."""

    def __init__(self, values: dict[str, Fraction], digits: int, convention: Convention) -> None:
        self.context = CONTEXTS.context
        self.context.dps = digits
        self.values = values
        self.convention = convention
        self.largest_magnitude = 0
        self.in_trigonometric = False

    def value(self, node: Node) -> Any:
        result = self.compute(node)
        if result:
            if not self.context.isfinite(result):
                raise Undefined
            magnitude = abs(self.context.mag(result))
            if magnitude > BIT_LIMIT:
                raise TooLarge
            self.largest_magnitude = max(self.largest_magnitude, magnitude)
        return result

    def compute(self, node: Node) -> Any:
        kind, context = node[0], self.context
        if kind == "num":
            return self.rational(node[1])
        if kind == "sym":
            return self.rational(self.values[node[1]])
        if kind == "const":
            if node[1] == "infinity":
                raise Undefined
            return {"pi": context.pi, "e": context.e, "i": context.j}[node[1]] * 1
        if kind == "neg":
            return -self.value(node[1])
        if kind == "add":
            return context.fsum(self.value(part) for part in node[1])
        if kind == "mul":
            return self.value(node[1][0]) * self.value(node[1][1])
        if kind == "div":
            return self.value(node[1]) / self.value(node[2])
        if kind == "pow":
            return self.power(self.value(node[1]), node[2])
        if kind == "root":
            return self.power(self.value(node[1]), ("div", ("num", Fraction(1)), node[2]))
        if kind == "degrees":
            return self.value(node[1]) * (context.pi / 180 if self.in_trigonometric else 1)
        if kind == "opaque":
            return self.opaque(node[1], [self.value(part) for part in node[2]])
        if kind != "call":  # a sum, integral, derivative or limit
            raise Undefined
        return self.call(node[1], node[2])

    def rational(self, value: Fraction) -> Any:
        return self.context.mpf(value.numerator) / value.denominator

    def power(self, base: Any, exponent: Node) -> Any:
        fraction = exact(exponent)
        power = self.value(exponent) if fraction is None else self.rational(fraction)
        if not base:
            if self.context.re(power) <= 0:
                raise Undefined
            return base
        if abs(power) > BIT_LIMIT or (abs(self.context.mag(base)) + 1) * abs(power) > 2 * BIT_LIMIT:
            raise TooLarge
        if fraction is not None and fraction.denominator == 1:
            return base ** int(fraction)
        odd = fraction is not None and fraction.denominator % 2 == 1
        if odd and self.convention.real_roots and self.context.im(base) == 0 and self.context.re(base) < 0:
            assert fraction is not None
            root = self.context.power(-base, power)
            return -root if fraction.numerator % 2 else root
        if not odd and self.is_outside(base):
            raise Undefined
        return self.context.power(base, power)

    def is_outside(self, value: Any) -> bool:
        """Return whether a value is negative, and the convention defines no logarithm or even root of it."""
        return self.convention.domain != "complex" and bool(self.context.im(value) == 0 and self.context.re(value) < 0)

    def opaque(self, name: str, arguments: list[Any]) -> Any:
        """Evaluate an unknown function such as `f(x, y)` as a fixed smooth function that is chosen by its name.

        So `f(2x)` equals `f(x+x)`, and differs from `f(x)` and from `g(2x)`.
        """
        seed = zlib.crc32(name.encode()) % 997 + 3
        terms = [argument * (1 + self.context.mpf(seed) / (13 + 7 * index)) for index, argument in enumerate(arguments)]
        if any(self.context.mag(term) > ANGLE_BIT_LIMIT for term in terms):
            raise TooLarge
        return self.context.cos(self.context.fsum(terms) + seed)

    def call(self, name: str, arguments: list[Node]) -> Any:
        context = self.context
        outer_in_trigonometric, self.in_trigonometric = self.in_trigonometric, name in TRIGONOMETRIC
        values = [self.value(argument) for argument in arguments]
        self.in_trigonometric = outer_in_trigonometric
        first = values[0]
        if name in ("log", "ln", "lg"):
            base_ten = name == "lg" or (name == "log" and self.convention.decimal_log)
            base = values[1] if len(values) > 1 else context.mpf(10) if base_ten else context.e
            if self.is_outside(first):
                raise Undefined
            return context.ln(first) / context.ln(base)
        if name in ("exp", "sinh", "cosh", "tanh") and abs(first) > BIT_LIMIT / 2:
            raise TooLarge
        if name in TRIGONOMETRIC and first and context.mag(first) > ANGLE_BIT_LIMIT:
            raise TooLarge
        if name in ("factorial", "binomial"):
            gamma_too_slow = context.dps > GAMMA_DIGITS_LIMIT and not all(map(context.isint, values))
            if gamma_too_slow or any(abs(value) > FACTORIAL_LIMIT for value in values):
                raise TooLarge
            return context.factorial(first) if name == "factorial" else context.binomial(*values)
        if name in ("max", "min", "floor", "ceiling") and any(context.im(value) for value in values):
            raise Undefined
        if name in ("max", "min"):
            return (max if name == "max" else min)(values)
        if name in ("gcd", "lcm", "double factorial"):
            raise Undefined
        if name in ("floor", "ceiling"):
            return self.step(name, arguments[0], first)
        return abs(first) if name == "abs" else getattr(context, name)(first)

    def step(self, name: str, argument: Node, value: Any) -> Any:
        """Return floor or ceiling of an argument: of its exact value if it has one, else of `value`.

        A value that differs from an integer by rounding only is that integer.
        """
        exactly = exact(argument, self.values)
        if exactly is not None:
            return self.context.mpf(math.floor(exactly) if name == "floor" else math.ceil(exactly))
        nearest = self.context.nint(value)
        if abs(value - nearest) < self.context.mpf(10) ** -(self.context.dps * 3 // 4):
            return nearest
        return self.context.floor(value) if name == "floor" else self.context.ceil(value)
