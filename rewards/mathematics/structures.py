"""Structure of mathematical answers: lists, sets, tuples, intervals and their unions, relations, matrices, names.

Only text is taken apart here, in time linear in its length; comparing the parts is for `math_equality`.
"""

import itertools
import re
from dataclasses import dataclass

from rewards.mathematics.expression import SYMBOLS
from rewards.mathematics.numerals import number
from rewards.mathematics.text import bare, canonical, closes_at_end, split

SEPARATOR = re.compile(r"[,;]|(?<![A-Za-z\\])(?:and/or|or|and)(?![A-Za-z])")
RELATION = re.compile(r"\\(?:le|ge|ne|approx|in)(?![A-Za-z])|[<>=]")
CUP = re.compile(r"\\cup(?![A-Za-z])")
COLON = re.compile(r":")
BAR = re.compile(r"[|:]")
INEQUALITIES = {"<", ">", r"\le", r"\ge"}
FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
WHOLE_LINE = {r"\mathbbR", r"\mathbb{R}", r"\R", r"\Reals", "allrealnumbers", "allreals", "R", r"\mathbfR"}
LEAST, GREATEST = r"-\infty", r"\infty"
MATRIX = re.compile(
    r"\\begin ?\{(?P<kind>[pbB]?matrix|smallmatrix|array)\} ?(?:\{[lcr| ]*\})?(?P<rows>.*?)\\end ?\{(?P=kind)\}",
    re.DOTALL,
)
MATRICES = 3
"""Matrices of one sum or product."""
MATRIX_LIMIT = 5_000
"""Characters of the entries of a sum or product."""
ROW = re.compile(r"\\\\(?: ?\[[^\]]{0,9}\])?|\\cr(?![A-Za-z])")

NAME_LIMIT = 60
VARIABLE = re.compile(r"(?:[A-Za-z]|\\([A-Za-z]+))(?:_\{?\w+\}?)?(?:\([a-z]\))?")
APPLIED = re.compile(r"(?<![A-Za-z])([A-Za-z]'*)(?:_\{[^{}]*\}|_\w)?(?:\^ ?\{? ?-1 ?\}?)? ?\([^()=<>]*\)")
MARKS = re.compile(r"_ ?(?:\{[^{}]*\}|\w)|\^ ?\{? ?(?:-1|\\prime|\\circ|\*) ?\}?|'")
UNNAMED = re.compile(
    r"[0-9+\-*/^&,;!%.]|\\(?:cdot|times|frac|sqrt|pm|pi|infty|cup|cap|begin|sum|int|binom)(?![A-Za-z])"
)
VARIABLES = set("xyzabcnkmt")
"""Letters that before a bracket are multiplied, not applied."""


@dataclass(frozen=True, slots=True)
class Piece:
    """An interval; a single point has equal ends."""

    left: str
    low: str
    high: str
    right: str


@dataclass(frozen=True, slots=True)
class Region:
    """A union of intervals, and the variable it was stated for, if any."""

    pieces: list[Piece]
    variables: frozenset[str]


def is_name(text: str) -> bool:
    """Whether a left side only names the answer: `x`, `f(x)`, `a_{n}`, `\\angle ABC`, `|AB|`, `(x, y)`, `Area`."""
    text = bare(text)
    if not 0 < len(text) <= NAME_LIMIT or not re.search("[A-Za-z]", text):
        return False
    if text[0] == "(" and closes_at_end(text):
        return all(map(is_name, split(text[1:-1], SEPARATOR)[0]))
    applied = APPLIED.fullmatch(text)
    if applied:
        return applied[1] not in VARIABLES
    ratio = re.fullmatch(r"\\frac ?\{ ?([A-Z]{2}) ?\} ?\{ ?([A-Z]{2}) ?\}", text)
    left = MARKS.sub("", text)
    if ratio or UNNAMED.search(left):
        return bool(ratio)
    runs = re.findall(r"\\?[A-Za-z]+", re.sub("[|{}()\\[\\]:]", " ", left))
    products = [run for run in runs if run.islower() and len(run) in (2, 3) and run[0] != "\\"]
    single = [run for run in runs if len(run) == 1]
    return not (products and len(runs) == 1) and (len(single) < 2 or ":" in left) and "(" not in left


