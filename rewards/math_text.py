"""Text of mathematical answers: bringing it to one spelling, and reading exact numbers and their units.

Everything here takes time linear in the text and never evaluates it.
"""

import re
from fractions import Fraction

FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
LOOKALIKES: dict[int, int | str] = {
    **FULL_WIDTH,
    **{ord(c): "-" for c in "−–‐‑"},
    **{ord(c): " " for c in "\u00a0\u2009\u202f\u3000~"},
    ord("×"): r"\times ",
    ord("·"): r"\cdot ",
    ord("⋅"): r"\cdot ",
    ord("÷"): "/",
    ord("∞"): r"\infty ",
    ord("π"): r"\pi ",
    ord("°"): r"^\circ ",
    ord("≤"): r"\leq ",
    ord("≥"): r"\geq ",
    ord("∪"): r"\cup ",
    ord("±"): r"\pm ",
    ord("∅"): r"\emptyset ",
    ord("½"): " 1/2",
    ord("¼"): " 1/4",
    ord("¾"): " 3/4",
    ord("⅓"): " 1/3",
    ord("⅔"): " 2/3",
}
SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
# Applied in order. `\\` (a new matrix row) and `\{` (a set) are kept.
REWRITES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"√\s*([0-9]+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"\\\$|\$", ""),
        (r"(?<!\\)\\[,!()\[\]]", ""),
        (r"(?<!\\)\\[;: ]|\\q?quad\b", " "),
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*([0-9])", r"\\frac{\1}"),
        (r"(\\frac\{[^{}]*\})\s*([0-9])", r"\1{\2}"),
        (r"\\sqrt\s*([0-9])", r"\\sqrt{\1}"),
        (r"\{,\}", ","),
        (r"\\%", "%"),
        (r"\\varnothing", r"\\emptyset"),
        (r"\^\{?\s*\\circ\s*\}?|\\degree\b", r"^\\circ "),
        (r"\s+", " "),
    ]
]
WRAPPED_TEXT = re.compile(r"\\(?:text(?:bf|it|rm|tt)?|mathrm|mathbf|mathit|mbox|operatorname)\s*\{([^{}]*)\}")
TRIGONOMETRIC_DEGREES = re.compile(r"([0-9.]+)\s*\^\\circ")

INTEGER = r"(?:[1-9][0-9]{0,2}(?:,[0-9]{3})+|[0-9]+)"
DECIMAL = rf"(?:{INTEGER}(?:\.[0-9]*)?|\.[0-9]+)"
SIGNED = rf"[+-]? ?{DECIMAL}"
SCIENTIFIC = re.compile(
    rf"({SIGNED})(?:[eE]([+-]?[0-9]{{1,4}})| ?(?:\\times|\\cdot|\*) ?10 ?\^ ?\{{?([+-]?[0-9]{{1,4}})\}}?)?"
)
QUOTIENT = re.compile(rf"({SIGNED}) ?/ ?({SIGNED})")
FRACTION = re.compile(rf"([+-]?) ?\\frac ?\{{ ?({SIGNED}) ?\}} ?\{{ ?({SIGNED}) ?\}}")
MIXED = re.compile(
    rf"([+-]?) ?({INTEGER})(?: +({INTEGER}) ?/ ?({INTEGER})| ?\\frac ?\{{ ?({INTEGER}) ?\}} ?\{{ ?({INTEGER}) ?\}})"
)
POWER = re.compile(r"([+-]?)([0-9]{1,20}) ?\^ ?\{?(-?[0-9]{1,3})\}?")
LEADING_NUMBER = re.compile(r"(.*[0-9.}])\s*((?:[A-Za-z%€£¥^]|\\circ|\\text|\\mathrm).*)", re.DOTALL)

UNIT_WORD = re.compile(
    "[cmknu]m|in|inch(?:es)?|ft|feet|foot|yd|yards?|mi|miles?|(?:centi|milli|kilo)?met(?:er|re)s?|[km]g|(?:kilo)?grams?"
    "|lbs?|pounds?|oz|ounces?|tons?|ml|lit(?:er|re)s?|gallons?|hours?|hrs?|minutes?|mins?|seconds?|secs?|days?|weeks?"
    "|months?|years?|degrees?|radians?|rad|units?|square|cubic|sq|cu|per|percent|mph|kph|dollars?|cents?|usd|eur|euros?"
    "|points?",
    re.IGNORECASE,
)
SHORT_UNIT = re.compile("[msghlLAVWJNKCF]|k?Hz")
"""Units that could be symbols: taken as units only when set in upright text."""


