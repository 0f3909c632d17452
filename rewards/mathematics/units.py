"""Parse quantities: an exact number with a unit from a fixed list, or with a noun that says what is counted.

The units of two quantities must agree; a number without a unit equals a number with one. A word after a number that
could change its value (`million`), or express a doubt or a choice (`perhaps`, `or`), is neither a unit nor a noun.
Every function takes time linear in the length of its text, and none evaluates the text.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rewards.mathematics.numerals import (
    FRACTION,
    MIXED,
    NUMBER_WORDS,
    QUOTIENT,
    SCIENTIFIC,
    number_from_words,
    parse_number,
)
from rewards.mathematics.text import unwrap_text

UNITS = {
    name: unit
    for unit, names in {
        "millimetre": "mm millimeter millimetre",
        "centimetre": "cm centimeter centimetre",
        "metre": "m meter metre",
        "kilometre": "km kilometer kilometre",
        "inch": "in inch inches",
        "foot": "ft foot feet",
        "yard": "yd yard",
        "mile": "mi mile",
        "milligram": "mg milligram",
        "gram": "g gram",
        "kilogram": "kg kilogram kilo",
        "pound": "lb pound",
        "ounce": "oz ounce",
        "ton": "ton tonne",
        "millilitre": "ml mL milliliter millilitre",
        "litre": "L liter litre",
        "gallon": "gal gallon",
        "second": "s sec second",
        "minute": "min minute",
        "hour": "h hr hour",
        "day": "day",
        "week": "week wk",
        "month": "month",
        "year": "year yr",
        "degree": "degree deg",
        "radian": "radian rad",
        "dollar": "dollar usd buck",
        "cent": "cent",
        "euro": "euro eur",
        "yuan": "yuan rmb",
        "rupee": "rupee rs",
        "newton": "N newton",
        "joule": "J joule",
        "kelvin": "K kelvin",
        "celsius": "C celsius",
        "fahrenheit": "F fahrenheit",
        "watt": "W watt",
        "volt": "V volt",
        "ampere": "A ampere amp",
        "hertz": "Hz hertz",
        "mole": "mol mole",
        "point": "point pt",
    }.items()
    for name in names.split()
}
COMPOUND_UNITS = {"mph": {"mile", "hour"}, "kph": {"kilometre", "hour"}, "kmh": {"kilometre", "hour"}}
PERCENT = {"%", "percent", "percentage", "pct"}
UNIT_SIGNS = {"€": "euro", "£": "poundsterling", "¥": "yuan", "₹": "rupee", r"\circ": "degree"}
ANY_UNIT = "unit"
UNIT_WORDS_LIMIT = 6
KNOWN_UNITS = {*UNITS.values(), ANY_UNIT}
CONNECTING_WORDS = {"square", "cubic", "sq", "cu", "per", "of", "each", "total", "in", "altogether", "a"}
# After a number, these words change its value or express a doubt or a choice, so they are neither units nor nouns.
NOT_UNIT_WORDS = """or and not any other either neither nor maybe perhaps possibly probably about approximately
approx around roughly nearly almost more less greater fewer bigger smaller larger at least most up to than but if
then else except plus minus times divided over under above below is are was were isn be all every some none no
never always wrong false true incorrect correct think guess hope something anything whatever number numbers value
values answer answers squared cubed factorial mod modulo base negative positive remainder inclusive dozen half
double triple twice thrice hundred thousand million billion trillion infinity infinite pi sqrt sin cos tan log exp
sum product both between through versus instead also alternatively otherwise depending unless whichever unknown
undefined yes the this that it as with without where when which who i we you"""
NOT_UNITS = set(NOT_UNIT_WORDS.split()) | set(NUMBER_WORDS)
# A word, a sign such as `%`, a separator, or a power such as `^2`.
UNIT_TOKEN = re.compile(r"([A-Za-z]+)\.?|((?:\^ ?)?\\circ|[%€£¥₹])|([/ .])|(\^ ?\{?-?[0-9]\}?|-|\\cdot)")
# A unit in text commands at the end: `\text{cm}^2`.
TEXT_UNIT_END = re.compile(r"(?:\\(?:text[a-z]*|math[a-z]+|mbox) ?\{[^{}]*\} ?/? ?(?:\^ ?\{?[0-9]\}?)?)+$")
# A unit in plain words at the end, after a space: ` miles per hour`.
PLAIN_UNIT_END = re.compile(r" (?:[A-Za-z]+\.?[ /]){0,3}[A-Za-z]+(?: ?\^ ?\{?[23]\}?)?$")
UNIT_LETTER = re.compile(" [mgsLh]")
METRE_POWER = re.compile(r"m ?\^ ?\{?[23]\}?")
"""UNIT_LETTER and METRE_POWER: single letters that are a unit instead of a symbol, as in `5 m` and `5m^2`."""
TEXT_COMMAND = re.compile(r"\\(?:text|math|mbox|operatorname)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact number, whether it is in percent, and the names of its units or of the things counted."""

    value: Fraction
    percent: bool = False
    units: frozenset[str] = frozenset()

    def equals(self, other: "Quantity") -> bool:
        """Return whether the values are equal and one set of units contains the other.

        A percentage equals a number without unit that is its value or its value / 100: 50% equals 50 and 0.5.
        """
        if self.percent != other.percent:
            plain, percent = (other, self) if self.percent else (self, other)
            return not plain.units and plain.value in (percent.value, percent.value / 100)
        if self.value != other.value:
            return False
        own_units, other_units = self.units, other.units
        return ANY_UNIT in own_units | other_units or own_units <= other_units or other_units <= own_units