def variable(text: str) -> str:
    """The head of a name without its numbering: `x_1` and `x_2` are values of one unknown."""
    return canonical(re.sub(r"_ ?(?:\{ ?[0-9]+ ?\}|[0-9])", "", bare(text)))


def relation(text: str) -> tuple[list[str], list[str]]:
    """The sides of a chain of relations, and the signs between them; one side where there is no relation."""
    return split(text, RELATION)


def items(text: str) -> list[str] | None:
    """Items of a bare list or of a set in braces, each `\\pm` as two items; None for a single value."""
    if number(text) is not None or r"\begin" in text:
        return None
    if text.startswith(r"\{") and text.endswith(r"\}") and closes_at_end(text[:-2] + "}"):
        inside = text[2:-2].strip()
        return _expanded([item for item in split(bare(inside), SEPARATOR)[0] if item]) if inside else None
    groups = split(bare(text), re.compile(";"))[0]
    if len(groups) > 1 and all("=" in group and "," in group for group in groups):
        return groups  # `x=1, y=2; x=3, y=4`: each is one solution
    # "1, 2, and 3" leaves nothing between the comma and the word.
    found = [item for item in split(bare(text), SEPARATOR)[0] if item]
    expanded = _expanded(found)
    return expanded if len(expanded) > 1 else None


def _expanded(found: list[str]) -> list[str]:
    expanded = []
    for item in found:
        if item.count(r"\pm") == 1:
            for plus, minus in ("+-", "-+"):
                choice = item.replace(r"\pm", plus).replace(r"\mp", minus)
                expanded.append(choice.strip())
        else:
            expanded.append(item)
    return expanded


def bracketed(text: str) -> tuple[str, list[str]] | None:
    """The two brackets and the items of a tuple or interval of two or more; None for anything else."""
    if len(text) < 3 or text[0] not in "([" or text[-1] not in ")]" or not closes_at_end(text):
        return None
    inner = split(bare(text[1:-1]), re.compile("[,;]"))[0]
    return (text[0] + text[-1], inner) if len(inner) > 1 and all(inner) else None


def matrix(text: str) -> list[list[str]] | None:
    """Rows of entries, a scalar factor drawn into each; of a sum or product of matrices, what its entries are.
    None for anything else."""
    while len(text) > 2 and text[0] + text[-1] in ("()", "[]") and closes_at_end(text):
        text = text[1:-1].strip()
    found = list(MATRIX.finditer(text))
    if not 0 < len(found) <= MATRICES:
        return None
    places = [0, *(place for one in found for place in one.span()), len(text)]
    between = [text[start:end].strip(" ()[]") for start, end in zip(places[::2], places[1::2], strict=True)]
    factor, *signs, rest = between
    result = _rows(found[0]["rows"])
    if rest or "=" in factor or not result or (factor and signs):
        return None
    for sign, other in zip(signs, found[1:], strict=True):
        combined = _combined(result, sign, _rows(other["rows"]))
        if combined is None or sum(len(entry) for row in combined for entry in row) > MATRIX_LIMIT:
            return None
        result = combined
    return [[f"({factor})({entry})" for entry in row] for row in result] if factor else result


def _rows(text: str) -> list[list[str]]:
    rows = [[entry.strip() for entry in row.split("&")] for row in ROW.split(text.replace(r"\hline", " "))]
    return [row for row in rows if any(row)]


def _combined(left: list[list[str]], sign: str, right: list[list[str]]) -> list[list[str]] | None:
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


