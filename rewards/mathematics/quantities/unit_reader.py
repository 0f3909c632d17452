"""Read the units and nouns behind a number. Units and nouns are closed lists; every other word makes the text none."""

import re
from dataclasses import replace

from rewards.mathematics.numerals import NUMBER_WORDS
from rewards.mathematics.quantities.counted import JOINING_WORDS, NOUNS, PLURALS, REMARKS, stem
from rewards.mathematics.quantities.quantity import ANY_UNIT, Quantity, unit_of
from rewards.mathematics.quantities.units import SIGNS, UNITS, Unit, find_unit
from rewards.mathematics.text import WRAPPED_TEXT

PERCENT = {"%", "percent", "percentage", "pct"}
UNIT_WORDS_LIMIT = 6
POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
SIGN_WORDS = {"positive", "negative"}
"""Words that may stand before a noun: "5 positive integers"."""
ORDERS, TUPLES = {"ordered", "unordered"}, {"pair", "triple", "triplet", "quadruple"}
"""Words that only together say what is counted: "5 ordered pairs" are 5, and 5 pairs are 10."""
POWERS_AFTER = {"squared": 2, "cubed": 3}
# Words that no noun of a gold can be: they change the number, or express a doubt or a choice.
NOT_NOUN_WORDS = """or and not any other either neither nor maybe perhaps possibly probably about approximately
approx around roughly nearly almost more less greater fewer bigger smaller larger at least most up to than but if
then else except plus minus times divided over under above below is are was were isn be all every some none no
never always wrong false true incorrect correct think guess hope something anything whatever number value
answer answers squared cubed factorial mod modulo base negative positive remainder inclusive dozen half
double triple twice thrice hundred thousand million billion trillion infinity infinite pi sqrt sin cos tan log exp
sum product both between through versus instead also alternatively otherwise depending unless whichever unknown
undefined yes the this that it as with without where when which who i we you off repeating recurring negated doubled
tripled halved inverse reciprocal conjugate transposed binary octal hexadecimal ternary decimal permille basis gross
score grand mil mils unlikely tentatively fails failed fail root power"""
NOT_NOUNS = set(NOT_NOUN_WORDS.split()) | set(NUMBER_WORDS)
# A word, a sign such as `%`, a separator, or a power such as `^2`. A letter in upright text has a mark before it.
UNIT_TOKEN = re.compile(
    r"(`?[A-Za-z]+)\.?|((?:\^ ?)?\\circ|\\Omega|[%$€£¥₹¢])|([/ .])|(\^ ?\{? ?-?[0-9] ?\}?|-|\\cdot)"
)
LONE_LETTER = re.compile(r"(?<![A-Za-z])([A-Za-z])(?![A-Za-z])")
# Single letters of plain text that are a unit behind a number: `5 m`, `5m^2`, `12 km/h`.
UNIT_LETTERS = re.compile(r" [mgsLh]| ?m ?\^ ?\{?[23]\}?| k?m ?/ ?[sh](?: ?\^ ?\{?2\}?)?| [gJNW] ?/ ?[A-Za-z]{1,3}")


def mark_upright(text: str) -> str:
    """Remove text commands, and put a mark before each single letter in them: `\\text{m}` -> `` `m``."""
    for _ in range(3):
        text, before = WRAPPED_TEXT.sub(lambda found: " " + LONE_LETTER.sub(r"`\1", found[1]) + " ", text), text
        if text == before:
            break
    return text


def parse_units(text: str, nouns: frozenset[str] | None) -> Quantity | None:
    """Return the units and nouns in a text as a quantity of value 1, or None if a word can mean anything else."""
    bare_letters = UNIT_LETTERS.fullmatch(text) is not None
    touches_number = text[:1].isalpha()
    text = " ".join(text.split())
    reader = _UnitReader(nouns, bare_letters)
    position = 0
    while position < len(text):
        token = UNIT_TOKEN.match(text, position)
        if token is None or reader.words >= UNIT_WORDS_LIMIT:
            return None
        position = token.end()
        if not reader.read(token, is_last=not text[position:].strip()):
            return None
        if touches_number and reader.words == 1 and not (reader.exponents or reader.percents):
            return None
    if reader.power != 1 or reader.percents > 1 or (reader.percents and "degree" in reader.names) or not reader.words:
        return None
    symbols = bare_letters and not re.search("km|m ?/ ?s", text)
    return replace(unit_of(reader.exponents, reader.names), percent=bool(reader.percents), symbols=symbols)


