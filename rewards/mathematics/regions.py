"""Read regions of the real line: intervals, unions, inequalities and excluded points, in one normal form.

`"0 \\le x < 1"`, `"x \\in [0, 1)"` and `"[0, \\frac12] \\cup (\\frac12, 1)"` are the same interval.
"""

import itertools
import re
from dataclasses import dataclass
from typing import Any

from rewards.mathematics.expressions.identity import real_value, same_expression
from rewards.mathematics.expressions.tokens import SYMBOLS
from rewards.mathematics.names import is_name
from rewards.mathematics.structures import CUP, SEPARATOR, list_items, split_relation, tuple_or_interval
from rewards.mathematics.text import canonical, split_outside_brackets, unwrap_text

BUILDER_BAR = re.compile(r"[|:]")
INEQUALITIES = {"<", ">", r"\le", r"\ge"}
FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
WHOLE_LINE = {r"\mathbbR", r"\mathbb{R}", r"\R", r"\Reals", "allrealnumbers", "allreals", "R", r"\mathbfR"}
MINUS_INFINITY, INFINITY = r"-\infty", r"\infty"
VARIABLE = re.compile(r"(?:[A-Za-z]|\\([A-Za-z]+))(?:_\{?\w+\}?)?(?:\([a-z]\))?")
# `|2x - 1|`, `|3 - x|`: the factor of the variable, the variable and the rest with its sign.
ABSOLUTE = re.compile(
    r"\| ?(?:(?P<factor>[0-9.]+) ?)?(?P<name>[A-Za-z]) ?(?P<rest>[-+] ?[^|]{1,40})?\|"
    r"|\| ?(?P<before>[^|]{1,40}?) ?- ?(?P<negated>[A-Za-z]) ?\|"
)
# `all real numbers except 2`, `all real numbers x except x = 2`.
EXCEPT = re.compile(
    r"(?:all )?(?:the )?reals?(?: numbers?)?(?: [a-z])?,? ?(?:except(?: for)?|other than|excluding|besides|but not) ?"
    r"(?:[a-z] ?= ?)?(?P<points>.+)",
    re.IGNORECASE,
)
INTERVALS_LIMIT = 40
"""Largest number of intervals of a region that is brought into normal form."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of real numbers: a bracket and an end on each side. A single point has equal ends."""

    left: str
    low: str
    high: str
    right: str


@dataclass(frozen=True, slots=True)
class Region:
    """A union of intervals, and the name of the variable in it if there is one: `x < 2` and `y < 2` differ."""

    intervals: list[Interval]
    variables: frozenset[str]


Found = tuple[list[Interval], set[str]]
"""Intervals, and the names of the variables in their text."""


def parse_region(text: str) -> Region | None:
    """Return the region that a text describes: intervals, points, inequalities, or a union of them; else None.

    Inequalities may be joined by "or" (union), "and" (intersection) or a comma: an intersection if it is not empty, as
    in `x > 0, x < 2`, else a union. Intervals that touch or overlap become one.
    """
    text = unwrap_text(text)
    builder = re.fullmatch(r"\\\{(.*)\\\}", text, re.DOTALL)
    if builder and BUILDER_BAR.search(builder[1]):
        head, _, text = builder[1].replace(":", "|", 1).partition("|")
        text = text if is_name(head.partition(r"\in")[0].strip()) else ""
    sides, signs = split_relation(text)
    named = frozenset[str]()
    if len(signs) == 1 and signs[0] in (r"\in", "=") and is_name(sides[0], trusted=True):
        named, text = frozenset([canonical(sides[0])] if signs[0] == r"\in" else []), sides[1]
    intervals: list[Interval] = []
    variables = set(named)
    for joined in split_outside_brackets(text, CUP)[0]:
        found = _intervals(joined)
        if found is None and not joined.startswith("\\{"):
            found = _joined(*split_outside_brackets(joined, SEPARATOR))
        if found is None:
            return None
        intervals += found[0]
        variables |= found[1]
    if not intervals or len(variables) > 1:
        return None
    return Region(_merged(intervals), frozenset(variables))


