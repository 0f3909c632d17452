"""Parse exact numbers: integers, decimals, fractions, mixed, scientific and repeating numbers, and English words.

Every value is a `Fraction`. Every function takes time linear in the length of its text, and none evaluates the text.
"""

import re
from fractions import Fraction

from rewards.mathematics.text import unwrap_text

# `1,000`, `1 000` or `1000`.
INTEGER = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9])|[1-9][0-9]{0,2}(?: [0-9]{3})+(?![0-9])|[0-9]+)"
DECIMAL = rf"(?:{INTEGER}(?:\.[0-9]*)?|\.[0-9]+)"
SIGNED = rf"[+-]? ?{DECIMAL}"
PLAIN_INTEGER = re.compile(r"[+-]?[0-9]{1,4000}")
# A decimal, optionally with a power of ten: `1.5`, `1e5`, `2 \times 10^{-3}`.
SCIENTIFIC = re.compile(
    rf"({SIGNED})(?:[eE]([+-]?[0-9]{{1,4}})(?![0-9])"
    rf"| ?(?:\\times|\\cdot|\*) ?10 ?(?:\^|\*\*) ?\{{? ?([+-]?[0-9]{{1,4}}) ?\}}?(?![0-9]))?"
)
# `3/4`, `-1.5/2`.
QUOTIENT = re.compile(rf"({SIGNED}) ?/ ?({SIGNED})")
# `\frac{3}{4}`.
FRACTION = re.compile(rf"([+-]?) ?\\frac ?\{{ ?({SIGNED}) ?\}} ?\{{ ?({SIGNED}) ?\}}")
# `1 3/4`, `1\frac{3}{4}`.
MIXED = re.compile(
    rf"([+-]?) ?({INTEGER})(?: +({INTEGER}) ?/ ?({INTEGER})| ?\\frac ?\{{ ?({INTEGER}) ?\}} ?\{{ ?({INTEGER}) ?\}})"
)
# `2^{10}`.
POWER = re.compile(r"([+-]?)([0-9]{1,20}) ?\^ ?\{? ?([+-]?[0-9]{1,3}) ?\}?")
# `0.1\overline{6}`.
REPEATING = re.compile(r"([+-]?)([0-9]*)\.([0-9]{0,50}) ?\\(?:overline|bar|dot) ?\{? ?([0-9]{1,50}) ?\}?")
# ` million`, ` thirds`: the word behind a number that may multiply it.
MULTIPLYING_WORD = re.compile(r"[ -]{0,3}`?([A-Za-z]+)(?![A-Za-z])")
DECIMAL_COMMA = re.compile(r"([+-]?)([0-9]+),([0-9]+)")

