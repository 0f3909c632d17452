"""When two query results are the same: bags of rows, in order only where the gold query orders them.

Cells: NULL equals NULL; integers are exact; a real is within 1e-9, relatively, of the number it equals, or is that very
integer; text never equals a number, nor a blob. Names of columns do not count.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

Row = tuple[Any, ...]

TOLERANCE = 1e-9
"""Relative, of two reals."""
MATCHING_LIMIT = 200
"""Rows, alike but for their reals, that are matched one against another; more are compared in sorted order."""
PERMUTED_COLUMNS = 5
"""Columns up to which an answer's columns may be in another order."""


def same_cells(gold: Any, answer: Any) -> bool:
    if not (_is_number(gold) and _is_number(answer)):
        return type(gold) is type(answer) and gold == answer
    if gold == answer:
        return True
    exact = (isinstance(x, int) or x.is_integer() for x in (gold, answer))
    if (isinstance(gold, int) or isinstance(answer, int)) and all(exact):
        return False
    return math.isclose(gold, answer, rel_tol=TOLERANCE, abs_tol=0.0)


def same_bag(gold: Sequence[Row], answer: Sequence[Row]) -> bool:
    """Whether the rows can be paired off so that the cells of each pair are the same."""
    if len(gold) != len(answer):
        return False
    ours, theirs = Counter(map(_typed, gold)), Counter(map(_typed, answer))
    if ours == theirs:
        return True
    groups: dict[Row, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rest in enumerate((ours - theirs, theirs - ours)):
        for row in rest.elements():
            shape = tuple("number" if _is_number(cell) else (cell,) for cell in row)
            groups[shape][side].append(row)
    return all(_pair_off(*group) for group in groups.values())


def same_rows(gold: Sequence[Row], blocks: Sequence[int] | None, answer: Sequence[Row]) -> bool:
    """Equality of results of one width: as bags, or block by block in order, `blocks` being the lengths of the runs of
    gold rows that are tied."""
    if len(gold) != len(answer):
        return False
    start = 0
    for length in (len(gold),) if blocks is None else blocks:
        if not same_bag(gold[start : start + length], answer[start : start + length]):
            return False
        start += length
    return True


def same_results(gold: Sequence[Row], blocks: Sequence[int] | None, answer: Sequence[Row], any_order: bool) -> bool:
    """`same_rows`, with `any_order` for some order of the answer's columns, one for all rows, of at most
    PERMUTED_COLUMNS."""
    if same_rows(gold, blocks, answer):
        return True
    width = len(gold[0]) if gold else 0
    if not any_order or width > PERMUTED_COLUMNS or len(gold) != len(answer):
        return False
    ours, theirs = _columns(gold), _columns(answer)
    fits = [[same_bag(column, other) for other in theirs] for column in ours]
    for order in itertools.permutations(range(width)):
        if all(fits[place][source] for place, source in enumerate(order)) and same_rows(
            gold, blocks, [tuple(row[source] for source in order) for row in answer]
        ):
            return True
    return False


def share_in_common(gold: Sequence[Row], answer: Sequence[Row]) -> float:
    """Dice coefficient of two bags of rows, cells compared exactly; 1 for two empty ones."""
    common = Counter(map(_typed, gold)) & Counter(map(_typed, answer))
    return 2 * common.total() / (len(gold) + len(answer)) if gold or answer else 1.0


def runs(keys: Sequence[Row]) -> tuple[int, ...]:
    """Lengths of the runs of equal keys."""
    return tuple(len(list(run)) for _, run in itertools.groupby(keys))


def _columns(rows: Sequence[Row]) -> list[list[Row]]:
    return [[(cell,) for cell in column] for column in zip(*rows, strict=True)]


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float)


def _typed(row: Row) -> Row:
    """Python's own equality is the cells', but for NaN, which engines other than SQLite have."""
    return tuple(("nan",) if cell != cell else cell for cell in row)


def _pair_off(gold: list[Row], answer: list[Row]) -> bool:
    """Perfect matching of rows that differ in their numbers only."""
    if len(gold) != len(answer):
        return False
    numbers = [place for place, cell in enumerate(gold[0]) if _is_number(cell)]
    gold, answer = ([tuple(row[place] for place in numbers) for row in rows] for rows in (gold, answer))
    gold, answer = sorted(gold), sorted(answer)
    if all(map(_close, gold, answer)):
        return True
    if len(gold) > MATCHING_LIMIT:
        return False
    near = [[place for place, other in enumerate(answer) if _close(row, other)] for row in gold]
    partner: dict[int, int] = {}
    return all(_augment(row, near, partner, set()) for row in range(len(gold)))


def _close(gold: Row, answer: Row) -> bool:
    return all(map(same_cells, gold, answer))


def _augment(row: int, near: list[list[int]], partner: dict[int, int], seen: set[int]) -> bool:
    """One step of Kuhn's algorithm: find the row a partner, moving others to theirs if need be."""
    for other in near[row]:
        if other not in seen:
            seen.add(other)
            if other not in partner or _augment(partner[other], near, partner, seen):
                partner[other] = row
                return True
    return False