def _joined(parts: list[str], separators: list[str]) -> Found | None:
    """Return the region of inequalities that are joined by commas, "and" or "or"."""
    # In "x < 1, or x > 2" the part between the comma and the "or" is empty.
    pairs = [(part, separator) for part, separator in zip(parts, ["", *separators], strict=True) if part]
    result: Found | None = None
    excluded = False
    for part, separator in pairs:
        is_point = excluded and not split_relation(part)[1]  # the 2 of `0 < x < 3, x \ne 1, 2`
        found = _line_without([part]) if is_point else _intervals(part)
        if found is None:
            return None
        excludes = is_point or r"\ne" in part or r"\in" in part
        if result is None:
            result = found
        elif separator == "or" and not (excluded or excludes):
            result = (result[0] + found[0], result[1] | found[1])
        else:
            common = _intersection(result[0], found[0])
            if not common and (excluded or excludes or separator == "and"):
                return None
            result = (common or result[0] + found[0], result[1] | found[1])
        excluded = excludes
    return result


def _intervals(text: str) -> Found | None:
    """Return the intervals and variables of one part of a union, or None if the part describes no region."""
    text = text.strip()
    if canonical(text) in WHOLE_LINE:
        return [Interval("(", MINUS_INFINITY, INFINITY, ")")], set()
    pair = tuple_or_interval(text)
    if pair and len(pair[1]) == 2:
        ends = [MINUS_INFINITY, INFINITY]
        low, high = (canonical(end) if canonical(end) in ends else end for end in pair[1])
        left = "(" if low == MINUS_INFINITY else pair[0][0]
        right = ")" if high == INFINITY else pair[0][1]
        return [Interval(left, low, high, right)], set()
    if text.startswith(r"\{") and text.endswith(r"\}"):
        points = list_items(text)
        return ([Interval("[", point, point, "]") for point in points], set()) if points else None
    without = re.split(r"\\setminus(?![A-Za-z])|(?<=R\}) ?-", text)
    if len(without) == 2 and canonical(without[0]) in WHOLE_LINE:
        return _line_without(list_items(without[1].strip()) or [])
    excepted = EXCEPT.fullmatch(text)
    if excepted:
        points = [
            point.rpartition("=")[2].strip() for point in split_outside_brackets(excepted["points"], SEPARATOR)[0]
        ]
        return _line_without([point for point in points if point])
    sides, signs = split_relation(text)
    if signs == [r"\in"] and _is_variable(sides[0]):
        found = _intervals(sides[1])
        return None if found is None else (found[0], {canonical(sides[0])})
    return _from_inequality(sides, signs)


def _from_inequality(sides: list[str], signs: list[str]) -> Found | None:
    """Return the intervals of `x < a`, `a < x`, `a < x < b`, `|x - a| < b` or `x \\ne a`, and their variable."""
    if signs == [r"\ne"] and _is_variable(sides[0]):
        return _line_without(split_outside_brackets(sides[1], SEPARATOR)[0])[0], {canonical(sides[0])}
    is_list = any(len(split_outside_brackets(side, SEPARATOR)[0]) > 1 for side in sides)
    if not signs or is_list or not set(signs) <= INEQUALITIES:
        return None
    if signs[0] in (">", r"\ge"):
        sides, signs = sides[::-1], [FLIPPED[sign] for sign in reversed(signs)]
    if not set(signs) <= {"<", r"\le"}:
        return None
    left, right = ("(" if sign == "<" else "[" for sign in (signs[0], signs[-1]))
    right = ")" if right == "(" else "]"
    if len(sides) == 3 and _is_variable(sides[1]):
        return [Interval(left, sides[0], sides[2], right)], {canonical(sides[1])}
    if len(sides) != 2 or _is_variable(sides[0]) == _is_variable(sides[1]):
        return _from_absolute_value(sides, signs[0]) if len(sides) == 2 else None
    if _is_variable(sides[0]):
        return [Interval("(", MINUS_INFINITY, sides[1], right)], {canonical(sides[0])}
    return [Interval(left, sides[0], INFINITY, ")")], {canonical(sides[1])}


