"""Compare a new run with the committed table: which rows fell by more than their spread."""

import statistics
from collections.abc import Sequence

from benchmarks.speed.page import values
from benchmarks.speed.result import Row, spread

FLOOR = 0.05
"""A change below this share of the committed median is never a fall: three rounds often lie closer together than two
runs."""


def fallen(new: Sequence[Row], committed: Sequence[Row], *, same_machine: bool) -> list[str]:
    """Return a line for each row whose median is worse by more than the spread over rounds of either run.

    A row with values in the table and none in the new run counts too.

    Args:
        same_machine: whether values that are not ratios can be compared.
    """
    measured = {row.name: row for row in new}
    lines = []
    for old in committed:
        if not old.compared or not (same_machine or (old.other and not old.compares_ours)):
            continue
        row = measured.get(old.name)
        if row is None or not row.compared or bool(row.other) != bool(old.other):
            lines.append(f"{old.name}: not measured ({row.reason if row and row.reason else 'no such row'})")
            continue
        worse = statistics.median(old.compared) - statistics.median(row.compared)
        worse = worse if old.higher_is_better else -worse
        allowed = max(spread(old.compared), spread(row.compared), FLOOR * abs(statistics.median(old.compared)))
        if worse > allowed:
            lines.append(f"{old.name}: {values(row.compared)}, was {values(old.compared)} ({old.title})")
    return lines
