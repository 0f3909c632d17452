"""Decide whether two normalised answers are equal, in stages from cheap to expensive.

The stages are: exact numbers with units, equal strings, words and choices; regions of the real line; lists, tuples,
matrices and relations part by part; and last, one expression against one expression. A text that no stage can parse is
equal only to the same string; its meaning is not guessed.
"""

import re

from rewards.mathematics.chains import same_relations
from rewards.mathematics.expressions.identity import same_expression
from rewards.mathematics.expressions.parameters import without_integer_condition
from rewards.mathematics.matrices import expand_determinants, matrix_entries
from rewards.mathematics.names import is_name, name_without_index
from rewards.mathematics.notations import same_notation
from rewards.mathematics.numerals import parse_decimal_comma, parse_number
from rewards.mathematics.quantities.parsing import parse_quantity, split_unit
from rewards.mathematics.regions import Region, parse_region
from rewards.mathematics.structures import (
    COLON,
    CUP,
    list_items,
    piecewise_rows,
    split_relation,
    tuple_or_interval,
    unit_vector_sum,
    vector_sum,
)
from rewards.mathematics.symbolic.solution_sets import same_solutions
from rewards.mathematics.text import canonical, closes_at_end, split_outside_brackets, unwrap_text
from rewards.mathematics.words import choice_content, choice_parts, choices_equal, is_words, same_words

ITEM_LIMIT = 20
"""Largest number of unequal strings of two lists that are compared pairwise as expressions. Numbers have no limit."""
Tuple = tuple[str, list[str]]
"""The pair of brackets of a tuple or interval, and its items."""
REGION_SIGN = re.compile(r"[<>]|\\(?:le|ge|ne|in|cup|setminus|mathbb)(?![A-Za-z])|all real")


def equal(gold: str, answer: str) -> bool:
    """Return whether two normalised answers are equal.

    Examples: `"x = 5"` and `"5"`, `"{1, 2}"` as a set and `"2, 1"`, `"(x+1)^2"` and `"x^2+2x+1"` -> True.
    Raises: TooLarge. A text of bounded depth never raises RecursionError.
    """
    if not answer:
        return False
    gold, answer = without_integer_condition(gold), without_integer_condition(answer)
    decided = _decide_cheaply(gold, answer)
    if decided is not None:
        return decided
    gold_cases, answer_cases = piecewise_rows(gold), piecewise_rows(answer)
    if gold_cases and answer_cases:
        return _same_cases(*gold_cases, *answer_cases)
    if REGION_SIGN.search(gold) or REGION_SIGN.search(answer):
        gold_region, answer_region = parse_region(gold), parse_region(answer)
        if gold_region and answer_region:
            return _same_region(gold_region, answer_region)
        if gold_region and len(gold_region.intervals) > 1 and REGION_SIGN.search(answer):
            return False  # `x < 1 and x > 3` has the items of `x < 1 or x > 3`
    if same_solutions(gold, answer):
        return True
    gold_items, answer_items = list_items(gold), list_items(answer)
    if gold_items or answer_items:
        return _same_list(gold, answer, gold_items, answer_items)
    gold_sides, gold_signs = split_relation(gold)
    answer_sides, answer_signs = split_relation(answer)
    if gold_signs or answer_signs:
        return same_relations(gold_sides, gold_signs, answer_sides, answer_signs, equal)
    return _same_single(gold, answer)


def _decide_cheaply(gold: str, answer: str) -> bool | None:
    """Compare exact numbers, strings, choices, words and other notations; return None if these do not decide."""
    gold_quantity = parse_quantity(gold, None)
    answer_quantity = parse_quantity(answer, gold_quantity.names if gold_quantity else frozenset())
    if gold_quantity and answer_quantity:
        dropped_symbol = gold_quantity.symbols and not answer_quantity.names  # `2 m` in a gold is a product
        return not dropped_symbol and gold_quantity.equals(answer_quantity)
    if canonical(gold) == canonical(answer):
        return True
    if gold_quantity and not gold_quantity.names and "," not in gold:
        with_decimal_comma = parse_decimal_comma(answer)
        if with_decimal_comma is not None:
            return gold_quantity.value == with_decimal_comma
    same_choice = choices_equal(gold, answer)
    if same_choice is not None:
        return same_choice
    same = same_notation(gold, answer)
    if same is not None:
        return same
    if is_words(gold):
        return same_words(gold, answer)
    gold_parts, answer_parts = choice_parts(gold), choice_parts(answer)
    if gold_parts and answer_parts:
        return gold_parts[0] == answer_parts[0] and equal(gold_parts[1], answer_parts[1])
    gold_content, answer_content = choice_content(gold), choice_content(answer)
    if (gold_content is None) != (answer_content is None):
        return equal(
            gold if gold_content is None else gold_content, answer if answer_content is None else answer_content
        )
    return None