def _is_variable(text: str) -> bool:
    """Return whether one side of an inequality is an unknown, `x`, or a value of an unknown function, `f(x)`."""
    found = VARIABLE.fullmatch(canonical(text))
    return found is not None and (found[1] is None or found[1] in SYMBOLS)


def _from_absolute_value(sides: list[str], sign: str) -> Found | None:
    """Return the intervals of `|x - a| < b`, which is (a - b, a + b), and of `|x - a| > b`, its complement."""
    inside = ABSOLUTE.fullmatch(sides[0].strip())
    found, bound = inside or ABSOLUTE.fullmatch(sides[1].strip()), sides[1] if inside else sides[0]
    value = real_value(bound)
    if found is None or value is None or value <= 0:
        return None
    factor = found["factor"] or "1"
    shift = f"-({found['before']})" if found["before"] else (found["rest"] or "0")
    low, high = (f"({side}({bound})-({shift}))/({factor})" for side in "-+")
    variables = {found["name"] or found["negated"]}
    if inside:
        return [Interval("(" if sign == "<" else "[", low, high, ")" if sign == "<" else "]")], variables
    left, right = ("(", ")") if sign == "<" else ("[", "]")
    return [Interval("(", MINUS_INFINITY, low, right), Interval(left, high, INFINITY, ")")], variables


def _line_without(points: list[str]) -> Found:
    """Return the real line without some points. Points are sorted only if all are numbers; others keep their order."""
    valued = [(real_value(point), point) for point in points]
    if not any(value is None for value, _ in valued):
        points = [point for _, point in sorted(valued)]
    ends = [MINUS_INFINITY, *points, INFINITY]
    return [Interval("(", low, high, ")") for low, high in itertools.pairwise(ends)], set()


def _with_values(intervals: list[Interval]) -> list[tuple[Any, Any, Interval]] | None:
    """Return the values of the ends of each interval with it, sorted; None if an end is not a real number."""
    if len(intervals) > INTERVALS_LIMIT:
        return None
    valued = [(real_value(interval.low), real_value(interval.high), interval) for interval in intervals]
    if any(low is None or high is None for low, high, _ in valued):
        return None
    return sorted(valued, key=lambda entry: (entry[0], entry[1], entry[2].left == "("))


def _merged(intervals: list[Interval]) -> list[Interval]:
    """Join intervals that overlap or touch: (0, 1) and [1, 2) are (0, 2). Unchanged if an end is not a number."""
    valued = _with_values(intervals) if len(intervals) > 1 else None
    if valued is None or any(low > high for low, high, _ in valued):
        return intervals
    result = [valued[0]]
    for low, high, interval in valued[1:]:
        last_low, last_high, last = result[-1]
        touch = last.high == interval.low or (abs(last_high - low) < 1 and same_expression(last.high, interval.low))
        both_open = interval.left == "(" and last.right == ")"
        if (touch and both_open) or (low > last_high and not touch):
            result.append((low, high, interval))
            continue
        longer = high > last_high or (high == last_high and interval.right == "]")
        end = interval if longer else last
        left = "[" if low == last_low and "[" in (last.left, interval.left) else last.left
        result[-1] = (last_low, max(high, last_high), Interval(left, last.low, end.high, end.right))
    return [interval for _, _, interval in result]


def _intersection(first: list[Interval], second: list[Interval]) -> list[Interval] | None:
    """Return the intersection of two unions of intervals; None if an end is not a real number."""
    valued, other_valued = _with_values(first), _with_values(second)
    if valued is None or other_valued is None or len(first) * len(second) > INTERVALS_LIMIT**2:
        return None
    found = []
    for (low, high, one), (other_low, other_high, other) in itertools.product(valued, other_valued):
        start = one if low > other_low or (low == other_low and one.left == "(") else other
        end = one if high < other_high or (high == other_high and one.right == ")") else other
        start_value, end_value = max(low, other_low), min(high, other_high)
        if start_value < end_value or (start_value == end_value and start.left + end.right == "[]"):
            found.append(Interval(start.left, start.low, end.high, end.right))
    return found
