"""Partial results of an evaluation: results.jsonl, which grows by one line for each prompt, and lines for the user."""

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from configs.heldout import Decoding
from orchestrator.watch.measurement import PromptResult
from orchestrator.watch.passk import passes_at

STREAM = "results.jsonl"
"""File of an evaluation: one line for the answers of one policy to one prompt in one sampling, as soon as they are all
graded."""
EVERY_S = 15.0
"""Seconds between two lines for the user."""


class Progress:
    """Write partial results, and tell how far the evaluation is and how many seconds are left.

    Use as a context manager.

    Args:
        path: the file of partial results. It begins anew, with the results that are known already.
        log: called with a line of text at most every EVERY_S seconds, and at the end of each measurement.
    """

    def __init__(self, path: Path, log: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file, self.log, self._clock = path.open("w"), log, clock
        self._planned = self._answered = self._first = 0
        self._started = self._told = clock()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def plan(self, answers: int) -> None:
        """Note that so many answers are to be generated from now on."""
        self._planned, self._answered = answers, 0
        self._started = self._told = self._clock()

    def skip(self, answers: int) -> None:
        """Note that so many of the planned answers are there already."""
        self._planned -= answers

    def known(self, policy: str, task: str, decoding: Decoding, results: Sequence[PromptResult]) -> None:
        """Write results that were measured before."""
        for number, result in enumerate(results, 1):
            self._write(policy, task, decoding, result, number, len(results))
        self._file.flush()

    def add(
        self,
        policy: str,
        task: str,
        decoding: Decoding,
        results: Sequence[PromptResult],
        prompts: int,
        k: int,
        generated: int,
    ) -> None:
        """Write the last of `results`, and tell their values if it is time.

        Args:
            results: of the prompts of this measurement that are done.
            prompts: their number when all are done.
            k: the k of Pass@k that is told.
            generated: answers that the last result took.
        """
        self._write(policy, task, decoding, results[-1], len(results), prompts)
        self._file.flush()
        if not self._answered:
            # What came before them, as the start of generators on a full cluster, says nothing about the others.
            self._started, self._first = self._clock(), generated
        self._answered += generated
        if self._clock() - self._told >= EVERY_S:
            self._told = self._clock()
            of_task = f" on {task}" if task else ""
            left = f", about {self.seconds_left():.0f} s left" if self._answered > self._first else ""
            self.log(
                f"progress {policy}{of_task} at {decoding.words()}: {len(results)} of {prompts} prompts, "
                f"{_value(results, 1)}, {_value(results, k)}{left}"
            )

    def seconds_left(self) -> float:
        """Return the expected seconds until all planned answers are there, at the speed since the first ones."""
        taken = self._clock() - self._started
        return taken * max(self._planned - self._answered, 0) / max(self._answered - self._first, 1)

    def _write(self, policy: str, task: str, decoding: Decoding, result: PromptResult, done: int, prompts: int) -> None:
        row: dict[str, Any] = {
            "policy": policy,
            "task": task,
            "sampling": decoding.plain(),
            "prompt_id": result.prompt_id,
            "graded": result.total,
            "correct": result.correct,
            "ungraded": result.ungraded,
            "done": done,
            "prompts": prompts,
        }
        self._file.write(json.dumps(row) + "\n")


def _value(results: Sequence[PromptResult], k: int) -> str:
    values = passes_at(results, k)
    value = float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
    return f"Pass@{k} {value:.3f}" if math.isfinite(value) else f"Pass@{k} -"
