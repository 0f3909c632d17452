"""Values of expression trees: exact ones by rational arithmetic, others to any number of digits.

All work is bounded before it is done: what goes beyond raises TooLarge. Each thread has its own context of precision.
"""

import math
import threading
import zlib
from fractions import Fraction
from typing import Any

import mpmath

from rewards.mathematics.expression import TRIGONOMETRIC, Node

BIT_LIMIT = 16_000
"""Bits of an exact number, and of the exponent of an inexact one."""
FACTORIAL_LIMIT = 1_000
GAMMA_DIGITS = 250
"""Digits to which factorials between the integers are computed: twice as many take eight times as long."""
ANGLE_BITS = 64
"""Bits of an angle: reducing a larger one takes as many digits as it has."""


class TooLarge(Exception):
    """Computing it would take more than its share."""


class Undefined(Exception):
    """It has no finite value here."""


class Contexts(threading.local):
    """A context of precision for each thread."""

    def __init__(self) -> None:
        self.context: Any = mpmath.MPContext()


CONTEXTS = Contexts()


class Reading:
    """What is written alike but read in two ways: `log` without a base, and odd roots of negative numbers."""

    def __init__(self, decimal_log: bool = False, real_roots: bool = True) -> None:
        self.decimal_log = decimal_log
        self.real_roots = real_roots


def exact(node: Node) -> Fraction | None:
    """The rational value of a tree that rational arithmetic can compute, else None. Raises TooLarge, Undefined."""
    kind = node[0]
    if kind == "num":
        return _bounded(node[1])
    if kind == "neg":
        value = exact(node[1])
        return None if value is None else -value
    if kind in ("add", "mul"):
        return _exact_total(kind, node[1])
    if kind in ("div", "pow"):
        left, right = exact(node[1]), exact(node[2])
        if left is None or right is None:
            return None
        if kind == "pow":
            return _exact_power(left, right)
        if right == 0:
            raise Undefined
        return _bounded(left / right)
    if kind == "call":
        arguments = [exact(argument) for argument in node[2]]
        known = [argument for argument in arguments if argument is not None]
        return _exact_call(node[1], known) if len(known) == len(arguments) else None
    return None


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > 2 * BIT_LIMIT:
        raise TooLarge
    return value


def _exact_total(kind: str, nodes: list[Node]) -> Fraction | None:
    total = Fraction(0 if kind == "add" else 1)
    for node in nodes:
        value = exact(node)
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
    if name not in ("factorial", "binomial", "gcd", "lcm") or any(value.denominator != 1 for value in values):
        return None
    whole = [int(value) for value in values]
    if name == "factorial" and whole[0] >= 0:
        if whole[0] > FACTORIAL_LIMIT:
            raise TooLarge
        return Fraction(math.factorial(whole[0]))
    if name == "binomial" and min(whole) >= 0:
        if whole[0] > 2 * FACTORIAL_LIMIT:
            raise TooLarge
        return Fraction(math.comb(*whole))
    if name in ("gcd", "lcm"):
        return _bounded(Fraction((math.gcd if name == "gcd" else math.lcm)(*whole)))
    raise Undefined


def approximate(node: Node, values: dict[str, Fraction], digits: int, reading: Reading) -> tuple[Any, int]:
    """The value to so many digits where symbols have these values, and the range: the most decimal digits before or
    after the point that any number on the way took. Raises TooLarge, Undefined."""
    evaluator = _Evaluator(values, digits, reading)
    try:
        value = evaluator.value(node)
    except (ArithmeticError, ValueError, TypeError, mpmath.mp.NoConvergence):  # poles, and reals where there are none
        raise Undefined from None
    return value, int(evaluator.bits * 0.302) + 1


class _Evaluator:
    """One evaluation: where, how precisely, in which reading, and the widest range of a number met."""

    def __init__(self, values: dict[str, Fraction], digits: int, reading: Reading) -> None:
        self.context = CONTEXTS.context
        self.context.dps = digits
        self.values = values
        self.reading = reading
        self.bits = 0
        self.angle = False

    def value(self, node: Node) -> Any:
        result = self.compute(node)
        if result:
            if not self.context.isfinite(result):
                raise Undefined
            size = abs(self.context.mag(result))
            if size > BIT_LIMIT:
                raise TooLarge
            self.bits = max(self.bits, size)
        return result

    def compute(self, node: Node) -> Any:
        kind, context = node[0], self.context
        if kind == "num":
            return self.rational(node[1])
        if kind == "sym":
            return self.rational(self.values[node[1]])
        if kind == "const":
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
            return self.value(node[1]) * (context.pi / 180 if self.angle else 1)
        if kind == "opaque":
            return self.opaque(node[1], [self.value(part) for part in node[2]])
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
        if odd and self.reading.real_roots and self.context.im(base) == 0 and self.context.re(base) < 0:
            assert fraction is not None
            root = self.context.power(-base, power)
            return -root if fraction.numerator % 2 else root
        return self.context.power(base, power)

    def opaque(self, name: str, arguments: list[Any]) -> Any:
        """Some smooth function that belongs to the name alone."""
        seed = zlib.crc32(name.encode()) % 997 + 3
        terms = [argument * (1 + self.context.mpf(seed) / (13 + 7 * place)) for place, argument in enumerate(arguments)]
        if any(self.context.mag(term) > ANGLE_BITS for term in terms):
            raise TooLarge
        return self.context.cos(self.context.fsum(terms) + seed)

    def call(self, name: str, arguments: list[Node]) -> Any:
        context = self.context
        outer, self.angle = self.angle, name in TRIGONOMETRIC
        values = [self.value(argument) for argument in arguments]
        self.angle = outer
        first = values[0]
        if name in ("log", "ln", "lg"):
            decimal = name == "lg" or (name == "log" and self.reading.decimal_log)
            base = values[1] if len(values) > 1 else context.mpf(10) if decimal else context.e
            return context.ln(first) / context.ln(base)
        if name in ("exp", "sinh", "cosh", "tanh") and abs(first) > BIT_LIMIT / 2:
            raise TooLarge
        if name in TRIGONOMETRIC and first and context.mag(first) > ANGLE_BITS:
            raise TooLarge
        if name in ("factorial", "binomial"):
            between = context.dps > GAMMA_DIGITS and not all(map(context.isint, values))
            if between or any(abs(value) > FACTORIAL_LIMIT for value in values):
                raise TooLarge
            return context.factorial(first) if name == "factorial" else context.binomial(*values)
        if name in ("max", "min", "floor", "ceiling") and any(context.im(value) for value in values):
            raise Undefined
        if name in ("max", "min"):
            return (max if name == "max" else min)(values)
        if name in ("gcd", "lcm"):
            raise Undefined
        function = {"abs": abs, "floor": context.floor, "ceiling": context.ceil}.get(name)
        return function(first) if function else getattr(context, name)(first)