class _UnitReader:
    """Reads the tokens of a unit from left to right. "per" and "/" invert all units behind them."""

    def __init__(self, nouns: frozenset[str] | None, bare_letters: bool) -> None:
        self.nouns = nouns
        self.bare_letters = bare_letters
        self.names = set[str]()
        self.exponents: list[tuple[Unit, int]] = []
        self.sign = self.power = 1
        self.words = self.percents = 0
        self.after_unit = False
        self.before = ""

    def read(self, token: re.Match[str], is_last: bool) -> bool:
        """Read one token and return whether it can belong to a unit."""
        letters, sign, separator, power = token.groups()
        lower = (letters or "").lower()
        before, self.before = self.before, lower or self.before
        if separator or power in ("-", r"\cdot"):
            if power and not self.words:
                return False
            self.sign = -1 if separator == "/" else self.sign
        elif power or lower in POWERS_AFTER:
            return self.raise_last(POWERS_AFTER.get(lower) or int(re.sub(r"[^0-9-]", "", power)))
        elif lower in PERCENT or sign == "%":
            self.percents += 1
            self.words += 1
        elif lower in POWERS:
            self.power = POWERS[lower]
        elif before not in SIGN_WORDS and self.is_remark(lower, is_last):
            self.sign = -1 if lower in ("per", "a", "an") else self.sign
            self.words += 1
        elif (lower in SIGN_WORDS and not is_last) or (stem(lower) in TUPLES and before in ORDERS):
            self.names.add(stem(lower))
            self.words += 1
        else:
            return self.add(letters or "", sign)
        return True

    def raise_last(self, power: int) -> bool:
        """Raise the unit before to a power. Without a unit before it, it would be a power of the number."""
        if not self.after_unit:
            return False
        unit, exponent = self.exponents.pop()
        self.exponents.append((unit, exponent * power))
        self.after_unit = False
        return True

    def is_remark(self, word: str, is_last: bool) -> bool:
        """Return whether a word only describes the number or joins two other words."""
        joins = word in JOINING_WORDS and not is_last and (bool(self.names) or word in ("in", "of"))
        return word in REMARKS or joins

    def add(self, letters: str, sign: str | None) -> bool:
        """Add a unit or noun and return whether it is one."""
        word = letters.lstrip("`")
        is_upright = letters[:1] == "`" or (word in ("C", "F", "K") and "degree" in self.names)
        if sign:
            unit: Unit | None = UNITS["ohm" if sign == r"\Omega" else SIGNS.get(sign, "degree")]
        else:
            unit = find_unit(word) if len(word) > 1 or is_upright or self.bare_letters else None
        name = unit.name if unit else _noun(word, self.nouns)
        if name is None:
            return False
        self.names.add(name)
        if unit:
            self.exponents.append((unit, self.sign * self.power))
        self.words += 1
        self.power, self.after_unit = 1, unit is not None
        return True


def _noun(word: str, nouns: frozenset[str] | None) -> str | None:
    """Return the stem of a word that says what is counted, or None if it may not stand after a number."""
    lower = word.lower()
    if stem(word) == ANY_UNIT:
        return ANY_UNIT
    # Two letters are more likely a product of symbols, so a noun has at least three.
    if not 2 < len(word) < 20 or (lower in NOT_NOUNS and lower not in PLURALS):
        return None
    known = stem(word) in NOUNS or lower in PLURALS or nouns is None or stem(word) in nouns
    return stem(word) if known else None
