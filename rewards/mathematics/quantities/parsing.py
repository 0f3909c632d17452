"""Parse quantities: an exact number with a unit of measure, or with a noun that says what is counted.

Units and nouns are closed lists (`units.py`, `counted.py`); only the gold, which is trusted, may have other nouns, and
then the answer may have the same. A word that multiplies the number is read (`2.5 million`, `2 thirds`), and any other
word makes the text no quantity. Every function takes time linear in the length of its text, and none evaluates it.
"""

import re
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from rewards.mathematics.numerals import (
    DECIMAL,
    FRACTION,
    MIXED,
    QUOTIENT,
    REPEATING,
    SCIENTIFIC,
    multiplier,
    number_from_words,
    parse_number,
)
from rewards.mathematics.quantities.counted import stem
from rewards.mathematics.quantities.quantity import ANY_UNIT, Quantity, unit_of
from rewards.mathematics.quantities.unit_reader import POWERS, POWERS_AFTER, mark_upright, parse_units
from rewards.mathematics.quantities.units import SIGNS, SYMBOL_PRODUCTS, UNITS, Unit, find_unit
from rewards.mathematics.text import WRAPPED_TEXT, unwrap_text

# `-$5`, `$-5`, `€5`: groups are the sign, the currency, the number.
WITH_CURRENCY = re.compile(r"([+-]?) ?([$€£¥₹]) ?([^ ].*)", re.DOTALL)
# A unit in text commands at the end: `\text{cm}^2`.
TEXT_UNIT_END = re.compile(r"(?:\\(?:text[a-z]*|math[a-z]+|mbox) ?\{[^{}]*\} ?/? ?(?:\^ ?\{?[0-9]\}?)?)+$")
# A unit in plain words at the end, after a space: ` miles per hour`.
PLAIN_UNIT_END = re.compile(r" (?:[A-Za-z]+\.?[ /]){0,3}[A-Za-z]{2,}(?: ?\^ ?\{?[23]\}?)?$")
# ` 30 minutes`: the parts of a compound quantity behind its first number.
COMPOUND_PART = re.compile(rf" ?({DECIMAL}) ?([A-Za-z]+)\.?(?:,? and|,)?(?= |$)")
COMPOUND_LIMIT = 4
# "how many clips", "48 hair clips"
COUNTED = re.compile(r"(?:how (?:many|much)|number of|\b[0-9]{1,12}) ((?:[A-Za-z]{2,20} ?){1,2})", re.IGNORECASE)


@lru_cache(maxsize=1024)
def parse_quantity(text: str, nouns: frozenset[str] | None = frozenset()) -> Quantity | None:
    """Parse a number with an optional unit or noun; None for any other text.

    Args:
        nouns: stems of nouns that are allowed besides the closed list. None, for a gold: every noun is.
    Examples: `"5 cm"` -> value 5, size 1/100, dimensions {("metre", 1)}; `"3 apples"` -> value 3, names {"apple"};
    `"50%"` -> value 50, percent.
    """
    whole = WRAPPED_TEXT.fullmatch(text)
    sign, currency, head = "", "", whole[1].strip() if whole else text
    if found := WITH_CURRENCY.fullmatch(head):
        sign, currency, head = found.groups()
    quantity = _parse_quantity(head, nouns)
    if quantity is None or (sign and head[0] in "+-"):
        return None
    if sign == "-":
        quantity = replace(quantity, value=-quantity.value)
    return _with_currency(quantity, currency) if currency else quantity


def _with_currency(quantity: Quantity, sign: str) -> Quantity | None:
    """Return the quantity with the currency of a sign before it; None if it has another currency or is in percent."""
    unit = UNITS[SIGNS[sign]]
    if unit.name in quantity.names:
        return quantity
    if quantity.percent or quantity.compound or quantity.names & {UNITS[other].name for other in SIGNS.values()}:
        return None
    dimensions = frozenset({*quantity.dimensions, *unit.dimensions})
    return replace(quantity, names=quantity.names | {unit.name}, dimensions=dimensions)