def _same_cases(name: str, rows: list[tuple[str, str]], other_name: str, others: list[tuple[str, str]]) -> bool:
    """Return whether two piecewise functions have equal values under equal conditions, in any order."""
    if name and other_name and canonical(name) != canonical(other_name):
        return False
    remaining = list(others)
    for value, condition in rows:
        match = next((row for row in remaining if _both_equal(condition, row[1]) and _both_equal(value, row[0])), None)
        if match is None:
            return False
        remaining.remove(match)
    return not remaining


def _same_region(gold: Region, answer: Region) -> bool:
    """Return whether two regions have the same intervals, in any order, and no different variables."""
    if gold.variables and answer.variables and gold.variables != answer.variables:
        return False
    unmatched = list(answer.intervals)
    for interval in gold.intervals:
        match = next(
            (
                other
                for other in unmatched
                if (interval.left, interval.right) == (other.left, other.right)
                and equal(interval.low, other.low)
                and equal(interval.high, other.high)
            ),
            None,
        )
        if match is None:
            return False
        unmatched.remove(match)
    return not unmatched


def _same_list(gold: str, answer: str, gold_items: list[str] | None, answer_items: list[str] | None) -> bool:
    """Compare two answers of which at least one is a list or set. The order of the items does not count.

    If one lists values by name, `x = 1, y = 2`, the other may be a list without names in the same order, or a tuple in
    the alphabetical order of the names: `(1, 2)`.
    """
    gold_tuple, answer_tuple = tuple_or_interval(_without_name(gold)), tuple_or_interval(_without_name(answer))
    if gold_items and answer_items:
        names, answer_names = _distinct_names(gold_items), _distinct_names(answer_items)
        if len(gold_items) == len(answer_items) and bool(names) != bool(answer_names):
            return all(map(equal, map(_without_name, gold_items), map(_without_name, answer_items)))
        return _same_multiset(gold_items, answer_items)
    # Only one of the two is a list; `other_*` are of the one that is not.
    listed = gold_items or answer_items
    other_tuple, other_text = (answer_tuple, answer) if gold_items else (gold_tuple, gold)
    assert listed is not None
    if len(listed) == 1:
        return equal(listed[0], answer) if gold_items else equal(gold, listed[0])
    if other_tuple is None or other_tuple[0] not in ("()", "[]"):
        other_items = list_items(_without_name(other_text)) or []
        both = (listed, other_items) if gold_items else (other_items, listed)
        return bool(other_items) and _same_multiset(*both)
    names = _distinct_names(listed)
    if names and other_tuple[0] == "()":
        listed = [_without_name(item) for _, item in sorted(zip(names, listed, strict=True))]
    elif other_tuple[0] == "()" or len(other_tuple[1]) == 2:
        return False  # a tuple is not a list, and `[1, 2]` is an interval; `[1, 2, 3]` is a list
    same_length = len(listed) == len(other_tuple[1])
    return same_length and all(
        equal(*((item, other) if gold_items else (other, item)))
        for item, other in zip(listed, other_tuple[1], strict=True)
    )


def _distinct_names(listed: list[str]) -> list[str]:
    """Return the names in a list of equations such as `x = 1, y = 2`; [] if an item has no name or two share one."""
    names = []
    for item in listed:
        sides, signs = split_relation(item)
        if signs != ["="] or not is_name(sides[0]):
            return []
        names.append(name_without_index(sides[0]))
    return names if len(set(names)) == len(names) else []


def _without_name(text: str) -> str:
    """Return the value of a named answer: `x = 5` -> `5`, `x \\in S` -> `S`. Return any other text unchanged."""
    sides, signs = split_relation(text)
    return sides[1] if len(signs) == 1 and signs[0] in ("=", r"\in") and is_name(sides[0]) else text


def _same_multiset(gold: list[str], answer: list[str]) -> bool:
    """Return whether two lists have equal items in any order: first equal strings are paired, then equal values."""
    if len(gold) != len(answer):
        return False
    remaining, unmatched = list(answer), []
    for item in gold:
        match = next((other for other in remaining if canonical(other) == canonical(item)), None)
        if match is None:
            unmatched.append(item)
        else:
            remaining.remove(match)
    if len(unmatched) > ITEM_LIMIT and any(parse_number(item) is None for item in unmatched):
        return False
    for item in unmatched:
        match = next((other for other in remaining if equal(item, other)), None)
        if match is None:
            return False
        remaining.remove(match)
    return True


