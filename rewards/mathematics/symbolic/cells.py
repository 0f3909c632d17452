"""Compute trees in one cell: a region of the symbols' values in which no absolute value or root changes its formula.

In a cell every factor of their arguments has one sign. So |f| is f or -f, and the root of a product is the product of
the roots of the factors' absolute values.
"""

from fractions import Fraction
from typing import Any

from rewards.mathematics.expressions.evaluation import Convention, exact
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.trees import LOGARITHMS
from rewards.mathematics.symbolic.limits import Undecided
from rewards.mathematics.symbolic.symbols import Names, library, rational, to_sympy

Signs = dict[Any, int]
"""The sign of each factor in a cell."""
FACTOR_BITS = 64
"""Bits of the largest constant that is factored."""


class NeedsSign(Exception):
    """A factor has no sign in this cell yet."""

    def __init__(self, factor: Any) -> None:
        super().__init__()
        self.factor = factor


class OutsideDomain(Exception):
    """A logarithm or an even root of a negative number, in trees of real values."""


class Cell:
    """The value of trees in one cell, as sympy expressions without pieces.

    Args:
        signs: of the factors.
        degree: common multiple of the degrees of all roots. The symbol `root` of a factor f has the value
            |f|^(1/degree).
    """

    def __init__(self, signs: Signs, names: Names, roots: Names, degree: int, convention: Convention) -> None:
        self.signs, self.names, self.roots = signs, names, roots
        self.degree, self.convention = degree, convention
        self.sympy = library()

    def value(self, node: Node) -> Any:
        """Return a tree as an expression. Raises: NeedsSign, OutsideDomain, Undecided."""
        kind = node[0]
        if kind in ("num", "sym", "const"):
            return to_sympy(node, self.names)
        if kind == "neg":
            return -self.value(node[1])
        if kind in ("add", "mul"):
            return (self.sympy.Add if kind == "add" else self.sympy.Mul)(*map(self.value, node[1]))
        if kind == "div":
            return self.value(node[1]) / self.value(node[2])
        if kind == "root":
            degree = exact(node[2])
            if degree is None or degree.denominator != 1 or degree < 2:
                raise Undecided
            return self.power(self.value(node[1]), 1 / degree)
        if kind == "pow":
            exponent = exact(node[2])
            if exponent is None:
                return self.value(node[1]) ** self.value(node[2])
            return self.power(self.value(node[1]), exponent)
        if kind == "call":
            return self.call(node[1], [self.value(part) for part in node[2]])
        raise Undecided

    def call(self, name: str, arguments: list[Any]) -> Any:
        first = arguments[0]
        if name == "abs":
            return self.sign(first) * first
        if name in ("max", "min"):
            for other in arguments[1:]:
                larger = first if self.sign(first - other) > 0 else other
                first = larger if name == "max" else first + other - larger
            return first
        if name in LOGARITHMS:
            ten = name == "lg" or (name == "log" and self.convention.decimal_log)
            if len(arguments) > 1:
                return self.logarithm(first) / self.logarithm(arguments[1])
            return self.logarithm(first) / (self.logarithm(self.sympy.Integer(10)) if ten else 1)
        if name == "ceiling":
            return -self.sympy.floor(-first)
        return to_sympy(
            ("call", name, [("sym", str(index)) for index in range(len(arguments))]),
            {str(index): argument for index, argument in enumerate(arguments)},
        )

    def power(self, base: Any, exponent: Fraction) -> Any:
        """Return the power with a rational exponent, as the evaluation of trees defines it."""
        if exponent.denominator == 1:
            return base ** int(exponent)
        sign, size = 1, self.sympy.Integer(1)
        constant, factors = self.factors(base)
        for factor, multiplicity in factors:
            sign *= self.sign_of_factor(factor) ** multiplicity
            size *= self.size(factor) ** rational(exponent * multiplicity)
        if not constant.is_positive:
            sign, constant = -sign, -constant
        size *= constant ** rational(exponent)
        if sign > 0:
            return size
        if exponent.denominator % 2 and self.convention.real_roots:
            return -size if exponent.numerator % 2 else size
        if self.convention.domain != "complex" and exponent.denominator % 2 == 0:
            raise OutsideDomain
        return self.sympy.Integer(-1) ** rational(exponent) * size

    def logarithm(self, argument: Any) -> Any:
        """Return the natural logarithm as a sum of those of the factors."""
        sign, total = 1, self.sympy.Integer(0)
        constant, factors = self.factors(argument)
        for factor, multiplicity in factors:
            sign *= self.sign_of_factor(factor) ** multiplicity
            total += multiplicity * self.log_of_size(factor)
        if not constant.is_positive:
            sign, constant = -sign, -constant
        if sign < 0 and self.convention.domain != "complex":
            raise OutsideDomain
        if constant.is_Rational and max(constant.p.bit_length(), constant.q.bit_length()) <= FACTOR_BITS:
            primes = self.sympy.factorint(constant.p), self.sympy.factorint(constant.q)
            for signed, found in zip((1, -1), primes, strict=True):
                total += sum(signed * count * self.sympy.log(prime) for prime, count in found.items())
        else:
            total += self.sympy.log(constant)
        return total if sign > 0 else total + self.sympy.I * self.sympy.pi

    def factors(self, expression: Any) -> tuple[Any, list[tuple[Any, int]]]:
        """Return the constant and the irreducible factors of an expression, with negative powers of denominators."""
        if not expression.free_symbols:
            if not (expression.is_positive or expression.is_negative):
                raise Undecided
            return expression, []
        if expression.has(self.sympy.I):
            raise Undecided
        if expression.has(self.sympy.sin, self.sympy.cos):
            expression = self.sympy.trigsimp(expression)
        above, below = self.sympy.fraction(self.sympy.together(expression))
        constants, found = [], []
        for part, signed in ((self.reduced(above), 1), (self.reduced(below), -1)):
            if part == 0:
                raise Undecided
            constant, factors = self.sympy.factor_list(part)
            constants.append(constant**signed)
            found += [(factor, signed * multiplicity) for factor, multiplicity in factors]
        constant = constants[0] * constants[1]
        for factor, multiplicity in [pair for pair in found if not pair[0].free_symbols]:
            constant *= factor**multiplicity
        if not (constant.is_positive or constant.is_negative):
            raise Undecided
        return constant, [pair for pair in found if pair[0].free_symbols]

    def sign(self, expression: Any) -> int:
        """Return the sign of an expression in this cell. On the boundary of the cell it does not matter."""
        if self.reduced(expression) == 0:
            return 1
        constant, factors = self.factors(expression)
        sign = 1 if constant.is_positive else -1
        for factor, multiplicity in factors:
            sign *= self.sign_of_factor(factor) ** multiplicity
        return sign

    def sign_of_factor(self, factor: Any) -> int:
        if factor.is_nonnegative or factor.is_nonpositive:
            return 1 if factor.is_nonnegative else -1
        if factor.free_symbols & set(self.roots.values()):
            raise Undecided
        if factor not in self.signs:
            raise NeedsSign(factor)
        return self.signs[factor]

    def size(self, factor: Any) -> Any:
        """Return the absolute value of a factor as a power of its root."""
        return factor if factor in self.roots.values() else self.root(factor) ** self.degree

    def log_of_size(self, factor: Any) -> Any:
        if factor in self.roots.values():
            return self.sympy.log(factor)
        return self.degree * self.sympy.log(self.root(factor))

    def root(self, factor: Any) -> Any:
        if factor.free_symbols & set(self.roots.values()):  # the root of an expression with a root
            raise Undecided
        return self.roots.setdefault(factor, self.sympy.Dummy(f"r{len(self.roots)}", positive=True))

    def reduced(self, expression: Any) -> Any:
        """Return an expression expanded, with each power of a root below `degree`."""
        expression = self.sympy.expand(expression)
        for factor, root in self.roots.items():
            if expression.has(root):
                value = self.sign_of_factor(factor) * factor
                expression = self.sympy.expand(
                    expression.replace(
                        lambda part, root=root: part.is_Pow and part.base == root and part.exp.is_Integer,
                        lambda part, value=value: (
                            value ** (int(part.exp) // self.degree) * part.base ** (int(part.exp) % self.degree)
                        ),
                    )
                )
        return expression

    def is_zero(self, expression: Any) -> bool:
        """Return whether an expression is 0 in the cell. False if that is not shown."""
        above, _ = self.sympy.fraction(self.sympy.together(self.reduced(expression)))
        above = self.reduced(above)
        if above != 0 and above.has(self.sympy.sin, self.sympy.cos):
            above = self.sympy.trigsimp(above)
        return bool(above == 0)
