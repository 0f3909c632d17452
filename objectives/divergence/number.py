"""A real number with the methods of a tensor, so that a description computes with a divergence without torch."""

import math
from collections.abc import Callable
from typing import Any


def _number(operation: Callable[[float, float], float]) -> Any:
    """Return an operator of two numbers whose result is a Number."""
    return lambda left, right: Number(operation(float(left), float(right)))


class Number(float):
    """A float with the operators and methods of a tensor that `f_divergences.py` uses."""

    __add__ = __radd__ = _number(lambda a, b: a + b)
    __sub__ = _number(lambda a, b: a - b)
    __rsub__ = _number(lambda a, b: b - a)
    __mul__ = __rmul__ = _number(lambda a, b: a * b)
    __truediv__ = _number(lambda a, b: a / b)
    __rtruediv__ = _number(lambda a, b: b / a)

    def __neg__(self) -> "Number":
        return Number(-float(self))

    def abs(self) -> "Number":
        return Number(abs(float(self)))

    def sign(self) -> "Number":
        return Number(math.copysign(1.0, self) if self else 0.0)

    def square(self) -> "Number":
        return self * self

    def exp(self) -> "Number":
        return Number(math.exp(self))

    def expm1(self) -> "Number":
        return Number(math.expm1(self))

    def log1p(self) -> "Number":
        return Number(math.log1p(self))

    def clamp(self, low: float, high: float) -> "Number":
        return Number(min(max(float(self), low), high))

    def detach(self) -> "Number":
        return self
