"""Split mathematical answers into parts: lists, sets, tuples, intervals and their unions, relations, matrices, names.

The functions split text in time linear in its length; `rewards/mathematics/equality.py` compares the parts.
"""

import itertools
import re
from dataclasses import dataclass

from rewards.mathematics.expression import SYMBOLS
from rewards.mathematics.numerals import parse_number
from rewards.mathematics.text import canonical, closes_at_end, split_outside_brackets, unwrap_text

# What separates the items of a list: a comma, a semicolon, "and", "or".
SEPARATOR = re.compile(r"[,;]|(?<![A-Za-z\\])(?:and/or|or|and)(?![A-Za-z])")
RELATION = re.compile(r"\\(?:le|ge|ne|approx|in)(?![A-Za-z])|[<>=]")
CUP = re.compile(r"\\cup(?![A-Za-z])")
COLON = re.compile(r":")
BUILDER_BAR = re.compile(r"[|:]")
INEQUALITIES = {"<", ">", r"\le", r"\ge"}
FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
WHOLE_LINE = {r"\mathbbR", r"\mathbb{R}", r"\R", r"\Reals", "allrealnumbers", "allreals", "R", r"\mathbfR"}
MINUS_INFINITY, INFINITY = r"-\infty", r"\infty"
MATRIX = re.compile(
    r"\\begin ?\{(?P<kind>[pbB]?matrix|smallmatrix|array)\} ?(?:\{[lcr| ]*\})?(?P<rows>.*?)\\end ?\{(?P=kind)\}",
    re.DOTALL,
)
MATRICES_LIMIT = 3
"""Largest number of matrices in one sum or product."""
MATRIX_LIMIT = 5_000
"""Largest number of characters, over all entries, of a sum or product of matrices."""
ROW = re.compile(r"\\\\(?: ?\[[^\]]{0,9}\])?|\\cr(?![A-Za-z])")

NAME_LIMIT = 60
"""Largest number of characters of a name."""
VARIABLE = re.compile(r"(?:[A-Za-z]|\\([A-Za-z]+))(?:_\{?\w+\}?)?(?:\([a-z]\))?")
# A function of arguments: `f(x)`, `f^{-1}(x)`, `a_1(n)`.
FUNCTION_APPLIED = re.compile(r"(?<![A-Za-z])([A-Za-z]'*)(?:_\{[^{}]*\}|_\w)?(?:\^ ?\{? ?-1 ?\}?)? ?\([^()=<>]*\)")
# Subscripts, primes and superscripts that belong to a name: `x_{1}`, `f'`, `A^{\circ}`.
NAME_MARKS = re.compile(r"_ ?(?:\{[^{}]*\}|\w)|\^ ?\{? ?(?:-1|\\prime|\\circ|\*) ?\}?|'")
# Digits, operators and commands that occur in values and not in names.
NOT_A_NAME = re.compile(
    r"[0-9+\-*/^&,;!%.]|\\(?:cdot|times|frac|sqrt|pm|pi|infty|cup|cap|begin|sum|int|binom)(?![A-Za-z])"
)
MULTIPLIED_LETTERS = set("xyzabcnkmt")
"""Letters that before a bracket are a factor, as in `x(y+1)`, instead of the name of a function."""


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


def is_name(text: str) -> bool:
    """Return whether the left side of an equation only names the answer.

    Examples: `x`, `f(x)`, `a_{n}`, `\\angle ABC`, `|AB|`, `(x, y)`, `Area`.
    """
    text = unwrap_text(text)
    if not 0 < len(text) <= NAME_LIMIT or not re.search("[A-Za-z]", text):
        return False
    if text[0] == "(" and closes_at_end(text):
        return all(map(is_name, split_outside_brackets(text[1:-1], SEPARATOR)[0]))
    applied = FUNCTION_APPLIED.fullmatch(text)
    if applied:
        return applied[1] not in MULTIPLIED_LETTERS
    ratio = re.fullmatch(r"\\frac ?\{ ?([A-Z]{2}) ?\} ?\{ ?([A-Z]{2}) ?\}", text)
    left = NAME_MARKS.sub("", text)
    if ratio or NOT_A_NAME.search(left):
        return bool(ratio)
    letter_runs = re.findall(r"\\?[A-Za-z]+", re.sub("[|{}()\\[\\]:]", " ", left))
    letter_products = [run for run in letter_runs if run.islower() and len(run) in (2, 3) and run[0] != "\\"]
    single_letters = [run for run in letter_runs if len(run) == 1]
    if "(" in left or (letter_products and len(letter_runs) == 1):
        return False
    return len(single_letters) < 2 or ":" in left


def name_without_index(text: str) -> str:
    """Return a name without its index: `x_1` and `x_2` are two values of the same unknown, `x`."""
    return canonical(re.sub(r"_ ?(?:\{ ?[0-9]+ ?\}|[0-9])", "", unwrap_text(text)))