def region(text: str) -> Region | None:
    """An interval, a union of intervals and points, an inequality, several joined by `or`; None for anything else."""
    text = bare(text)
    builder = re.fullmatch(r"\\\{(.*)\\\}", text, re.DOTALL)
    if builder and BAR.search(builder[1]):
        head, _, text = builder[1].replace(":", "|", 1).partition("|")
        text = text if is_name(head.partition(r"\in")[0].strip()) else ""
    sides, signs = relation(text)
    named = frozenset[str]()
    if len(signs) == 1 and signs[0] in (r"\in", "=") and is_name(sides[0]):
        named, text = frozenset([canonical(sides[0])] if signs[0] == r"\in" else []), sides[1]
    pieces: list[Piece] = []
    variables = set(named)
    for joined in split(text, CUP)[0]:
        for part in [joined] if bracketed(joined) or joined.startswith("\\{") else split(joined, SEPARATOR)[0]:
            found = _piece(part)
            if found is None:
                return None
            pieces += found[0]
            variables |= found[1]
    return Region(pieces, frozenset(variables)) if pieces and len(variables) <= 1 else None


def _piece(text: str) -> tuple[list[Piece], set[str]] | None:
    text = text.strip()
    if canonical(text) in WHOLE_LINE:
        return [Piece("(", LEAST, GREATEST, ")")], set()
    pair = bracketed(text)
    if pair and len(pair[1]) == 2:
        low, high = (canonical(end) for end in pair[1])
        left = "(" if low == LEAST else pair[0][0]
        right = ")" if high == GREATEST else pair[0][1]
        return [Piece(left, low, high, right)], set()
    if text.startswith(r"\{") and text.endswith(r"\}"):
        points = items(text)
        return ([Piece("[", point, point, "]") for point in points], set()) if points else None
    without = re.split(r"\\setminus(?![A-Za-z])|(?<=R\}) ?-", text)
    if len(without) == 2 and canonical(without[0]) in WHOLE_LINE:
        return _except(items(without[1].strip()) or [])
    return _inequality(*relation(text))


def _inequality(sides: list[str], signs: list[str]) -> tuple[list[Piece], set[str]] | None:
    """An interval from `x < a`, `a < x` or `a < x < b`, with everything but one point for `x != a`."""
    if signs == [r"\ne"] and _is_variable(sides[0]):
        return _except([sides[1]])[0], {canonical(sides[0])}
    if not signs or not set(signs) <= INEQUALITIES:
        return None
    if signs[0] in (">", r"\ge"):
        sides, signs = sides[::-1], [FLIPPED[sign] for sign in reversed(signs)]
    if not set(signs) <= {"<", r"\le"}:
        return None
    left, right = ("(" if sign == "<" else "[" for sign in (signs[0], signs[-1]))
    right = ")" if right == "(" else "]"
    if len(sides) == 3 and _is_variable(sides[1]):
        return [Piece(left, sides[0], sides[2], right)], {canonical(sides[1])}
    if len(sides) != 2 or _is_variable(sides[0]) == _is_variable(sides[1]):
        return _distance(sides, right) if len(sides) == 2 else None
    if _is_variable(sides[0]):
        return [Piece("(", LEAST, sides[1], right)], {canonical(sides[0])}
    return [Piece(left, sides[0], GREATEST, ")")], {canonical(sides[1])}


def _is_variable(text: str) -> bool:
    """Whether one side of an inequality is an unknown or the value of an unknown function."""
    found = VARIABLE.fullmatch(canonical(text))
    return found is not None and (found[1] is None or found[1] in SYMBOLS)


def _distance(sides: list[str], right: str) -> tuple[list[Piece], set[str]] | None:
    """An interval around zero from `|x| < a`."""
    inner = re.fullmatch(r"\| ?([A-Za-z]) ?\|", sides[0])
    if inner is None or "|" in sides[1]:
        return None
    return [Piece("(" if right == ")" else "[", f"-({sides[1]})", sides[1], right)], {inner[1]}


def _except(points: list[str]) -> tuple[list[Piece], set[str]]:
    """The line without some points; in their order, which is known for numbers only."""
    values = [(number(point), point) for point in points]
    if len(points) > 1 and not any(value is None for value, _ in values):
        points = [point for _, point in sorted(values, key=lambda pair: pair[0] or 0)]
    ends = [LEAST, *points, GREATEST]
    return [Piece("(", low, high, ")") for low, high in itertools.pairwise(ends)], set()
