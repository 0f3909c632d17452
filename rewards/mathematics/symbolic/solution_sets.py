"""Compare the solutions of an equation or inequality of one unknown, as the gold `x^2 < 4`, with an answer as sets.

The answer must be solved: values or intervals. An answer that is itself an equation may only repeat the question.
"""

from typing import Any

from rewards.mathematics.expressions.identity import GROUNDS, compare, parse_or_none
from rewards.mathematics.expressions.parser import Node
from rewards.mathematics.expressions.trees import symbols
from rewards.mathematics.names import is_name
from rewards.mathematics.regions import parse_region
from rewards.mathematics.structures import list_items, split_relation
from rewards.mathematics.symbolic.limits import Undecided, limited
from rewards.mathematics.symbolic.sizes import check_size
from rewards.mathematics.symbolic.symbols import Names, from_sympy, library, to_sympy
from rewards.mathematics.text import canonical

RELATIONS = {"=": "Eq", "<": "Lt", ">": "Gt", r"\le": "Le", r"\ge": "Ge", r"\ne": "Ne"}
NOTHING = {r"\emptyset", *(f"no{real}solution{s}" for real in ("", "real") for s in ("", "s"))}
INTERVALS_LIMIT = 20
Part = tuple[bool, Node, Node, bool]
"""An interval: whether it is open on the left, its ends, and whether it is open on the right."""


def same_solutions(gold: str, answer: str) -> bool:
    """Return whether an answer is the solution set of a gold that is an unsolved relation.

    False also if the gold is solved or has several unknowns, or the answer is not a solved set.
    Example: `"x^2 - 5x + 6 = 0"` and `"x = 2, x = 3"` -> True.
    """
    relation = _relation(gold)
    if relation is None:
        return False
    sign, left, right, name = relation
    texts = _solved(answer, name)
    if texts is None:
        return False
    ends = [parse_or_none(text) for interval in texts for text in interval[1:3]]
    try:
        check_size(left, right, *(end for end in ends if end is not None))
        solutions = limited(lambda: _solve(sign, left, right, name))
        if any(end is None or symbols(end) for end in ends):
            return False
        answered = limited(lambda: _parts(_union(texts, [end for end in ends if end is not None]), {}))
    except Undecided:
        GROUNDS.notes.add("undecided")
        return False
    same = len(solutions) == len(answered) and all(map(_same_part, solutions, answered))
    if same:
        GROUNDS.notes.add("proved")
    return same


def _relation(text: str) -> tuple[str, Node, Node, str] | None:
    """Return the sign, the sides and the unknown of an unsolved relation; None for any other text."""
    sides, signs = split_relation(text)
    if len(signs) != 1 or signs[0] not in RELATIONS or any(is_name(side, trusted=True) for side in sides):
        return None
    left, right = map(parse_or_none, sides)
    if left is None or right is None or len(names := symbols(left) | symbols(right)) != 1:
        return None
    return signs[0], left, right, next(iter(names))


def _solved(text: str, name: str) -> list[tuple[str, str, str, str]] | None:
    """Return the intervals of a solved answer, with values as intervals; None for any other text.

    A single value needs its name or the braces of a set: the gold is an equation.
    """
    if canonical(text).lower() in NOTHING:
        return []
    region = parse_region(text)
    if region is not None:
        intervals = [(part.left, part.low, part.high, part.right) for part in region.intervals]
        return intervals if len(intervals) <= INTERVALS_LIMIT else None
    items = list_items(text) or [text]
    intervals = []
    for item in items:
        sides, signs = split_relation(item)
        named = signs == ["="] and canonical(sides[0]) == canonical(name)
        if not named and (signs or len(items) == 1):
            return None
        intervals.append(("[", sides[-1], sides[-1], "]"))
    return intervals if len(intervals) <= INTERVALS_LIMIT else None


def _solve(sign: str, left: Node, right: Node, name: str) -> list[Part]:
    sympy = library()
    names: Names = {}
    relation = getattr(sympy, RELATIONS[sign])(to_sympy(left, names), to_sympy(right, names))
    if relation in (sympy.true, sympy.false):
        return _parts(sympy.S.Reals if relation is sympy.true else sympy.S.EmptySet, names)
    return _parts(sympy.solveset(relation, names[name], sympy.S.Reals), names)


def _union(texts: list[tuple[str, str, str, str]], ends: list[Node]) -> Any:
    """Return the union of the intervals of an answer. Raises: Undecided if one of them is empty, as `(3, 2)`."""
    sympy = library()
    values = [to_sympy(end, {}) for end in ends]
    intervals = [
        sympy.Interval(low, high, interval[0] == "(", interval[3] == ")")
        for interval, low, high in zip(texts, values[::2], values[1::2], strict=True)
    ]
    if sympy.S.EmptySet in intervals:
        raise Undecided
    return sympy.Union(*intervals)


def _parts(solutions: Any, names: Names) -> list[Part]:
    """Return the intervals and points of a set of sympy in order. Raises: Undecided for any other set."""
    sympy = library()
    found: list[tuple[Any, Any, bool, bool]] = []
    for part in solutions.args if isinstance(solutions, sympy.Union) else [solutions]:
        if isinstance(part, sympy.FiniteSet):
            found += [(point, point, False, False) for point in part.args]
        elif isinstance(part, sympy.Interval):
            found.append((part.start, part.end, bool(part.left_open), bool(part.right_open)))
        elif part is sympy.S.Reals:
            found.append((-sympy.oo, sympy.oo, True, True))
        elif part is not sympy.S.EmptySet:
            raise Undecided
    if len(found) > INTERVALS_LIMIT:
        raise Undecided
    found.sort(key=lambda part: (part[0].evalf(40), part[1].evalf(40)))
    return [(left, from_sympy(low, names), from_sympy(high, names), right) for low, high, left, right in found]


def _same_part(one: Part, other: Part) -> bool:
    if (one[0], one[3]) != (other[0], other[3]):
        return False
    pairs = (one[1], other[1]), (one[2], other[2])
    return all(left == right or compare(left, right) == "equal" for left, right in pairs)
