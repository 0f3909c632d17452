"""Split mathematical answers into parts: lists, sets, tuples, relations, piecewise functions.

The functions split text in time linear in its length; `rewards/mathematics/equality.py` compares the parts.
"""

import itertools
import re

from rewards.mathematics.numerals import parse_number
from rewards.mathematics.text import closes_at_end, split_outside_brackets, unwrap_text

# What separates the items of a list: a comma, a semicolon, "and", "or".
SEPARATOR = re.compile(r"[,;]|(?<![A-Za-z\\])(?:and/or|or|and)(?![A-Za-z])")
RELATION = re.compile(r"\\(?:le|ge|ne|approx|in)(?![A-Za-z])|[<>=]")
CUP = re.compile(r"\\cup(?![A-Za-z])")
COLON = re.compile(r":")
MULTIPLE_OF_TUPLE = re.compile(r"(?P<factor>[^(),]{0,20})(?P<items>\(.*\))")
# `2\vec{i}`, `\frac12\hat j`, `3\hat{\mathbf k}`, `\hat{\imath}`.
MULTIPLE_OF_UNIT_VECTOR = re.compile(
    r"(?P<factor>.{0,60}?) ?\\(?:vec|hat|widehat) ?\{? ?(?:\\(?:vec|mathbf) ?\{? ?)?"
    r"\\?(?P<unit>[ijk])(?:math)? ?\}{0,2}"
)
CASES = re.compile(r"(?:(?P<name>[^=]{1,40})=)? ?\\begin ?\{cases\}(?P<rows>.*)\\end ?\{cases\}", re.DOTALL)
CONDITION_WORD = re.compile(r"^(?:if|for|when|where|,) ", re.IGNORECASE)
SUM_LIMIT = 4
"""Largest number of tuples in a sum."""
SIGNS_LIMIT = 3
"""Largest number of `\\pm` in one item that are expanded."""


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
    """Replace each item with `\\pm` by one item for each sign: `"1 \\pm x"` -> `"1 + x", "1 - x"`.

    The signs of two `\\pm` in one item are independent: `"\\pm 1 \\pm x"` becomes four items.
    """
    expanded = []
    for item in found:
        if 1 < item.count(r"\pm") <= SIGNS_LIMIT and r"\mp" not in item:
            parts = item.split(r"\pm")
            for signs in itertools.product("+-", repeat=len(parts) - 1):
                expanded.append("".join(itertools.chain(*zip(parts, [*signs, ""], strict=True))).strip())
        elif item.count(r"\pm") == 1:
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


def vector_sum(text: str) -> list[str] | None:
    """Return the entries of a sum of multiples of tuples, each as text: `"(1,2)+t(3,4)"` -> `["(1)+(t)(3)", ...]`.

    None for any other text, also for a single tuple with a name before it, such as the point `P(1,2)`.
    """
    if text.count("(") < 2:
        return None
    terms, signs = _signed_terms(text)
    found = [MULTIPLE_OF_TUPLE.fullmatch(term) for term in terms]
    if len(terms) < 2 or len(terms) != len(signs) or len(terms) > SUM_LIMIT:
        return None
    tuples = [tuple_or_interval(one["items"]) if one else None for one in found]
    if any(pair is None or pair[0] != "()" for pair in tuples) or len({len(pair[1]) for pair in tuples if pair}) != 1:
        return None
    columns = zip(*(pair[1] for pair in tuples if pair), strict=True)
    factors = [one["factor"].strip() or "1" for one in found if one]
    return [
        "".join(
            f"{sign}({factor})({entry})"
            for sign, factor, entry in zip(signs, factors, column, strict=True)
            if parse_number(entry) != 0
        )
        or "0"
        for column in columns
    ]


def _signed_terms(text: str) -> tuple[list[str], list[str]]:
    """Return the terms of a sum and the sign before each."""
    terms, signs = split_outside_brackets(unwrap_text(text), re.compile("[+-]"))
    return (terms, ["+", *signs]) if terms[0] else (terms[1:], signs)


def unit_vector_sum(text: str) -> list[str] | None:
    """Return the entries of a sum of multiples of unit vectors, three if it has `\\hat k`, else two; None otherwise.

    Example: `"3\\hat i - 2\\hat j"` -> `["+(3)", "-(2)"]`.
    """
    terms, signs = _signed_terms(text)
    found = [MULTIPLE_OF_UNIT_VECTOR.fullmatch(term.strip()) for term in terms]
    factors = {one["unit"]: f"{sign}({one['factor'] or 1})" for one, sign in zip(found, signs, strict=False) if one}
    if not 2 <= len(terms) == len(signs) == len(factors):
        return None
    return [factors.get(unit, "0") for unit in ("ijk" if "k" in factors else "ij")]


def piecewise_rows(text: str) -> tuple[str, list[tuple[str, str]]] | None:
    """Return the name before a `cases` environment, "" without one, and its rows: value and condition; else None."""
    found = CASES.fullmatch(text)
    if found is None:
        return None
    rows = [row.split("&") for row in re.split(r"\\\\", found["rows"]) if row.strip()]
    if not rows or any(len(row) != 2 for row in rows):
        return None
    conditions = [CONDITION_WORD.sub("", unwrap_text(row[1]).strip(" ,;.")).strip() for row in rows]
    values = [row[0].strip(" ,;") for row in rows]
    return (found["name"] or "").strip(), list(zip(values, conditions, strict=True))
