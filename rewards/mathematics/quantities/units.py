"""Table of the units of measure and currencies that may follow a number, with their size in base units.

Two quantities with equal dimensions compare by size: 1 km is 1000 m. Currencies have no exchange rate, and temperature
scales no conversion, so each is a base unit of its own, as are degree and radian.
"""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit of measure.

    `name` is its first full name, `size` its size in base units, `dimensions` the exponent of each base unit in it.
    """

    name: str
    size: Fraction
    dimensions: tuple[tuple[str, int], ...]


# One unit a line: size, base units with their exponents, then its name and other spellings. Case counts in
# abbreviations of up to three letters. Plurals in "s" are read without an entry.
TABLE = """
1/1000000000 metre     | nanometre nanometer nm
1/1000 metre           | millimetre millimeter mm
1/100 metre            | centimetre centimeter cm
1/10 metre             | decimetre decimeter dm
1 metre                | metre meter m
1000 metre             | kilometre kilometer km
254/10000 metre        | inch inches in
3048/10000 metre       | foot feet ft
9144/10000 metre       | yard yd
1609344/1000 metre     | mile mi
1852 metre             | nauticalmile
4046856/1000 metre^2   | acre
10000 metre^2          | hectare ha
1/1000000 kilogram     | milligram mg
1/1000 kilogram        | gram gramme g
1 kilogram             | kilogram kilo kg
45359237/100000000 kilogram   | pound lb
45359237/1600000000 kilogram  | ounce oz
1 ton                  | ton tonne
1/1000000 metre^3      | millilitre milliliter ml mL cc
1/100000 metre^3       | centilitre centiliter cl cL
1/1000 metre^3         | litre liter L
1 gallon               | gallon gal
1/4 gallon             | quart qt
1/8 gallon             | pint
1/16 gallon            | cup
1/256 gallon           | tablespoon tbsp
1/768 gallon           | teaspoon tsp
1/1000 second          | millisecond msec
1 second               | second sec s
60 second              | minute min
3600 second            | hour hr h
86400 second           | day
604800 second          | week wk
1 month                | month
12 month               | year yr
120 month              | decade
1200 month             | century centuries
1 degree               | degree deg
1 radian               | radian rad
1 celsius              | celsius C
1 fahrenheit           | fahrenheit F
1 kelvin               | kelvin K
1 kilogram metre second^-2    | newton N
1000 kilogram metre second^-2 | kilonewton kN
1 kilogram metre^2 second^-2  | joule J
1000 kilogram metre^2 second^-2    | kilojoule kJ
3600000 kilogram metre^2 second^-2 | kilowatthour kWh
1 kilogram metre^2 second^-3       | watt W
1000 kilogram metre^2 second^-3    | kilowatt kW
1 kilogram metre^-1 second^-2      | pascal Pa
1000 kilogram metre^-1 second^-2   | kilopascal kPa
1 second^-1            | hertz Hz
1000 second^-1         | kilohertz kHz
1000000 second^-1      | megahertz MHz
1 volt                 | volt V
1 ampere               | ampere amp A
1 ohm                  | ohm
1 coulomb              | coulomb
1 mole                 | mole mol
1 calorie              | calorie cal
1000 calorie           | kilocalorie kcal
1 byte                 | byte
1 megabyte             | megabyte MB
1 gigabyte             | gigabyte GB
1 decibel              | decibel dB
1609344/3600000 metre second^-1 | mph
1000/3600 metre second^-1       | kph kmh kmph
1 knot                 | knot
1 mile gallon^-1       | mpg
1 dollar               | dollar usd buck
1/100 dollar           | cent ¢
1 euro                 | euro eur
1 poundsterling        | poundsterling gbp
1 yuan                 | yuan rmb
1 yen                  | yen jpy
1 rupee                | rupee rs inr
1 peso                 | peso
1 franc                | franc
1 ruble                | ruble rouble
1 won                  | won
"""


def _read_table() -> dict[str, Unit]:
    found: dict[str, Unit] = {}
    for line in TABLE.strip().splitlines():
        definition, names = line.split("|")
        size, *bases = definition.split()
        powers = [base.partition("^") for base in bases]
        dimensions = tuple(sorted((base, int(exponent or 1)) for base, _, exponent in powers))
        unit = Unit(names.split()[0], Fraction(size), dimensions)
        found |= dict.fromkeys(names.split(), unit)
    return found


UNITS = _read_table()
"""Each unit by each of its names and abbreviations."""
SIGNS = {"$": "dollar", "€": "euro", "£": "poundsterling", "¥": "yuan", "₹": "rupee", "¢": "cent"}
"""Currency signs. The yen has the sign of the yuan, so `¥` is the one of the two that the other side has, or yuan."""
SYMBOL_PRODUCTS = {"mg", "cc", "cal", "ha", "ms"}
"""Abbreviations that after an expression are more likely a product of symbols, as in `\\mu mg`."""


def find_unit(word: str) -> Unit | None:
    """Return the unit that a word names, in the singular or plural, or None.

    Words of up to three letters must have the case of the table: `mL`, but not `ML`; longer ones may have any.
    """
    if word in UNITS:
        return UNITS[word]
    lower = word.lower()
    singular = lower[:-1] if lower.endswith("s") else lower
    if len(word) == 1 or (len(singular) <= 3 and singular not in word):
        return UNITS.get(lower) if lower in ("usd", "eur", "gbp", "rmb", "jpy", "inr", "rs", "min", "sec") else None
    return UNITS.get(lower) or (UNITS.get(singular) if len(singular) > 1 else None)
