"""A quantity: an exact number with a unit of measure, or with the things counted, and when two quantities are equal."""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from rewards.mathematics.quantities.units import Unit

ANY_UNIT = "unit"
TEMPERATURES = {"celsius", "fahrenheit", "kelvin"}


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact number, whether it is in percent, and its unit or the things counted."""

    value: Fraction
    percent: bool = False
    names: frozenset[str] = frozenset()
    """Names of the units, and stems of the nouns."""
    size: Fraction = Fraction(1)
    """Size of the unit in base units."""
    dimensions: frozenset[tuple[str, int]] = frozenset()
    """Base units of the unit, with their exponents."""
    symbols: bool = False
    """The unit is single letters of plain text, which in a gold are symbols: `2 m` is a product."""
    compound: bool = False
    """It has several numbers, as `5 feet 3 inches`, and so never equals a number without a unit."""

    def equals(self, other: "Quantity") -> bool:
        """Return whether the two are equal: 1 km is 1000 m, and 5 cm is 5, which is 5 m.

        A number without a unit equals one with any unit. A percentage equals a number without unit that is its value or
        its value / 100: 50% equals 50 and 0.5.
        """
        if self.percent != other.percent:
            plain, percent = (other, self) if self.percent else (self, other)
            return not plain.names and plain.value in (percent.value, percent.value / 100)
        if self.dimensions and self.dimensions == other.dimensions:
            return self.value * self.size == other.value * other.size
        return self.value == other.value and not (self.compound or other.compound) and self.has_unit_of(other)

    def has_unit_of(self, other: "Quantity") -> bool:
        """Return whether one of the two units contains the other, without conversion. No unit is part of every unit."""
        if ANY_UNIT in self.names | other.names:
            return True
        if self.dimensions == other.dimensions and self.size != other.size:
            return False
        nested = self.dimensions <= other.dimensions or other.dimensions <= self.dimensions
        return nested and (self.names <= other.names or other.names <= self.names)


def unit_of(exponents: list[tuple[Unit, int]], names: set[str]) -> Quantity:
    """Return the product of units with their exponents as a quantity of value 1; "degrees Celsius" is one unit."""
    if names & TEMPERATURES:
        names = names - {"degree"}
        exponents = [(unit, exponent) for unit, exponent in exponents if unit.name != "degree"]
    size, dimensions = Fraction(1), Counter[str]()
    for unit, exponent in exponents:
        size *= unit.size**exponent
        for base, base_exponent in unit.dimensions:
            dimensions[base] += base_exponent * exponent
    return Quantity(
        Fraction(1),
        names=frozenset(names),
        size=size,
        dimensions=frozenset((base, exponent) for base, exponent in dimensions.items() if exponent),
    )
