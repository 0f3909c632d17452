"""Compare equations, inequalities and chains of them, such as `x = 2 + 3 = 5` and `1 < x`.

Each function gets `equal`, the comparison of two answers, for the sides.
"""

from collections.abc import Callable

from rewards.mathematics.expressions.identity import real_value, rounds_to
from rewards.mathematics.expressions.relations import same_relation
from rewards.mathematics.expressions.solved import is_solved_like
from rewards.mathematics.names import is_name
from rewards.mathematics.regions import FLIPPED
from rewards.mathematics.structures import SEPARATOR
from rewards.mathematics.text import canonical, split_outside_brackets

Equal = Callable[[str, str], bool]


def same_relations(
    gold: list[str], gold_signs: list[str], answer: list[str], answer_signs: list[str], equal: Equal
) -> bool:
    """Compare two answers of which at least one is a relation.

    An equation with a name equals its value: `x = 5` and `x = 2+3 = 5` equal `5`. Otherwise the relations must be the
    same.
    """
    if any(not side or len(split_outside_brackets(side, SEPARATOR)[0]) > 1 for side in (*gold, *answer)):
        return False
    value_signs = {"=", r"\approx", r"\in"}
    if not set(gold_signs) | set(answer_signs) <= value_signs:
        return _same_chain(gold, gold_signs, answer, answer_signs, equal)
    if gold_signs and answer_signs:
        names = _leading_name(gold, trusted=True), _leading_name(answer, trusted=True)
        if names[0] is not None and names[1] is not None and canonical(names[0]) == canonical(names[1]):
            values = _last_exact_value(gold, gold_signs, equal), _last_exact_value(answer, answer_signs, equal)
            return values[0] is not None and values[1] is not None and equal(values[0], values[1])
        return _same_chain(gold, gold_signs, answer, answer_signs, equal)
    if gold_signs:
        return _chain_equals_value(gold, gold_signs, answer[0], equal, trusted=True)
    return _chain_equals_value(answer, answer_signs, gold[0], equal)


def _chain_equals_value(sides: list[str], signs: list[str], value: str, equal: Equal, trusted: bool = False) -> bool:
    """Return whether a chain of equations equals a value: `x = 2+3 = 5`, `5 = x` and `2+3 = 5` equal 5.

    The value may also be the correctly rounded decimal at the end of the chain: `x = \\sqrt{2} \\approx 1.41`.

    Args:
        trusted: the chain is the gold.
    """
    if len(sides) == 2 and is_name(sides[1], trusted) and not is_name(sides[0], trusted):
        sides = sides[::-1]
    if _leading_name(sides, trusted) is None:
        return _every_value_equals(sides, signs, value, equal, trusted)
    last = _last_exact_value(sides, signs, equal)
    if last is None:
        return False
    is_rounded = len(sides) > 2 and signs[-1] == r"\approx" and rounds_to(last, sides[-1])
    return any(
        equal(side, value) if trusted else equal(value, side) for side in ([sides[-1]] if is_rounded else []) + [last]
    )


def _leading_name(sides: list[str], trusted: bool) -> str | None:
    return sides[0] if len(sides) > 1 and is_name(sides[0], trusted) else None


def _last_exact_value(sides: list[str], signs: list[str], equal: Equal) -> str | None:
    """Return the last side of a chain that begins with a name, before the first approximate side.

    None if the sides contradict each other, as in `x = 4 = 5`, or are two equations, as in `x = 1 y = 2`.
    """
    end = next((index for index, sign in enumerate(signs) if index and sign == r"\approx"), len(signs))
    last = sides[end]
    for side in sides[1:end]:
        *head, name = side.rsplit(" ", 1)
        if (head and is_name(name) and real_value(head[0]) is not None) or not _may_equal(side, last, equal):
            return None
    return last


def _may_equal(side: str, last: str, equal: Equal) -> bool:
    """Return whether two sides are not different numbers; the second may be the first rounded."""
    values = real_value(side), real_value(last)
    return None in values or equal(side, last) or rounds_to(side, last)


def _every_value_equals(sides: list[str], signs: list[str], value: str, equal: Equal, trusted: bool) -> bool:
    """Return whether every side of a chain equals a value or, after `\\approx`, is the value rounded or truncated."""
    approximate = False
    for side, sign in zip(sides, ["=", *signs], strict=False):
        approximate |= sign == r"\approx"
        is_equal = equal(side, value) if trusted else equal(value, side)
        if not is_equal and not (approximate and rounds_to(value, side)):
            return False
    return True


def _same_chain(
    gold: list[str], gold_signs: list[str], answer: list[str], answer_signs: list[str], equal: Equal
) -> bool:
    """Return whether two relations are the same.

    They are if their sides and signs are equal in order or in reverse (`1 < x` and `x > 1`), or if both have one sign,
    differ by a constant factor (`2x + 4y = 6` and `x + 2y = 3`), and the answer is solved if the gold is.
    """
    if not gold_signs or len(gold_signs) != len(answer_signs):
        return False
    reversed_signs = [FLIPPED.get(sign, sign) for sign in reversed(answer_signs)]
    for sides, signs in ((answer, answer_signs), (answer[::-1], reversed_signs)):
        if signs == gold_signs and all(
            one and other and equal(one, other) for one, other in zip(gold, sides, strict=True)
        ):
            return True
    if len(gold_signs) > 1 or any(sign in (r"\in", r"\approx") for sign in gold_signs):
        return False
    is_ordered = gold_signs[0] in FLIPPED
    if not is_solved_like(gold, answer, is_ordered):
        return False
    if gold_signs == answer_signs:
        return same_relation(gold, answer, is_ordered)
    return gold_signs == reversed_signs and same_relation(gold, answer[::-1], ordered=True)
