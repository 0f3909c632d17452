"""Read matrices: their entries, sums, products, inverses and determinants, as text that is compared entry by entry."""

import itertools
import re

from rewards.mathematics.text import closes_at_end

MATRIX = re.compile(
    r"\\begin ?\{(?P<kind>[pbB]?matrix|smallmatrix|array)\} ?(?:\{[lcr| ]*\})?(?P<rows>.*?)\\end ?\{(?P=kind)\}",
    re.DOTALL,
)
MATRICES_LIMIT = 3
"""Largest number of matrices in one sum or product."""
MATRIX_LIMIT = 5_000
"""Largest number of characters, over all entries, of a sum or product of matrices."""
ROW = re.compile(r"\\\\(?: ?\[[^\]]{0,9}\])?|\\cr(?![A-Za-z])")
ENVIRONMENT = r"\\begin ?\{(?P<kind>KIND)\} ?(?:\{[lcr| ]*\})?(?P<rows>.*?)\\end ?\{(?P=kind)\}"
DETERMINANTS = [
    re.compile(before + ENVIRONMENT.replace("KIND", kind) + after, re.DOTALL)
    for before, kind, after in (
        ("", "vmatrix", ""),
        (r"\\det ?\(? ?", "[pbB]?matrix|array", r" ?\)?"),
        (r"\| ?", "matrix|array|smallmatrix", r" ?\|"),
    )
]
INVERSE_MARK = re.compile(r"\^ ?\{? ?-1 ?\}?")
# `+ t`: the sign and the factor between two matrices.
SIGN_AND_FACTOR = re.compile(r"([+-]) ?([A-Za-z0-9\\]{1,20})")


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
    if INVERSE_MARK.fullmatch(rest) and not signs:
        rest, result = "", _inverse(result) or []
    if rest or "=" in factor or not result or (factor and signs):
        return None
    for sign, other in zip(signs, found[1:], strict=True):
        scaled = SIGN_AND_FACTOR.fullmatch(sign)
        rows = _matrix_rows(other["rows"])
        if scaled:
            sign, rows = scaled[1], [[f"({scaled[2]})({entry})" for entry in row] for row in rows]
        combined = _combine_matrices(result, sign, rows)
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


def _inverse(rows: list[list[str]]) -> list[list[str]] | None:
    """Return the entries of the inverse of a 2x2 matrix as text, or None for any other shape."""
    if len(rows) != 2 or any(len(row) != 2 for row in rows):
        return None
    (a, b), (c, d) = rows
    determinant = _determinant(rows)
    return [
        [f"({d})/({determinant})", f"(-({b}))/({determinant})"],
        [f"(-({c}))/({determinant})", f"({a})/({determinant})"],
    ]


def expand_determinants(text: str) -> str:
    """Replace each determinant of up to three rows by the sum of products that it stands for."""
    if r"\begin" not in text or not re.search(r"vmatrix|\\det|\|", text):
        return text
    for form in DETERMINANTS:
        text = form.sub(lambda found: _determinant(_matrix_rows(found["rows"])) or found[0], text)
        if len(text) > MATRIX_LIMIT:
            break
    return text


def _determinant(rows: list[list[str]]) -> str | None:
    """Return a determinant of up to three rows as a sum of products, or None for any other shape."""
    count = len(rows)
    if not 0 < count <= 3 or any(len(row) != count for row in rows):
        return None
    terms = []
    for order in itertools.permutations(range(count)):
        inversions = sum(first > second for first, second in itertools.combinations(order, 2))
        product = "".join(f"({rows[row][column]})" for row, column in enumerate(order))
        terms.append(("-" if inversions % 2 else "+") + product)
    return f"({''.join(terms)})"