def _parse_quantity(text: str, nouns: frozenset[str] | None) -> Quantity | None:
    value = parse_number(text)
    if value is None and (text[:1].isalpha() or text.startswith(r"\text")):
        value = number_from_words(text)
    if value is not None:
        return Quantity(value)
    for pattern in (MIXED, QUOTIENT, FRACTION, REPEATING, SCIENTIFIC):
        match = pattern.match(text)
        value = parse_number(match[0].strip()) if match and match.end() < len(text) else None
        if match and value is not None:
            tail = mark_upright(text[match.end() :])
            factor, tail = multiplier(tail)
            quantity = parse_units(tail, nouns) if tail.strip() else Quantity(Fraction(1))
            if quantity is not None:
                return replace(quantity, value=value * factor)
    return _parse_compound(unwrap_text(text))


def _parse_compound(text: str) -> Quantity | None:
    """Return the sum of a compound quantity such as `2 hours 30 minutes`, in its first unit.

    Its units are of one kind, and each part is smaller than one unit of the part before it.
    """
    parts: list[tuple[Fraction, Unit]] = []
    position = 0
    while position < len(text) and len(parts) < COMPOUND_LIMIT:
        found = COMPOUND_PART.match(text, position)
        value = parse_number(found[1]) if found else None
        unit = find_unit(found[2]) if found else None
        if found is None or value is None or unit is None:
            return None
        if parts and (unit.dimensions != parts[-1][1].dimensions or value * unit.size >= parts[-1][1].size):
            return None
        parts.append((value, unit))
        position = found.end()
    if position < len(text) or len(parts) < 2:
        return None
    first = parts[0][1]
    total = sum((value * unit.size for value, unit in parts), Fraction(0))
    unit_quantity = unit_of([(first, 1)], {first.name})
    return replace(unit_quantity, value=total / first.size, compound=True)


def split_unit(text: str, nouns: frozenset[str] | None = frozenset()) -> tuple[str, Quantity]:
    """Split an expression from the unit at its end: a text command, or a unit of the table after a space.

    Behind an expression with symbols the unit is a full word: `x mg` is a product.
    Returns: the expression, and the unit as a quantity of value 1, which has no names if there is none.
    Example: `"2x \\text{cm}"` -> `"2x"` and a quantity of dimensions {("metre", 1)}.
    """
    none = Quantity(Fraction(1))
    if text[:1] == "$":
        return text[1:].strip(), _with_currency(none, "$") or none
    in_text_command = TEXT_UNIT_END.search(text)
    found = in_text_command or PLAIN_UNIT_END.search(text)
    if found is None or not text[: found.start()].strip():
        return text, none
    expression = text[: found.start()].strip()
    unit = parse_units(mark_upright(found[0]), nouns)
    if unit is None or (not in_text_command and not _is_plain_unit(found[0], expression)):
        return text, none
    return expression, unit


def _is_plain_unit(text: str, expression: str) -> bool:
    """Return whether every word of a text is a unit of the table that cannot be a product of symbols."""
    has_symbols = re.search("[A-Za-df-z]", re.sub(r"\\[A-Za-z]+", "", expression)) is not None
    shortest = 4 if has_symbols else 2
    words = re.findall("[A-Za-z]+", text)
    return all(
        word.lower() in {*POWERS, *POWERS_AFTER, "per"}
        or stem(word) == ANY_UNIT
        or (len(word) >= shortest and word not in SYMBOL_PRODUCTS and find_unit(word) is not None)
        for word in words
    )


@lru_cache(maxsize=256)
def counted_things(question: str) -> frozenset[str]:
    """Return the stems of the nouns that a question counts: the words behind "how many" and behind numbers."""
    return frozenset(stem(word) for found in COUNTED.finditer(question) for word in found[1].split())