def split_relation(text: str) -> tuple[list[str], list[str]]:
    """Split a chain of relations into its sides and the signs between them; a text without a relation is one side.

    Example: `"1 < x \\le 2"` -> `["1", "x", "2"], ["<", "\\le"]`.
    """
    return split_outside_brackets(text, RELATION)


def list_items(text: str) -> list[str] | None:
    """Return the items of a list without brackets or of a set in braces, or None for a single value.

    An item with `\\pm` becomes two. Examples: `"1, 2 and 3"` -> `["1", "2", "3"]`; `"\\pm 2"` -> `["+ 2", "- 2"]`.
    """
    if parse_number(text) is not None or r"\begin" in text:
        return None
    if text.startswith(r"\{") and text.endswith(r"\}") and closes_at_end(text[:-2] + "}"):
        inside = text[2:-2].strip()
        return (
            _expand_plus_minus([item for item in split_outside_brackets(unwrap_text(inside), SEPARATOR)[0] if item])
            if inside
            else None
        )
    groups = split_outside_brackets(unwrap_text(text), re.compile(";"))[0]
    if len(groups) > 1 and all("=" in group and "," in group for group in groups):
        return groups  # in `x=1, y=2; x=3, y=4` each group is one solution
    # In "1, 2, and 3" the part between the comma and the "and" is empty.
    found = [item for item in split_outside_brackets(unwrap_text(text), SEPARATOR)[0] if item]
    expanded = _expand_plus_minus(found)
    return expanded if len(expanded) > 1 else None


def _expand_plus_minus(found: list[str]) -> list[str]:
    """Replace each item with one `\\pm` by two items: `"1 \\pm x"` -> `"1 + x", "1 - x"`."""
    expanded = []
    for item in found:
        if item.count(r"\pm") == 1:
            for plus, minus in ("+-", "-+"):
                choice = item.replace(r"\pm", plus).replace(r"\mp", minus)
                expanded.append(choice.strip())
        else:
            expanded.append(item)
    return expanded


def tuple_or_interval(text: str) -> tuple[str, list[str]] | None:
    """Return the pair of brackets and the items of a tuple or interval with two or more items, else None.

    Example: `"[0, 1)"` -> `("[)", ["0", "1"])`.
    """
    if len(text) < 3 or text[0] not in "([" or text[-1] not in ")]" or not closes_at_end(text):
        return None
    inner = split_outside_brackets(unwrap_text(text[1:-1]), re.compile("[,;]"))[0]
    return (text[0] + text[-1], inner) if len(inner) > 1 and all(inner) else None


def matrix_entries(text: str) -> list[list[str]] | None:
    """Return the rows of entries of a matrix, or None for any other text.

    A scalar factor is multiplied into each entry, and a sum or product of matrices is expanded entry by entry, both as
    text. Example, with `pmatrix`: `2(a b; c d)` -> `[["(2)(a)", "(2)(b)"], ["(2)(c)", "(2)(d)"]]`.
    """
    while len(text) > 2 and text[0] + text[-1] in ("()", "[]") and closes_at_end(text):
        text = text[1:-1].strip()
    found = list(MATRIX.finditer(text))
    if not 0 < len(found) <= MATRICES_LIMIT:
        return None
    places = [0, *(place for one in found for place in one.span()), len(text)]
    between = [text[start:end].strip(" ()[]") for start, end in zip(places[::2], places[1::2], strict=True)]
    factor, *signs, rest = between
    result = _matrix_rows(found[0]["rows"])
    if rest or "=" in factor or not result or (factor and signs):
        return None
    for sign, other in zip(signs, found[1:], strict=True):
        combined = _combine_matrices(result, sign, _matrix_rows(other["rows"]))
        if combined is None or sum(len(entry) for row in combined for entry in row) > MATRIX_LIMIT:
            return None
        result = combined
    return [[f"({factor})({entry})" for entry in row] for row in result] if factor else result


def _matrix_rows(text: str) -> list[list[str]]:
    rows = [[entry.strip() for entry in row.split("&")] for row in ROW.split(text.replace(r"\hline", " "))]
    return [row for row in rows if any(row)]


def _combine_matrices(left: list[list[str]], sign: str, right: list[list[str]]) -> list[list[str]] | None:
    """Return the entries of `left sign right` as text, or None if the shapes do not fit."""
    shapes = [{len(row) for row in rows} for rows in (left, right)]
    if sign in ("+", "-"):
        if len(left) != len(right) or shapes[0] != shapes[1] or len(shapes[0]) != 1:
            return None
        pairs = [zip(row, other, strict=True) for row, other in zip(left, right, strict=True)]
        return [[f"({one}){sign}({other})" for one, other in pair] for pair in pairs]
    if sign not in ("", r"\cdot", r"\times") or shapes[0] != {len(right)} or len(shapes[1]) != 1:
        return None
    columns = list(zip(*right, strict=True))
    return [["+".join(f"({a})({b})" for a, b in zip(row, column, strict=True)) for column in columns] for row in left]


