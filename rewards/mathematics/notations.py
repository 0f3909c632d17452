"""Compare answers in notations that are no expressions: times of day, dates, digits with a base, congruences."""

import re
from fractions import Fraction
from typing import NamedTuple

from rewards.mathematics.numerals import number_from_words
from rewards.mathematics.text import unwrap_text

# `5:30 pm`, `17:30:00`, `5 p.m.`
TIME = re.compile(r"([0-9]{1,2})(?: ?: ?([0-9]{2}))?(?: ?: ?([0-9]{2}))? ?(?:([ap]) ?\.? ?m\b\.?)?", re.IGNORECASE)
NAMED_TIMES = {"noon": "12:00 pm", "12 noon": "12:00 pm", "midnight": "12:00 am", "12 midnight": "12:00 am"}
# `1101_2`, `1101_{two}`, `1a_{16}`.
NUMBER_IN_BASE = re.compile(
    r"\(?((?:[0-9][0-9A-Fa-f]*|[A-F][0-9A-F]*)(?:\.[0-9A-Fa-f]+)?)\)? ?"
    r"_ ?\{? ?\(?(?:base[ -]?)?([0-9]{1,2}|[a-z]+)\)? ?\}?"
)
# `1101 in base 2`.
NUMBER_IN_BASE_WORDS = re.compile(r"([0-9A-F]+) (?:in )?base[ -]([0-9]{1,2}|[a-z]+)")
MONTH_LIST = "january february march april may june july august september october november december"
MONTHS = MONTH_LIST.split()
MONTH = r"(?P<month>[a-z]{3,9})\.?"
DAY = r"(?:the )?(?P<day>[0-9]{1,2})(?:st|nd|rd|th)?"
YEAR = r"(?:,? (?P<year>[0-9]{4}))?"
DATES = [re.compile(form, re.IGNORECASE) for form in (rf"{MONTH} {DAY}{YEAR}", rf"{DAY} (?:of )?{MONTH}{YEAR}")]
# `x \equiv 1, 4 \pmod{5}`, `17 (mod 24)`.
CONGRUENCE = re.compile(
    r"(?:(?P<name>[A-Za-z](?:_\{?\w\}?)?) ?\\equiv ?)?(?P<residues>-?[0-9]{1,30}(?: ?, ?-?[0-9]{1,30}){0,20})"
    r" ?\(? ?\\?[pb]?mod ?\{? ?(?P<modulus>[0-9]{1,30}) ?\}? ?\)?"
)


class Time(NamedTuple):
    """A time of day in seconds since midnight, and whether it is told with am or pm, or surely in 24 hours."""

    seconds: int
    half: bool
    hours_24: bool


def same_notation(gold: str, answer: str) -> bool | None:
    """Return whether two answers are equal of which one is a date, a time, digits in a base or a congruence.

    None if neither is. Digits in two bases are different answers even if their values are equal.
    Examples: `"3:30 PM"` and `"15:30"`, `"July 4"` and `"4 July"`, `"17 \\pmod{24}"` and `"-7 \\pmod{24}"` -> True.
    """
    gold, answer = unwrap_text(gold), unwrap_text(answer)
    for read in (_in_base, _date, _congruence):
        values = read(gold), read(answer)
        if values != (None, None):
            return values[0] == values[1]
    times = _time(gold), _time(answer)
    if not any(time is not None and time.half for time in times):
        return None
    if times[0] is None or times[1] is None:
        return False
    comparable = all(time.half or time.hours_24 for time in times if time is not None)
    return comparable and times[0].seconds == times[1].seconds


def _in_base(text: str) -> tuple[Fraction | str, str] | None:
    """Return the value and the base of digits with a base; the digits as text if they are none in this base."""
    found = NUMBER_IN_BASE.fullmatch(text) or NUMBER_IN_BASE_WORDS.fullmatch(text)
    if found is None:
        return None
    base = Fraction(int(found[2])) if found[2].isdigit() else number_from_words(found[2])
    if base is None:
        return None
    whole, _, part = found[1].partition(".")
    try:
        return Fraction(int(whole + part, int(base)), int(base) ** len(part)), str(base)
    except ValueError:
        return found[1], str(base)


def _date(text: str) -> tuple[int, int, str | None] | None:
    for form in DATES:
        found = form.fullmatch(text.strip())
        month = found["month"].lower() if found else ""
        number = next((index for index, name in enumerate(MONTHS, 1) if month and name.startswith(month)), None)
        if found and number:
            return number, int(found["day"]), found["year"]
    return None


def _congruence(text: str) -> tuple[frozenset[int], int] | None:
    found = CONGRUENCE.fullmatch(text)
    if found is None or int(found["modulus"]) == 0 or (r"\bmod" in text and not found["name"]):  # `17 \\bmod 5` is 2
        return None
    modulus = int(found["modulus"])
    return frozenset(int(residue) % modulus for residue in found["residues"].split(",")), modulus


def _time(text: str) -> Time | None:
    found = TIME.fullmatch(NAMED_TIMES.get(text.lower(), text))
    if found is None:
        return None
    hours, minutes, seconds = (int(found[group] or 0) for group in (1, 2, 3))
    in_24_hours = found[4] is None and found[2] is not None and (hours == 0 or hours > 12 or found[1][0] == "0")
    if found[4]:
        if not 1 <= hours <= 12:
            return None
        hours = hours % 12 + (12 if found[4].lower() == "p" else 0)
    return Time(hours * 3600 + minutes * 60 + seconds, found[4] is not None, in_24_hours)
