"""Decide whether two normalised answers are equal, in stages from cheap to expensive.

The stages are: exact numbers with units, equal strings, words and choices; regions of the real line; lists, tuples,
matrices and relations part by part; and last, one expression against one expression. A text that no stage can parse is
equal only to the same string; its meaning is not guessed.
"""

import re

from rewards.mathematics.identity import rounds_to, same_expression, same_relation
from rewards.mathematics.numerals import parse_decimal_comma, parse_number
from rewards.mathematics.structures import (
    COLON,
    CUP,
    FLIPPED,
    SEPARATOR,
    Region,
    is_name,
    list_items,
    matrix_entries,
    name_without_index,
    parse_region,
    split_relation,
    tuple_or_interval,
)
from rewards.mathematics.text import canonical, closes_at_end, split_outside_brackets, unwrap_text
from rewards.mathematics.units import parse_quantity, split_unit
from rewards.mathematics.words import choice_content, choices_equal, is_words, same_words, time_or_base

ITEM_LIMIT = 20
"""Largest number of unequal strings of two lists that are compared pairwise as expressions. Numbers have no limit."""
REGION_SIGN = re.compile(r"[<>]|\\(?:le|ge|ne|in|cup|setminus|mathbb)(?![A-Za-z])|all real")


def equal(gold: str, answer: str) -> bool:
    """Return whether two normalised answers are equal.

    Examples: `"x = 5"` and `"5"`, `"{1, 2}"` as a set and `"2, 1"`, `"(x+1)^2"` and `"x^2+2x+1"` -> True.
    Raises: TooLarge. A text of bounded depth never raises RecursionError.
    """
    if not answer:
        return False
    decided = _decide_cheaply(gold, answer)
    if decided is not None:
        return decided
    if REGION_SIGN.search(gold) or REGION_SIGN.search(answer):
        gold_region, answer_region = parse_region(gold), parse_region(answer)
        if gold_region and answer_region:
            return _same_region(gold_region, answer_region)
    gold_items, answer_items = list_items(gold), list_items(answer)
    if gold_items or answer_items:
        return _same_list(gold, answer, gold_items, answer_items)
    gold_sides, gold_signs = split_relation(gold)
    answer_sides, answer_signs = split_relation(answer)
    if gold_signs or answer_signs:
        return _same_relation(gold_sides, gold_signs, answer_sides, answer_signs)
    return _same_single(gold, answer)


def _decide_cheaply(gold: str, answer: str) -> bool | None:
    """Compare exact numbers, strings, choices and words; return None if these do not decide."""
    gold_quantity, answer_quantity = parse_quantity(gold), parse_quantity(answer)
    if gold_quantity and answer_quantity:
        return gold_quantity.equals(answer_quantity)
    if canonical(gold) == canonical(answer):
        return True
    for quantity, other in ((gold_quantity, answer), (answer_quantity, gold)):
        with_decimal_comma = parse_decimal_comma(other) if quantity and not quantity.units else None
        if quantity and with_decimal_comma is not None:
            return quantity.value == with_decimal_comma
    same_choice = choices_equal(gold, answer)
    if same_choice is not None:
        return same_choice
    if is_words(gold):
        return same_words(gold, answer)
    gold_content, answer_content = choice_content(gold), choice_content(answer)
    if (gold_content is None) != (answer_content is None):
        return equal(
            gold if gold_content is None else gold_content, answer if answer_content is None else answer_content
        )
    return None


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


def _same_relation(gold: list[str], gold_signs: list[str], answer: list[str], answer_signs: list[str]) -> bool:
    """Compare two answers of which at least one is a relation.

    An equation with a name equals its value: `x = 5` and `x = 2+3 = 5` equal `5`. Otherwise the relations must be the
    same.
    """
    if any(not side or len(split_outside_brackets(side, SEPARATOR)[0]) > 1 for side in (*gold, *answer)):
        return False
    value_signs = {"=", r"\approx", r"\in"}
    if not set(gold_signs) | set(answer_signs) <= value_signs:
        return _same_chain(gold, gold_signs, answer, answer_signs)
    if gold_signs and answer_signs:
        names = [_leading_name(sides) for sides in (gold, answer)]
        if names[0] is not None and names[1] is not None and canonical(names[0]) == canonical(names[1]):
            return equal(_last_exact_value(gold, gold_signs), _last_exact_value(answer, answer_signs))
        return _same_chain(gold, gold_signs, answer, answer_signs)
    if gold_signs:
        return _chain_equals_value(gold, gold_signs, answer[0])
    return _chain_equals_value(answer, answer_signs, gold[0])


