"""Exact numbers: integers, decimals, fractions, mixed, scientific and repeating ones, and numbers in words.

Everything here takes time linear in the text and never evaluates it.
"""

import re
from fractions import Fraction

from rewards.mathematics.text import bare

INTEGER = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9])|[0-9]+)"
DECIMAL = rf"(?:{INTEGER}(?:\.[0-9]*)?|\.[0-9]+)"
SIGNED = rf"[+-]? ?{DECIMAL}"
PLAIN = re.compile(r"[+-]?[0-9]{1,4000}")
SCIENTIFIC = re.compile(
    rf"({SIGNED})(?:[eE]([+-]?[0-9]{{1,4}})(?![0-9])"
    rf"| ?(?:\\times|\\cdot|\*) ?10 ?(?:\^|\*\*) ?\{{? ?([+-]?[0-9]{{1,4}}) ?\}}?(?![0-9]))?"
)
QUOTIENT = re.compile(rf"({SIGNED}) ?/ ?({SIGNED})")
FRACTION = re.compile(rf"([+-]?) ?\\frac ?\{{ ?({SIGNED}) ?\}} ?\{{ ?({SIGNED}) ?\}}")
MIXED = re.compile(
    rf"([+-]?) ?({INTEGER})(?: +({INTEGER}) ?/ ?({INTEGER})| ?\\frac ?\{{ ?({INTEGER}) ?\}} ?\{{ ?({INTEGER}) ?\}})"
)
POWER = re.compile(r"([+-]?)([0-9]{1,20}) ?\^ ?\{? ?([+-]?[0-9]{1,3}) ?\}?")
REPEATING = re.compile(r"([+-]?)([0-9]*)\.([0-9]{0,50}) ?\\(?:overline|bar|dot) ?\{? ?([0-9]{1,50}) ?\}?")
DECIMAL_COMMA = re.compile(r"([+-]?)([0-9]+),([0-9]+)")

UNITS_IN_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen"""
TENS_IN_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
PARTS_IN_WORDS = "third fourth fifth sixth seventh eighth ninth tenth"
COUNTS = {word: value for value, word in enumerate(UNITS_IN_WORDS.split())}
COUNTS |= {word: 10 * value for value, word in enumerate(TENS_IN_WORDS.split(), 2)}
SCALES = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
PARTS = {word: value for value, word in enumerate(PARTS_IN_WORDS.split(), 3)}
PARTS |= {"half": 2, "quarter": 4}


def number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction, mixed number, scientific number, repeating decimal or small
    power; None for anything else."""
    if PLAIN.fullmatch(text):
        return Fraction(int(text))
    if match := SCIENTIFIC.fullmatch(text):
        exponent = int(match[2] or match[3] or 0)
        return _decimal(match[1]) * Fraction(10) ** exponent if abs(exponent) <= 5_000 else None
    if mixed := MIXED.fullmatch(text):
        whole, above, below = (_decimal(mixed[i] or mixed[j]) for i, j in ((2, 2), (3, 5), (4, 6)))
        return _signed(mixed[1], whole + above / below) if above < below else None
    if match := QUOTIENT.fullmatch(text):
        return _divide(_decimal(match[1]), _decimal(match[2]))
    if match := FRACTION.fullmatch(text):
        value = _divide(_decimal(match[2]), _decimal(match[3]))
        return value if value is None else _signed(match[1], value)
    if match := POWER.fullmatch(text):
        base, exponent = int(match[2]), int(match[3])
        return None if base == 0 and exponent <= 0 else _signed(match[1], Fraction(base) ** exponent)
    if match := REPEATING.fullmatch(text):
        first, again = match[3], match[4]
        tail = Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(first))
        return _signed(match[1], Fraction(int((match[2] or "0") + first), 10 ** len(first)) + tail)
    return None


def decimal_comma(text: str) -> Fraction | None:
    """The value of `1000,99` or `0,5`, where the comma can hardly separate two items."""
    match = DECIMAL_COMMA.fullmatch(text)
    if match is None or not (match[2] == "0" or len(match[3]) > 1):
        return None
    return _signed(match[1], _decimal(f"{match[2]}.{match[3]}"))


def in_words(text: str) -> Fraction | None:
    """The value of a number written in English words, below a thousand billions."""
    words = re.split(r"[ -]+", bare(text).lower())
    if len(words) > 12:
        return None
    part = PARTS.get(words[-1]) or PARTS.get(words[-1].removesuffix("s")) or (2 if words[-1] == "halves" else None)
    if part and len(words) > 1:
        above = _count(words[:-1])
        return None if above is None else Fraction(above, part)
    total = _count(words)
    return None if total is None else Fraction(total)


def _count(words: list[str]) -> int | None:
    total, current, scale = 0, -1, 10**15
    for place, word in enumerate(words):
        if word == "and" and 0 < place < len(words) - 1 and words[place - 1] in SCALES:
            continue
        if word in COUNTS:
            value = COUNTS[word]
            if current >= 0 and (current % (100 if value > 9 else 10) or (value < 10 and current % 100 == 10)):
                return None
            current = max(current, 0) + value
        elif word == "hundred" and current < 100:
            current = 100 * max(current, 1)
        elif SCALES.get(word, scale) < scale and word != "hundred":
            scale = SCALES[word]
            total, current = total + scale * max(current, 1), -1
        else:
            return None
    return total + max(current, 0) if words else None


def _decimal(text: str) -> Fraction:
    digits = text.replace(",", "").replace(" ", "")
    return Fraction(digits + "0" if digits.endswith(".") else digits)


def _divide(above: Fraction, below: Fraction) -> Fraction | None:
    return above / below if below else None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
