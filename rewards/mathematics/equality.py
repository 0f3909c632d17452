"""Equality of two normalised answers, in stages from cheap to dear.

Exact numbers with units, the same string, words and choices, regions of the line, lists, tuples, matrices and relations
part by part, and last one expression against one expression. What the gold holds and no stage can read compares as a
string: nothing is guessed.
"""

import re

from rewards.mathematics.identity import rounds_to, same_expression, same_relation
from rewards.mathematics.numerals import decimal_comma, number
from rewards.mathematics.structures import (
    COLON,
    CUP,
    FLIPPED,
    SEPARATOR,
    Region,
    bracketed,
    is_name,
    items,
    matrix,
    region,
    relation,
    variable,
)
from rewards.mathematics.text import bare, canonical, closes_at_end, split
from rewards.mathematics.units import quantity, without_unit
from rewards.mathematics.words import choices_equal, content, same_words, special, wordy

ITEM_LIMIT = 20
"""Items of a list that are compared one against another as expressions."""
REGIONAL = re.compile(r"[<>]|\\(?:le|ge|ne|in|cup|setminus|mathbb)(?![A-Za-z])|all real")


def equal(gold: str, answer: str) -> bool:
    """Whether an answer says what the gold says. Raises TooLarge, and RecursionError for no text of bounded depth."""
    if not answer:
        return False
    decided = _quickly(gold, answer)
    if decided is not None:
        return decided
    if REGIONAL.search(gold) or REGIONAL.search(answer):
        ours, theirs = region(gold), region(answer)
        if ours and theirs:
            return _same_region(ours, theirs)
    ours_listed, theirs_listed = items(gold), items(answer)
    if ours_listed or theirs_listed:
        return _same_list(gold, answer, ours_listed, theirs_listed)
    sides, signs = relation(gold)
    others, other_signs = relation(answer)
    if signs or other_signs:
        return _same_relation(sides, signs, others, other_signs)
    return _same_single(gold, answer)


def _quickly(gold: str, answer: str) -> bool | None:
    """Exact numbers, the same string, choices and words; None where these do not decide."""
    ours, theirs = quantity(gold), quantity(answer)
    if ours and theirs:
        return ours.equals(theirs)
    if canonical(gold) == canonical(answer):
        return True
    for known, text in ((ours, answer), (theirs, gold)):
        separated = decimal_comma(text) if known and not known.units else None
        if known and separated is not None:
            return known.value == separated
    chosen = choices_equal(gold, answer)
    if chosen is not None:
        return chosen
    if wordy(gold):
        return same_words(gold, answer)
    inner, other = content(gold), content(answer)
    if (inner is None) != (other is None):
        return equal(gold if inner is None else inner, answer if other is None else other)
    return None


def _same_region(ours: Region, theirs: Region) -> bool:
    if ours.variables and theirs.variables and ours.variables != theirs.variables:
        return False
    rest = list(theirs.pieces)
    for piece in ours.pieces:
        match = next(
            (
                other
                for other in rest
                if (piece.left, piece.right) == (other.left, other.right)
                and equal(piece.low, other.low)
                and equal(piece.high, other.high)
            ),
            None,
        )
        if match is None:
            return False
        rest.remove(match)
    return not rest


def _same_list(gold: str, answer: str, ours: list[str] | None, theirs: list[str] | None) -> bool:
    """Lists and sets in any order; where several unknowns are named, a bare list or tuple follows their order."""
    pair, other_pair = bracketed(_value(gold)), bracketed(_value(answer))
    if ours and theirs:
        names, other_names = _names(ours), _names(theirs)
        if len(ours) == len(theirs) and bool(names) != bool(other_names):
            return all(map(equal, map(_value, ours), map(_value, theirs)))
        return _same_multiset(ours, theirs)
    listed, tupled, single = (ours, other_pair, answer) if ours else (theirs, pair, gold)
    assert listed is not None
    if len(listed) == 1:
        return equal(listed[0], answer) if ours else equal(gold, listed[0])
    if tupled is None or tupled[0] not in ("()", "[]"):
        inner = items(_value(single))
        return _same_multiset(*((listed, inner) if ours else (inner, listed))) if inner else False
    names = _names(listed)
    if names and tupled[0] == "()":
        listed = [_value(item) for _, item in sorted(zip(names, listed, strict=True))]
    elif tupled[0] == "()" or len(tupled[1]) == 2:
        return False
    same_length = len(listed) == len(tupled[1])
    return same_length and all(
        equal(*((item, other) if ours else (other, item))) for item, other in zip(listed, tupled[1], strict=True)
    )


def _names(listed: list[str]) -> list[str]:
    """The unknowns that the items of a list are said to be, if each is another one; else nothing."""
    names = []
    for item in listed:
        sides, signs = relation(item)
        if signs != ["="] or not is_name(sides[0]):
            return []
        names.append(variable(sides[0]))
    return names if len(set(names)) == len(names) else []


def _value(text: str) -> str:
    """What stands behind a name: `x = 5` and `x \\in S`; else the text."""
    sides, signs = relation(text)
    return sides[1] if len(signs) == 1 and signs[0] in ("=", r"\in") and is_name(sides[0]) else text