def parse_region(text: str) -> Region | None:
    """Return the region that a text describes: an interval, a union of intervals and points, or inequalities joined by
    "or". None for any other text.

    Example: `"0 \\le x < 1"`, `"x \\in [0, 1)"` and `"[0, 1)"` have the same interval.
    """
    text = unwrap_text(text)
    builder = re.fullmatch(r"\\\{(.*)\\\}", text, re.DOTALL)
    if builder and BUILDER_BAR.search(builder[1]):
        head, _, text = builder[1].replace(":", "|", 1).partition("|")
        text = text if is_name(head.partition(r"\in")[0].strip()) else ""
    sides, signs = split_relation(text)
    named = frozenset[str]()
    if len(signs) == 1 and signs[0] in (r"\in", "=") and is_name(sides[0]):
        named, text = frozenset([canonical(sides[0])] if signs[0] == r"\in" else []), sides[1]
    intervals: list[Interval] = []
    variables = set(named)
    for joined in split_outside_brackets(text, CUP)[0]:
        for part in (
            [joined]
            if tuple_or_interval(joined) or joined.startswith("\\{")
            else split_outside_brackets(joined, SEPARATOR)[0]
        ):
            found = _intervals(part)
            if found is None:
                return None
            intervals += found[0]
            variables |= found[1]
    return Region(intervals, frozenset(variables)) if intervals and len(variables) <= 1 else None


def _intervals(text: str) -> tuple[list[Interval], set[str]] | None:
    """Return the intervals and variables of one part of a union, or None if the part describes no region."""
    text = text.strip()
    if canonical(text) in WHOLE_LINE:
        return [Interval("(", MINUS_INFINITY, INFINITY, ")")], set()
    pair = tuple_or_interval(text)
    if pair and len(pair[1]) == 2:
        low, high = (canonical(end) for end in pair[1])
        left = "(" if low == MINUS_INFINITY else pair[0][0]
        right = ")" if high == INFINITY else pair[0][1]
        return [Interval(left, low, high, right)], set()
    if text.startswith(r"\{") and text.endswith(r"\}"):
        points = list_items(text)
        return ([Interval("[", point, point, "]") for point in points], set()) if points else None
    without = re.split(r"\\setminus(?![A-Za-z])|(?<=R\}) ?-", text)
    if len(without) == 2 and canonical(without[0]) in WHOLE_LINE:
        return _line_without(list_items(without[1].strip()) or [])
    return _from_inequality(*split_relation(text))


def _from_inequality(sides: list[str], signs: list[str]) -> tuple[list[Interval], set[str]] | None:
    """Return the intervals of `x < a`, `a < x`, `a < x < b`, `|x| < a` or `x \\ne a`, and their variable."""
    if signs == [r"\ne"] and _is_variable(sides[0]):
        return _line_without([sides[1]])[0], {canonical(sides[0])}
    if not signs or not set(signs) <= INEQUALITIES:
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
        return _from_absolute_value(sides, right) if len(sides) == 2 else None
    if _is_variable(sides[0]):
        return [Interval("(", MINUS_INFINITY, sides[1], right)], {canonical(sides[0])}
    return [Interval(left, sides[0], INFINITY, ")")], {canonical(sides[1])}


def _is_variable(text: str) -> bool:
    """Return whether one side of an inequality is an unknown, `x`, or a value of an unknown function, `f(x)`."""
    found = VARIABLE.fullmatch(canonical(text))
    return found is not None and (found[1] is None or found[1] in SYMBOLS)


def _from_absolute_value(sides: list[str], right: str) -> tuple[list[Interval], set[str]] | None:
    """Return the interval of `|x| < a`: (-a, a), or [-a, a] for `\\le`."""
    inner = re.fullmatch(r"\| ?([A-Za-z]) ?\|", sides[0])
    if inner is None or "|" in sides[1]:
        return None
    return [Interval("(" if right == ")" else "[", f"-({sides[1]})", sides[1], right)], {inner[1]}


def _line_without(points: list[str]) -> tuple[list[Interval], set[str]]:
    """Return the real line without some points. Points are sorted only if all are numbers; others keep their order."""
    values = [(parse_number(point), point) for point in points]
    if len(points) > 1 and not any(value is None for value, _ in values):
        points = [point for _, point in sorted(values, key=lambda pair: pair[0] or 0)]
    ends = [MINUS_INFINITY, *points, INFINITY]
    return [Interval("(", low, high, ")") for low, high in itertools.pairwise(ends)], set()