SMALL_NUMBER_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen"""
TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
FRACTION_WORD_LIST = "third fourth fifth sixth seventh eighth ninth tenth"
NUMBER_WORDS = {word: value for value, word in enumerate(SMALL_NUMBER_WORDS.split())}
NUMBER_WORDS |= {word: 10 * value for value, word in enumerate(TENS_WORDS.split(), 2)}
SCALE_WORDS = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
FRACTION_WORDS = {word: value for value, word in enumerate(FRACTION_WORD_LIST.split(), 3)}
FRACTION_WORDS |= {"half": 2, "quarter": 4}
SMALL_FRACTIONS = FRACTION_WORDS | {"hundredth": 100, "thousandth": 1_000, "millionth": 1_000_000}
"""Denominators of the words that name a fraction behind a number, in the singular."""
MULTIPLES = SCALE_WORDS | {"trillion": 10**12, "dozen": 12, "lakh": 100_000, "crore": 10_000_000}


def parse_number(text: str) -> Fraction | None:
    """Return the exact value of a number in digits, or None for any other text.

    Examples: `"1,000"` -> 1000; `"2.50"` -> 5/2; `"\\frac{1}{2}"` -> 1/2; `"1 3/4"` -> 7/4; `"2\\times10^{3}"` -> 2000;
    `"2^{10}"` -> 1024; `"0.\\overline{3}"` -> 1/3.
    """
    if PLAIN_INTEGER.fullmatch(text):
        return Fraction(int(text))
    if match := SCIENTIFIC.fullmatch(text):
        exponent = int(match[2] or match[3] or 0)
        return _decimal(match[1]) * Fraction(10) ** exponent if abs(exponent) <= 5_000 else None
    if mixed := MIXED.fullmatch(text):
        whole, numerator, denominator = (_decimal(mixed[i] or mixed[j]) for i, j in ((2, 2), (3, 5), (4, 6)))
        return _signed(mixed[1], whole + numerator / denominator) if numerator < denominator else None
    if match := QUOTIENT.fullmatch(text):
        return _divide(_decimal(match[1]), _decimal(match[2]))
    if match := FRACTION.fullmatch(text):
        value = _divide(_decimal(match[2]), _decimal(match[3]))
        return value if value is None else _signed(match[1], value)
    if match := POWER.fullmatch(text):
        base, exponent = int(match[2]), int(match[3])
        return None if base == 0 and exponent <= 0 else _signed(match[1], Fraction(base) ** exponent)
    if match := REPEATING.fullmatch(text):
        fixed, repeated = match[3], match[4]
        tail = Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(fixed))
        return _signed(match[1], Fraction(int((match[2] or "0") + fixed), 10 ** len(fixed)) + tail)
    return None


def multiplier(text: str) -> tuple[Fraction, str]:
    """Read the words at the start of a text that multiply the number before it, and return the rest of the text.

    Examples: `" million dollars"` -> 1000000, `" dollars"`; `" thirds"` -> 1/3, `""`; `" cm"` -> 1, `" cm"`.
    """
    factor = Fraction(1)
    for _ in range(2):  # "hundred thousand"
        found = MULTIPLYING_WORD.match(text)
        if found is None:
            break
        word = found[1].lower()
        singular = "half" if word == "halves" else word.removesuffix("s")
        if word in MULTIPLES:
            factor *= MULTIPLES[word]
        elif factor == 1 and singular in SMALL_FRACTIONS:
            return Fraction(1, SMALL_FRACTIONS[singular]), text[found.end() :]
        else:
            break
        text = text[found.end() :]
    return factor, text


def parse_decimal_comma(text: str) -> Fraction | None:
    """Return the value of a number with a decimal comma, such as `"1000,99"` or `"0,5"`.

    Returns None where the comma could separate two list items: `"3,5"`.
    """
    match = DECIMAL_COMMA.fullmatch(text)
    if match is None or not (match[2] == "0" or len(match[3]) > 1):
        return None
    return _signed(match[1], _decimal(f"{match[2]}.{match[3]}"))


def number_from_words(text: str) -> Fraction | None:
    """Return the value of a number in English words below 10^12, or None: `"three quarters"` -> 3/4."""
    words = re.split(r"[ -]+", unwrap_text(text).lower())
    if len(words) > 12:
        return None
    denominator = (
        FRACTION_WORDS.get(words[-1])
        or FRACTION_WORDS.get(words[-1].removesuffix("s"))
        or (2 if words[-1] == "halves" else None)
    )
    if denominator and len(words) > 1:
        numerator = _integer_from_words(words[:-1])
        return None if numerator is None else Fraction(numerator, denominator)
    total = _integer_from_words(words)
    return None if total is None else Fraction(total)


def _integer_from_words(words: list[str]) -> int | None:
    """Return the integer that words such as `["two", "thousand", "and", "five"]` name, or None."""
    # `group` is the value of the words since the last scale word, -1 while there is none.
    total, group, scale = 0, -1, 10**15
    for index, word in enumerate(words):
        if word == "and" and 0 < index < len(words) - 1 and words[index - 1] in SCALE_WORDS:
            continue
        if word in NUMBER_WORDS:
            value = NUMBER_WORDS[word]
            if group >= 0 and (group % (100 if value > 9 else 10) or (value < 10 and group % 100 == 10)):
                return None
            group = max(group, 0) + value
        elif word == "hundred" and group < 100:
            group = 100 * max(group, 1)
        elif SCALE_WORDS.get(word, scale) < scale and word != "hundred":
            scale = SCALE_WORDS[word]
            total, group = total + scale * max(group, 1), -1
        else:
            return None
    return total + max(group, 0) if words else None


def _decimal(text: str) -> Fraction:
    digits = text.replace(",", "").replace(" ", "")
    return Fraction(digits + "0" if digits.endswith(".") else digits)


def _divide(numerator: Fraction, denominator: Fraction) -> Fraction | None:
    return numerator / denominator if denominator else None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