def normalise(text: str) -> str:
    """The text in one spelling: look-alike characters, spacing, brackets' sizes, fractions and emphasis made equal."""
    text = re.sub(r"[⁰¹²³⁴-⁹⁻]+", lambda run: "^{" + run[0].translate(SUPERSCRIPTS) + "}", text).translate(LOOKALIKES)
    for pattern, replacement in REWRITES:
        text = pattern.sub(replacement, text)
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        text = TRIGONOMETRIC_DEGREES.sub(r"(\1\\cdot \\pi/180)", text)
    return _unwrap(text)


def _unwrap(text: str) -> str:
    """Without emphasis, the full stop and braces around the whole."""
    while True:
        text, before = text.strip(), text
        if text.startswith("**") and text.endswith("**") and len(text) > 4:
            text = text[2:-2]
        elif (text.startswith("`") and text.endswith("`") and len(text) > 2) or (
            text.startswith("{") and text.endswith("}") and "{" not in text[1:] and "}" not in text[:-1]
        ):
            text = text[1:-1]
        elif text.endswith((".", ",", ";")):
            text = text[:-1]
        if text == before:
            return text


def bare(text: str) -> str:
    """Upright text as plain words."""
    return " ".join(WRAPPED_TEXT.sub(r" \1 ", text).split()) if "\\" in text else text


def canonical(text: str) -> str:
    """For comparing as strings: no spaces but between digits, no braces around single characters."""
    return re.sub(r"\{(\w)\}", r"\1", re.sub(r"(?<![0-9]) | (?![0-9])", "", bare(text)))


def number(text: str) -> Fraction | None:
    """The exact value of an integer, decimal, fraction, mixed number, scientific number or small power; None for
    anything else."""
    if match := SCIENTIFIC.fullmatch(text):
        exponent = int(match[2] or match[3] or 0)
        return _decimal(match[1]) * Fraction(10) ** exponent
    if match := QUOTIENT.fullmatch(text):
        return _divide(_decimal(match[1]), _decimal(match[2]))
    if match := FRACTION.fullmatch(text):
        value = _divide(_decimal(match[2]), _decimal(match[3]))
        return value if value is None else _signed(match[1], value)
    if match := MIXED.fullmatch(text):
        whole, above, below = (_decimal(match[i] or match[j]) for i, j in ((2, 2), (3, 5), (4, 6)))
        return _signed(match[1], whole + above / below) if above < below else None
    if match := POWER.fullmatch(text):
        base, exponent = int(match[2]), int(match[3])
        return None if base == 0 and exponent <= 0 else _signed(match[1], Fraction(base) ** exponent)
    return None


def quantity(text: str) -> tuple[Fraction, bool] | None:
    """The number in front of an optional unit, and whether that unit is percent; None for anything else.

    Units come from a closed list: any other word after a number makes it something else.
    """
    text = text.strip("€£¥ ")
    value = number(text)
    if value is not None:
        return value, False
    match = LEADING_NUMBER.fullmatch(text)
    if match is None:
        return None
    head, unit = match[1].strip(), match[2]
    value = number(head)
    if value is None or not _is_unit(unit):
        return None
    return value, "%" in unit or "percent" in unit.lower()


def _is_unit(text: str) -> bool:
    outside = re.findall(r"[A-Za-z]+", WRAPPED_TEXT.sub(" ", text).replace(r"\circ", ""))
    upright = [word for part in WRAPPED_TEXT.findall(text) for word in re.findall(r"[A-Za-z]+", part)]
    if not all(UNIT_WORD.fullmatch(word) for word in outside):
        return False
    if not all(UNIT_WORD.fullmatch(word) or SHORT_UNIT.fullmatch(word) for word in upright):
        return False
    signs = re.findall(r"\\circ|[%€£¥]", text)
    rest = re.sub(r"\\circ|\^\{?[23]\}?|[A-Za-z%/^.€£¥ ]", "", WRAPPED_TEXT.sub(r" \1 ", text))
    return bool(outside or upright or signs) and len(signs) <= 1 and not rest


def _decimal(text: str) -> Fraction:
    digits = text.replace(",", "").replace(" ", "")
    return Fraction(digits + "0" if digits.endswith(".") else digits)


def _divide(above: Fraction, below: Fraction) -> Fraction | None:
    return above / below if below else None


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign == "-" else value