def _both_equal(gold: str, answer: str) -> bool:
    """Return whether two parts are equal; an empty part is not equal to anything."""
    return bool(gold and answer) and equal(gold, answer)


def _same_single(gold: str, answer: str) -> bool:
    """Compare two answers that are one tuple, matrix or expression each."""
    gold, answer = expand_determinants(gold), expand_determinants(answer)
    gold_rows, answer_rows = matrix_entries(gold), matrix_entries(answer)
    gold_tuple, answer_tuple = _tuples(gold, answer, bool(gold_rows or answer_rows))
    if gold_rows and answer_tuple and answer_tuple[0] == "()":
        answer_rows = [[entry] for entry in answer_tuple[1]]  # a column vector may be written as a tuple
    elif answer_rows and gold_tuple and gold_tuple[0] == "()":
        gold_rows = [[entry] for entry in gold_tuple[1]]
    if gold_rows or answer_rows:
        row_lengths = [[len(row) for row in either or []] for either in (gold_rows, answer_rows)]
        return row_lengths[0] == row_lengths[1] and all(
            _both_equal(gold_entry, answer_entry)
            for gold_row, answer_row in zip(gold_rows or [], answer_rows or [], strict=True)
            for gold_entry, answer_entry in zip(gold_row, answer_row, strict=True)
        )
    if gold_tuple or answer_tuple:
        if (
            gold_tuple is None
            or answer_tuple is None
            or gold_tuple[0] != answer_tuple[0]
            or len(gold_tuple[1]) != len(answer_tuple[1])
        ):
            return False
        return all(map(_both_equal, gold_tuple[1], answer_tuple[1]))
    if CUP.search(gold) or CUP.search(answer):
        return False
    return _same_indivisible(_without_outer_brackets(gold), _without_outer_brackets(answer))


def _tuples(gold: str, answer: str, has_matrix: bool) -> list[Tuple | None]:
    """Return the tuples of both answers. A sum of unit vectors is a tuple if the other answer is a vector as well."""
    tuples, sums = [_tuple(gold), _tuple(answer)], [unit_vector_sum(gold), unit_vector_sum(answer)]
    if not any(sums) or not all(has_matrix or one or entries for one, entries in zip(tuples, sums, strict=True)):
        return tuples
    longest = max(len(one[1]) if one else len(entries or []) for one, entries in zip(tuples, sums, strict=True))
    return [
        ("()", entries + ["0"] * (longest == 3 and len(entries) == 2)) if entries else one
        for one, entries in zip(tuples, sums, strict=True)
    ]


def _tuple(text: str) -> Tuple | None:
    """Return the brackets and items of a tuple, an interval or a sum of multiples of tuples."""
    entries = vector_sum(text)
    return tuple_or_interval(text) if entries is None else ("()", entries)


def _without_outer_brackets(text: str) -> str:
    text = unwrap_text(text) if r"\text" not in text else text.strip()
    while text.startswith("(") and text.endswith(")") and closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _same_indivisible(gold: str, answer: str) -> bool:
    """Compare two answers that are not split further: quantities, words, ratios and expressions."""
    decided = _decide_cheaply(gold, answer)
    if decided is not None:
        return decided
    if ":" in gold or ":" in answer:
        gold_parts, answer_parts = (split_outside_brackets(unwrap_text(text), COLON)[0] for text in (gold, answer))
        return len(gold_parts) == len(answer_parts) > 1 and all(map(_both_equal, gold_parts, answer_parts))
    if _same_angle(gold, answer) or _same_angle(answer, gold):
        return True
    gold_expression, gold_unit = split_unit(gold, None)
    answer_expression, answer_unit = split_unit(answer, gold_unit.names)
    return gold_unit.has_unit_of(answer_unit) and same_expression(gold_expression, answer_expression)


def _same_angle(degrees: str, radians: str) -> bool:
    """Return whether the first is a number of degrees and the second an equal multiple of `\\pi`, in radians."""
    angle = parse_quantity(degrees)
    if angle is None or angle.names != {"degree"} or r"\pi" not in radians or r"\circ" in radians:
        return False
    expression, unit = split_unit(radians)
    return unit.names <= {"radian"} and same_expression(expression, rf"({angle.value})\pi/180")