def _same_multiset(gold: list[str], answer: list[str]) -> bool:
    if len(gold) != len(answer):
        return False
    rest, unmatched = list(answer), []
    for item in gold:
        same = next((other for other in rest if canonical(other) == canonical(item)), None)
        if same is None:
            unmatched.append(item)
        else:
            rest.remove(same)
    if len(unmatched) > ITEM_LIMIT and any(number(item) is None for item in unmatched):
        return False
    for item in unmatched:
        match = next((other for other in rest if equal(item, other)), None)
        if match is None:
            return False
        rest.remove(match)
    return True


def _same_relation(gold: list[str], signs: list[str], answer: list[str], other_signs: list[str]) -> bool:
    """`x=5` answers 5, and `x=2+3=5` too; else the relations have to be the same."""
    if any(not side or len(split(side, SEPARATOR)[0]) > 1 for side in (*gold, *answer)):
        return False
    plain = {"=", r"\approx", r"\in"}
    if not set(signs) | set(other_signs) <= plain:
        return _same_chain(gold, signs, answer, other_signs)
    if signs and other_signs:
        names = [_leading_name(sides) for sides in (gold, answer)]
        if names[0] is not None and names[1] is not None and canonical(names[0]) == canonical(names[1]):
            return equal(_last_value(gold, signs), _last_value(answer, other_signs))
        return _same_chain(gold, signs, answer, other_signs)
    return _says(gold, signs, answer[0]) if signs else _says(answer, other_signs, gold[0])


def _says(sides: list[str], signs: list[str], value: str) -> bool:
    """Whether a chain ends in a value: `x = 2+3 = 5`, `5 = x`, `2+3 = 5`; a rounding at its end may be the value."""
    if len(sides) == 2 and is_name(sides[1]) and not is_name(sides[0]):
        sides = sides[::-1]
    if _leading_name(sides) is None:
        return _consistent(sides, signs, value)
    last = _last_value(sides, signs)
    rounded = len(sides) > 2 and signs[-1] == r"\approx" and equal(value, sides[-1]) and rounds_to(last, sides[-1])
    return rounded or equal(value, last)


def _leading_name(sides: list[str]) -> str | None:
    return sides[0] if is_name(sides[0]) and len(sides) > 1 else None


def _last_value(sides: list[str], signs: list[str]) -> str:
    """What a named chain ends in: its last value before one that is only approximate."""
    exact = next((place for place, sign in enumerate(signs) if place and sign == r"\approx"), len(signs))
    return sides[exact]


def _consistent(values: list[str], signs: list[str], gold: str) -> bool:
    """Whether every value of a chain is the gold, or is said to be approximate and is its rounding."""
    approximate = False
    for value, sign in zip(values, ["=", *signs], strict=False):
        approximate |= sign == r"\approx"
        if not equal(gold, value) and not (approximate and rounds_to(gold, value)):
            return False
    return True


def _same_chain(gold: list[str], signs: list[str], answer: list[str], other_signs: list[str]) -> bool:
    """The same relation: side by side, read from either end, or one sign between sides that differ by a factor."""
    if not signs or len(signs) != len(other_signs):
        return False
    turned = [FLIPPED.get(sign, sign) for sign in reversed(other_signs)]
    for sides, directions in ((answer, other_signs), (answer[::-1], turned)):
        if directions == signs and all(map(_same_side, gold, sides)):
            return True
    if len(signs) > 1 or any(sign in (r"\in", r"\approx") for sign in signs):
        return False
    if signs == other_signs:
        return same_relation(gold, answer, ordered=signs[0] not in ("=", r"\ne"))
    return signs == turned and same_relation(gold, answer[::-1], ordered=True)


def _same_side(gold: str, answer: str) -> bool:
    return bool(gold and answer) and equal(gold, answer)


def _same_single(gold: str, answer: str) -> bool:
    """One tuple, matrix or expression against one."""
    ours, theirs = bracketed(gold), bracketed(answer)
    rows, other_rows = matrix(gold), matrix(answer)
    if rows and theirs and theirs[0] == "()":
        other_rows = [[entry] for entry in theirs[1]]  # a column may be written as a tuple
    elif other_rows and ours and ours[0] == "()":
        rows = [[entry] for entry in ours[1]]
    if rows or other_rows:
        shapes = [[len(row) for row in either or []] for either in (rows, other_rows)]
        return shapes[0] == shapes[1] and all(
            _same_side(ours, theirs)
            for row, other in zip(rows or [], other_rows or [], strict=True)
            for ours, theirs in zip(row, other, strict=True)
        )
    if ours or theirs:
        if ours is None or theirs is None or ours[0] != theirs[0] or len(ours[1]) != len(theirs[1]):
            return False
        return all(map(_same_side, ours[1], theirs[1]))
    if CUP.search(gold) or CUP.search(answer):
        return False
    return _same_leaf(_in_one_pair(gold), _in_one_pair(answer))


def _in_one_pair(text: str) -> str:
    text = bare(text) if r"\text" not in text else text.strip()
    while text.startswith("(") and text.endswith(")") and closes_at_end(text):
        text = text[1:-1].strip()
    return text


def _same_leaf(gold: str, answer: str) -> bool:
    decided = _quickly(gold, answer)
    if decided is not None:
        return decided
    if special(gold) or special(answer):
        return special(gold) == special(answer)
    if ":" in gold or ":" in answer:
        ours, theirs = (split(bare(text), COLON)[0] for text in (gold, answer))
        return len(ours) == len(theirs) > 1 and all(map(_same_side, ours, theirs))
    (gold, units), (answer, others) = without_unit(gold), without_unit(answer)
    if units and others and not (units <= others or others <= units):
        return False
    return same_expression(gold, answer)
