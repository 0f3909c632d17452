"""Audit the verdicts on a file of answers: which disagree with labels or with another verifier, or are undecided."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from orchestrator.verify_file import Row
from rewards.verdict import UNDECIDED as UNDECIDED_REASON
from rewards.verdict import Status, Verdict

FALSE_POSITIVE, FALSE_NEGATIVE, UNDECIDED, DIFFERS = "false positive", "false negative", "undecided", "differs"
MEANINGS = {
    FALSE_POSITIVE: "labelled wrong and judged correct",
    FALSE_NEGATIVE: "labelled right and not judged correct",
    DIFFERS: "another reward from the other verifier",
    UNDECIDED: "neither shown to be right nor to be wrong",
}
"""What is found about a row, in the order in which a row with several gets one, and in which they are listed."""
GAVE_UP: tuple[Status, ...] = ("timeout", "memory", "rejected", "grader_error")
"""Statuses of an answer whose check was not carried to its end. A reason that starts with UNDECIDED_REASON says so,
too."""
LISTED = 20
"""Rows of each finding that are listed. If fewer have one, rows without a finding are listed up to this number."""
WIDTH = 60
"""Characters shown of a value."""
NAME_WIDTH = 24
"""Columns of the names before the values; a longer one, such as that of a user's verifier, is folded."""


@dataclass(kw_only=True)
class Audit:
    """Findings about the rows of a file.

    Args:
        labels: whether to compare with the rows' labels, and to look for undecided answers.
        compare: name of the second verifier; "": there is none.
    """

    labels: bool
    compare: str = ""
    rows: int = 0
    labelled: int = 0
    found: Counter[str] = field(default_factory=Counter)
    """Rows by finding."""
    only: Counter[int] = field(default_factory=Counter)
    """Rows that only the first verifier (0), or only the second (1), finds correct."""
    listed: defaultdict[str, list[Group]] = field(default_factory=lambda: defaultdict(list))
    """Blocks of lines of the first LISTED rows of each finding, and of those without one ("")."""

    def add(self, row: Row, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """Count one row, and return the fields that its line of the output file has besides."""
        first, *others = verdicts
        finding = self._finding(row, verdicts)
        self.rows += 1
        self.labelled += row.label is not None
        self.found[finding] += 1
        right = [verdict.status == "correct" for verdict in verdicts]
        if right.count(True) == 1 < len(right):
            self.only[right.index(True)] += 1
        if len(self.listed[finding]) < LISTED:
            self.listed[finding].append(self._block(finding, row, verdicts))
        more: dict[str, Any] = {"extracted": first.extracted, "finding": finding}
        if self.labels:
            more["label"] = row.label
        for other in others:
            more |= {
                f"other_{name}": getattr(other, name) for name in ("version", "reward", "status", "reason", "extracted")
            }
        return more

    def _finding(self, row: Row, verdicts: Sequence[Verdict]) -> str:
        first = verdicts[0]
        labelled = self.labels and first.reward is not None and row.label is not None
        if labelled and row.label != (first.status == "correct"):
            return FALSE_NEGATIVE if row.label else FALSE_POSITIVE
        if any(other.reward != first.reward for other in verdicts[1:]):
            return DIFFERS
        return UNDECIDED if self.labels and undecided(first) else ""

    def _block(self, finding: str, row: Row, verdicts: Sequence[Verdict]) -> Group:
        """Return the lines of one row: finding, line, id, label and gold, and the verdict of each verifier."""
        label = {True: ", labelled right", False: ", labelled wrong", None: ""}[row.label if self.labels else None]
        values = Table.grid(padding=(0, 2, 0, 0))
        values.add_column(max_width=NAME_WIDTH, overflow="fold")
        values.add_column(overflow="fold")
        named = [("gold", _shown(_gold(row)))]
        for name, verdict in zip((row.verifier, self.compare), verdicts, strict=False):
            reason = f": {_shown(verdict.reason)}" if verdict.reason else ""
            named += [
                (_shown(name.rpartition("/")[2]), f"{verdict.status}{reason}"),
                ("  extracted", _shown(verdict.extracted)),
            ]
        for name, value in named:
            if value:
                values.add_row(Text(name), Text(value))
        head = f"{finding or 'no finding'}: line {row.number}, id {_shown(str(row.id))}{label}"
        return Group(Text(head, style="bold"), Padding(values, (0, 0, 0, 2)))

    def counts(self) -> dict[str, Any]:
        """Return the counts as JSON data."""
        found: dict[str, Any] = {"findings": {name: self.found[name] for name in MEANINGS if self.found[name]}}
        found |= {"labelled": self.labelled} if self.labels else {}
        return found | ({"only_here": self.only[0], "only_other": self.only[1]} if self.compare else {})

    def lines(self) -> Iterator[str]:
        """Yield the counts in words."""
        if self.labels:
            yield f"{self.labelled:,} of {self.rows:,} rows have a label, the field `correct` (true or false)"
        if self.compare:
            yield (
                f"correct here alone: {self.only[0]:,} of {self.rows:,} rows; by {self.compare} alone: {self.only[1]:,}"
            )
        for finding in [name for name in MEANINGS if self.found[name]]:
            yield f"{finding} ({MEANINGS[finding]}): {self.found[finding]:,}"

    def blocks(self) -> list[Group]:
        """Return the block of lines of each listed row."""
        chosen = [block for finding in MEANINGS for block in self.listed[finding]]
        return chosen + self.listed[""][: max(LISTED - len(chosen), 0)]


def undecided(verdict: Verdict) -> bool:
    """Return whether an answer was neither shown to be right nor to be wrong."""
    return verdict.status in GAVE_UP or verdict.reason.startswith(UNDECIDED_REASON)


def _shown(text: str) -> str:
    """Return the beginning of a text, without the characters that could change what a terminal shows."""
    printable = "".join(c if c.isprintable() else " " for c in text[: WIDTH + 1])
    return printable if len(printable) <= WIDTH else f"{printable[: WIDTH - 3]}..."


def _gold(row: Row) -> str:
    """Return the gold of a problem that has one as its field `answer`."""
    gold = (row.problem or {}).get("answer", "")
    return gold if isinstance(gold, str) else json.dumps(gold)