def _chain_equals_value(sides: list[str], signs: list[str], value: str) -> bool:
    """Return whether a chain of equations equals a value: `x = 2+3 = 5`, `5 = x` and `2+3 = 5` equal 5.

    The value may also be the correctly rounded decimal at the end of the chain: `x = \\sqrt{2} \\approx 1.41`.
    """
    if len(sides) == 2 and is_name(sides[1]) and not is_name(sides[0]):
        sides = sides[::-1]
    if _leading_name(sides) is None:
        return _every_value_equals(sides, signs, value)
    last = _last_exact_value(sides, signs)
    rounded = len(sides) > 2 and signs[-1] == r"\approx" and equal(value, sides[-1]) and rounds_to(last, sides[-1])
    return rounded or equal(value, last)


def _leading_name(sides: list[str]) -> str | None:
    return sides[0] if is_name(sides[0]) and len(sides) > 1 else None


def _last_exact_value(sides: list[str], signs: list[str]) -> str:
    """Return the last side of a chain that begins with a name, before the first approximate side."""
    exact = next((index for index, sign in enumerate(signs) if index and sign == r"\approx"), len(signs))
    return sides[exact]


def _every_value_equals(values: list[str], signs: list[str], gold: str) -> bool:
    """Return whether every side of a chain equals the gold or, after `\\approx`, is the gold rounded or truncated."""
    approximate = False
    for value, sign in zip(values, ["=", *signs], strict=False):
        approximate |= sign == r"\approx"
        if not equal(gold, value) and not (approximate and rounds_to(gold, value)):
            return False
    return True


def _same_chain(gold: list[str], gold_signs: list[str], answer: list[str], answer_signs: list[str]) -> bool:
    """Return whether two relations are the same.

    They are if their sides and signs are equal in order or in reverse (`1 < x` and `x > 1`), or if both have one sign
    and differ by a constant factor (`2x = 4` and `x = 2`).
    """
    if not gold_signs or len(gold_signs) != len(answer_signs):
        return False
    reversed_signs = [FLIPPED.get(sign, sign) for sign in reversed(answer_signs)]
    for sides, signs in ((answer, answer_signs), (answer[::-1], reversed_signs)):
        if signs == gold_signs and all(map(_both_equal, gold, sides)):
            return True
    if len(gold_signs) > 1 or any(sign in (r"\in", r"\approx") for sign in gold_signs):
        return False
    if gold_signs == answer_signs:
        return same_relation(gold, answer, ordered=gold_signs[0] not in ("=", r"\ne"))
    return gold_signs == reversed_signs and same_relation(gold, answer[::-1], ordered=True)


def _both_equal(gold: str, answer: str) -> bool:
    """Return whether two parts are equal; an empty part is not equal to anything."""
    return bool(gold and answer) and equal(gold, answer)


def _same_single(gold: str, answer: str) -> bool:
    """Compare two answers that are one tuple, matrix or expression each."""
    gold_tuple, answer_tuple = tuple_or_interval(gold), tuple_or_interval(answer)
    gold_rows, answer_rows = matrix_entries(gold), matrix_entries(answer)
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


def _without_outer_brackets(text: str) -> str:
    text = unwrap_text(text) if r"\text" not in text else text.strip()
    while text.startswith("(") and text.endswith(")") and closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _same_indivisible(gold: str, answer: str) -> bool:
    """Compare two answers that are not split further: quantities, words, times, ratios and expressions."""
    decided = _decide_cheaply(gold, answer)
    if decided is not None:
        return decided
    if time_or_base(gold) or time_or_base(answer):
        return time_or_base(gold) == time_or_base(answer)
    if ":" in gold or ":" in answer:
        gold_parts, answer_parts = (split_outside_brackets(unwrap_text(text), COLON)[0] for text in (gold, answer))
        return len(gold_parts) == len(answer_parts) > 1 and all(map(_both_equal, gold_parts, answer_parts))
    (gold, gold_units), (answer, answer_units) = split_unit(gold), split_unit(answer)
    if gold_units and answer_units and not (gold_units <= answer_units or answer_units <= gold_units):
        return False
    return same_expression(gold, answer)
