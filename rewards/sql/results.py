"""Compare two query results: as bags (multisets) of rows, and in order only if the gold query orders its rows.

Cells compare as follows. NULL equals NULL. Two integers, or an integer and a real with an integral value, must be the
same number. Otherwise two numbers are equal within a relative tolerance of 1e-9. A text, a number and a blob are never
equal to each other. Column names do not count.
"""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

Row = tuple[Any, ...]

TOLERANCE = 1e-9
"""Relative tolerance for two reals."""
MATCHING_LIMIT = 200
"""Largest number of rows, equal except for their numbers, of which a perfect matching is searched. More rows are only
compared in sorted order."""
PERMUTED_COLUMNS_LIMIT = 5
"""Largest number of columns of which all orders are tried."""


def same_cells(gold: Any, answer: Any) -> bool:
    """Return whether two cells are equal: 1 and 1.0, 0.3 and 0.1 + 0.2 are; 1 and "1" are not."""
    if not (_is_number(gold) and _is_number(answer)):
        return type(gold) is type(answer) and gold == answer
    if gold == answer:
        return True
    exact = (isinstance(x, int) or x.is_integer() for x in (gold, answer))
    if (isinstance(gold, int) or isinstance(answer, int)) and all(exact):
        return False
    return math.isclose(gold, answer, rel_tol=TOLERANCE, abs_tol=0.0)


def same_bag(gold: Sequence[Row], answer: Sequence[Row]) -> bool:
    """Return whether the rows can be paired one to one so that the cells of each pair are equal."""
    if len(gold) != len(answer):
        return False
    gold_counts, answer_counts = Counter(map(_comparable, gold)), Counter(map(_comparable, answer))
    if gold_counts == answer_counts:
        return True
    groups: dict[Row, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for index, rest in enumerate((gold_counts - answer_counts, answer_counts - gold_counts)):
        for row in rest.elements():
            key = tuple("number" if _is_number(cell) else (cell,) for cell in row)
            groups[key][index].append(row)
    return all(_pair_rows(*group) for group in groups.values())


def same_rows(gold: Sequence[Row], tie_lengths: Sequence[int] | None, answer: Sequence[Row]) -> bool:
    """Return whether two results with the same number of columns are equal.

    Args:
        tie_lengths: numbers of successive gold rows that are tied on the sort keys. The answer's rows must have the
            same order, except within ties. None if the gold query does not order its rows.
    """
    if len(gold) != len(answer):
        return False
    start = 0
    for length in (len(gold),) if tie_lengths is None else tie_lengths:
        if not same_bag(gold[start : start + length], answer[start : start + length]):
            return False
        start += length
    return True


def same_results(
    gold: Sequence[Row], tie_lengths: Sequence[int] | None, answer: Sequence[Row], any_column_order: bool
) -> bool:
    """Return whether two results are equal as in `same_rows`, optionally with the columns in any order.

    Args:
        any_column_order: also accept the answer if one permutation of its columns, the same for all rows, makes it
            equal. Applies to at most PERMUTED_COLUMNS_LIMIT columns.
    """
    if same_rows(gold, tie_lengths, answer):
        return True
    width = len(gold[0]) if gold else 0
    if not any_column_order or width > PERMUTED_COLUMNS_LIMIT or len(gold) != len(answer):
        return False
    gold_columns, answer_columns = _columns(gold), _columns(answer)
    same_column = [[same_bag(column, other) for other in answer_columns] for column in gold_columns]
    for order in itertools.permutations(range(width)):
        if all(same_column[index][answer_index] for index, answer_index in enumerate(order)) and same_rows(
            gold, tie_lengths, [tuple(row[answer_index] for answer_index in order) for row in answer]
        ):
            return True
    return False


def row_overlap(gold: Sequence[Row], answer: Sequence[Row]) -> float:
    """Return the Dice coefficient of two bags of rows, in [0, 1]: 2 |gold and answer| / (|gold| + |answer|).

    Cells are compared exactly. Two empty bags have 1.
    """
    common = Counter(map(_comparable, gold)) & Counter(map(_comparable, answer))
    return 2 * common.total() / (len(gold) + len(answer)) if gold or answer else 1.0


def run_lengths(keys: Sequence[Row]) -> tuple[int, ...]:
    """Return the lengths of the runs of equal keys: `["a", "a", "b"]` -> `(2, 1)`."""
    return tuple(len(list(run)) for _, run in itertools.groupby(keys))


def _columns(rows: Sequence[Row]) -> list[list[Row]]:
    return [[(cell,) for cell in column] for column in zip(*rows, strict=True)]


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float)


def _comparable(row: Row) -> Row:
    """Replace NaN, which DuckDB has and which differs from itself, so that Python's `==` compares the cells of rows."""
    return tuple(("nan",) if cell != cell else cell for cell in row)


def _pair_rows(gold: list[Row], answer: list[Row]) -> bool:
    """Return whether there is a perfect matching of rows that are equal except for their numbers."""
    if len(gold) != len(answer):
        return False
    numbers = [index for index, cell in enumerate(gold[0]) if _is_number(cell)]
    gold, answer = ([tuple(row[index] for index in numbers) for row in rows] for rows in (gold, answer))
    gold, answer = sorted(gold), sorted(answer)
    if all(map(_same_row, gold, answer)):
        return True
    if len(gold) > MATCHING_LIMIT:
        return False
    candidates = [[index for index, other in enumerate(answer) if _same_row(row, other)] for row in gold]
    partners: dict[int, int] = {}
    return all(_find_partner(row, candidates, partners, set()) for row in range(len(gold)))


def _same_row(gold: Row, answer: Row) -> bool:
    return all(map(same_cells, gold, answer))


def _find_partner(row: int, candidates: list[list[int]], partners: dict[int, int], seen: set[int]) -> bool:
    """Find a partner for a row, one step of Kuhn's algorithm. Rows that have one may move to another partner."""
    for other in candidates[row]:
        if other not in seen:
            seen.add(other)
            if other not in partners or _find_partner(partners[other], candidates, partners, seen):
                partners[other] = row
                return True
    return False
