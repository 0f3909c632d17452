"""Quantities: an exact number and what it counts, from a closed list of units or plain nouns.

Units are ignored against a bare number and have to agree with each other; words that could make another number, a doubt
or a choice of what they follow are no nouns. Everything here takes time linear in the text and never evaluates it.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rewards.mathematics.numerals import COUNTS, FRACTION, MIXED, QUOTIENT, SCIENTIFIC, in_words, number
from rewards.mathematics.text import bare

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
COMPOUND = {"mph": {"mile", "hour"}, "kph": {"kilometre", "hour"}, "kmh": {"kilometre", "hour"}}
PERCENT = {"%", "percent", "percentage", "pct"}
SIGNS = {"€": "euro", "£": "poundsterling", "¥": "yuan", "₹": "rupee", r"\circ": "degree"}
ANY_UNIT = "unit"
WORD_LIMIT = 6
KNOWN_UNITS = {*UNITS.values(), ANY_UNIT}
CONNECTING = {"square", "cubic", "sq", "cu", "per", "of", "each", "total", "in", "altogether", "a"}
# After a number these make it another number, a doubt or a choice, so what follows it is no plain noun.
TELLING_WORDS = """or and not any other either neither nor maybe perhaps possibly probably about approximately
approx around roughly nearly almost more less greater fewer bigger smaller larger at least most up to than but if
then else except plus minus times divided over under above below is are was were isn be all every some none no
never always wrong false true incorrect correct think guess hope something anything whatever number numbers value
values answer answers squared cubed factorial mod modulo base negative positive remainder inclusive dozen half
double triple twice thrice hundred thousand million billion trillion infinity infinite pi sqrt sin cos tan log exp
sum product both between through versus instead also alternatively otherwise depending unless whichever unknown
undefined yes the this that it as with without where when which who i we you"""
TELLING = set(TELLING_WORDS.split()) | set(COUNTS)
UNIT_TOKEN = re.compile(r"([A-Za-z]+)\.?|((?:\^ ?)?\\circ|[%€£¥₹])|([/ .])|(\^ ?\{?-?[0-9]\}?|-|\\cdot)")
UPRIGHT_END = re.compile(r"(?:\\(?:text[a-z]*|math[a-z]+|mbox) ?\{[^{}]*\} ?/? ?(?:\^ ?\{?[0-9]\}?)?)+$")
KNOWN_END = re.compile(r" (?:[A-Za-z]+\.?[ /]){0,3}[A-Za-z]+(?: ?\^ ?\{?[23]\}?)?$")
SHORT = re.compile(" [mgsLh]")
AREA = re.compile(r"m ?\^ ?\{?[23]\}?")
"""Single letters that are a unit rather than a symbol: after a space and alone, or a square or cubic metre."""
LETTERS_OF_TEXT = re.compile(r"\\(?:text|math|mbox|operatorname)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact number, whether it is percent, and the units or nouns it counts."""

    value: Fraction
    percent: bool = False
    units: frozenset[str] = frozenset()

    def equals(self, other: "Quantity") -> bool:
        """Same value in units that do not contradict; 50% is 50 of the unit percent, and it is also 0.5."""
        if self.percent != other.percent:
            plain, percent = (other, self) if self.percent else (self, other)
            return not plain.units and plain.value in (percent.value, percent.value / 100)
        if self.value != other.value:
            return False
        ours, theirs = self.units, other.units
        return ANY_UNIT in ours | theirs or ours <= theirs or theirs <= ours


@lru_cache(maxsize=1024)
def quantity(text: str) -> Quantity | None:
    """The number in front of an optional unit or plain noun; None for anything else."""
    head = text.strip("€£¥₹ ") if not text[:1].isdigit() else text
    value = number(head)
    if value is None and head[:1] == "-" and head[1:2] in "€£¥₹":
        value = number("-" + head[2:])
    if value is None and (head[:1].isalpha() or head.startswith(r"\text")):
        value = in_words(head)
    if value is not None:
        return Quantity(value)
    for pattern in (MIXED, QUOTIENT, FRACTION, SCIENTIFIC):
        match = pattern.match(head)
        if match and match.end() < len(head):
            value, units = number(match[0].strip()), _units(head[match.end() :])
            if value is not None and units is not None:
                return Quantity(value, bool(units & PERCENT), units - PERCENT)
    return None


def _units(text: str) -> frozenset[str] | None:
    """Canonical names of units and nouns; None where a word could mean anything else."""
    upright = LETTERS_OF_TEXT.search(text) is not None
    attached = not upright and text[:1].isalpha()
    clear = upright or SHORT.fullmatch(text) is not None or AREA.fullmatch(text) is not None
    text, found, place, words = bare(text).strip(), set[str](), 0, 0
    while place < len(text):
        token = UNIT_TOKEN.match(text, place)
        if token is None or (token[4] and not words):  # a power is one of a unit, never of the number
            return None
        place = token.end()
        if token[2]:
            sign = token[2].lstrip("^ ")
            found.add(SIGNS.get(sign, sign))
        elif token[1]:
            words += 1
            names = _unit(token[1], clear, before=bool(found), last=not text[place:].strip())
            if words == 1 and attached and names and not names <= KNOWN_UNITS | {"percent"}:
                return None
            if names is None or words > WORD_LIMIT:
                return None
            found |= names
    if len(found & (PERCENT | {"degree"})) > 1 or text.count("%") > 1 or not (found or words):
        return None
    return frozenset(found)


def _unit(word: str, clear: bool, before: bool, last: bool) -> set[str] | None:
    """What one word adds: a unit, a noun, or nothing; None if it is neither."""
    lower = word.lower()
    stem = lower[:-1] if lower.endswith("s") and len(lower) > 2 else lower
    if lower in PERCENT:
        return {"percent"}
    if lower in COMPOUND:
        return COMPOUND[lower]
    if (lower in CONNECTING and (clear or len(lower) > 1) and not (lower == "in" and last)) or (
        lower in ("squared", "cubed") and before
    ):
        return set()
    unit = UNITS.get(word) or (None if len(word) == 1 else UNITS.get(lower) or UNITS.get(stem))
    if unit:
        return {unit} if clear or len(word) > 1 else None
    if stem == ANY_UNIT:
        return {ANY_UNIT}
    # Between letters of a formula a short run is a product; a noun has three letters.
    if lower in TELLING or not 2 < len(word) < 20:
        return None
    return {stem.removesuffix("e")}


def without_unit(text: str) -> tuple[str, frozenset[str]]:
    """An expression without the unit behind it, and that unit: upright words, or known units after a space."""
    upright = UPRIGHT_END.search(text)
    found = upright or KNOWN_END.search(text)
    if found is None or not text[: found.start()].strip():
        return text, frozenset()
    units = _units(found[0])
    if units is None or not (upright or units <= KNOWN_UNITS):
        return text, frozenset()
    return text[: found.start()].strip(), units