@lru_cache(maxsize=1024)
def parse_quantity(text: str) -> Quantity | None:
    """Parse a number with an optional unit or noun; None for any other text.

    Examples: `"5 cm"` -> `Quantity(5, units={"centimetre"})`; `"3 apples"` -> `Quantity(3, units={"appl"})`, since a
    final "s" and "e" are removed from a noun; `"50%"` -> `Quantity(50, percent=True)`.
    """
    head = text.strip("€£¥₹ ") if not text[:1].isdigit() else text
    value = parse_number(head)
    if value is None and head[:1] == "-" and head[1:2] in "€£¥₹":
        value = parse_number("-" + head[2:])
    if value is None and (head[:1].isalpha() or head.startswith(r"\text")):
        value = number_from_words(head)
    if value is not None:
        return Quantity(value)
    for pattern in (MIXED, QUOTIENT, FRACTION, SCIENTIFIC):
        match = pattern.match(head)
        if match and match.end() < len(head):
            value, units = parse_number(match[0].strip()), _parse_units(head[match.end() :])
            if value is not None and units is not None:
                return Quantity(value, bool(units & PERCENT), units - PERCENT)
    return None


def _parse_units(text: str) -> frozenset[str] | None:
    """Return the standard names of the units and nouns in a text, or None if a word or sign can mean anything else."""
    in_text_command = TEXT_COMMAND.search(text) is not None
    touches_number = not in_text_command and text[:1].isalpha()
    letters_are_units = (
        in_text_command or UNIT_LETTER.fullmatch(text) is not None or METRE_POWER.fullmatch(text) is not None
    )
    text, found, position, words = unwrap_text(text).strip(), set[str](), 0, 0
    while position < len(text):
        token = UNIT_TOKEN.match(text, position)
        # A power belongs to a unit here: a power without a unit before it would be one of the number.
        if token is None or (token[4] and not words):
            return None
        position = token.end()
        if token[2]:
            sign = token[2].lstrip("^ ")
            found.add(UNIT_SIGNS.get(sign, sign))
        elif token[1]:
            words += 1
            names = _parse_unit_word(
                token[1], letters_are_units, after_unit=bool(found), is_last_word=not text[position:].strip()
            )
            if words == 1 and touches_number and names and not names <= KNOWN_UNITS | {"percent"}:
                return None
            if names is None or words > UNIT_WORDS_LIMIT:
                return None
            found |= names
    if len(found & (PERCENT | {"degree"})) > 1 or text.count("%") > 1 or not (found or words):
        return None
    return frozenset(found)


def _parse_unit_word(word: str, letters_are_units: bool, after_unit: bool, is_last_word: bool) -> set[str] | None:
    """Return the names that one word adds: of a unit, of a noun, or none for "per"; None if it is no such word.

    Args:
        letters_are_units: single letters are units in this context, as in a text command.
        after_unit: an earlier word was a unit, so "squared" and "cubed" belong to it.
        is_last_word: "in" is the unit inch here; elsewhere it is a preposition.
    """
    lower = word.lower()
    singular = lower[:-1] if lower.endswith("s") and len(lower) > 2 else lower
    if lower in PERCENT:
        return {"percent"}
    if lower in COMPOUND_UNITS:
        return COMPOUND_UNITS[lower]
    if (
        lower in CONNECTING_WORDS and (letters_are_units or len(lower) > 1) and not (lower == "in" and is_last_word)
    ) or (lower in ("squared", "cubed") and after_unit):
        return set()
    unit = UNITS.get(word) or (None if len(word) == 1 else UNITS.get(lower) or UNITS.get(singular))
    if unit:
        return {unit} if letters_are_units or len(word) > 1 else None
    if singular == ANY_UNIT:
        return {ANY_UNIT}
    # Two letters are more likely a product of symbols, so a noun has at least three.
    if lower in NOT_UNITS or not 2 < len(word) < 20:
        return None
    return {singular.removesuffix("e")}


def split_unit(text: str) -> tuple[str, frozenset[str]]:
    """Split an expression from the unit at its end: a text command, or a unit of the fixed list after a space.

    Returns: the expression, and the names of its units; none if there is no unit.
    Example: `"2x \\text{cm}"` -> `"2x", {"centimetre"}`.
    """
    in_text_command = TEXT_UNIT_END.search(text)
    found = in_text_command or PLAIN_UNIT_END.search(text)
    if found is None or not text[: found.start()].strip():
        return text, frozenset()
    units = _parse_units(found[0])
    if units is None or not (in_text_command or units <= KNOWN_UNITS):
        return text, frozenset()
    return text[: found.start()].strip(), units
