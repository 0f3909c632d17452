"""Compare an update that was run again with what was recorded."""

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from objectives.diagnostics import means
from orchestrator.step_again.folder import RecordedStep

RELATIVE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference of a metric, as a part of the recorded one, where the arithmetic is another one, by dtype."""
ABSOLUTE = {"float32": 1e-5, "bfloat16": 1e-3}
"""It may always be so large."""
NATS = {"float32": 1e-3, "bfloat16": 0.25}
"""Largest difference of a token's log-prob or entropy. bfloat16 keeps 8 bits, so that logits of 32 differ by 0.125."""


@dataclass(frozen=True)
class Difference:
    """One number that was recorded, and computed again."""

    name: str
    recorded: float
    found: float
    limit: float
    """0: they must be the same."""

    @property
    def size(self) -> float:
        """The distance of the numbers; infinite if only one of them is finite."""
        if self.recorded == self.found or (math.isnan(self.recorded) and math.isnan(self.found)):
            return 0.0
        size = abs(self.recorded - self.found)
        return size if math.isfinite(size) else math.inf

    @property
    def within(self) -> bool:
        return self.size <= self.limit

    @property
    def rank(self) -> tuple[bool, float, float]:
        """Order of the differences: those beyond their limit first, and then by size."""
        return not self.within, self.size / self.limit if self.limit else self.size, self.size


def machine_of(device: str, threads: int, ranks: int) -> dict[str, Any]:
    """Return what the arithmetic of a learner depends on, besides its settings."""
    return {
        "device": device,
        "processor": _processor(),
        "torch": torch.__version__,
        "threads": threads,
        "ranks": ranks,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def why_not_exact(recorded: Mapping[str, Any], here: Mapping[str, Any], changed: bool) -> str:
    """Return why the numbers cannot be demanded to be the same bit for bit; empty if they can.

    Args:
        changed: whether settings differ from those of the run.
    """
    if changed:
        return "settings are changed"
    different = [f"{name} {here[name]}, not {recorded.get(name)}" for name in here if here[name] != recorded.get(name)]
    if different:
        return "; ".join(different)
    return "sums on a GPU have no fixed order" if here["device"] == "gpu" else ""


def differences(recorded: RecordedStep, found: RecordedStep, dtype: str, *, exact: bool) -> list[Difference]:
    """Return all metrics, and for each kind of score the token that differs most, the largest differences first.

    Args:
        dtype: of the forward pass, which determines the limits.
    """
    before, after = means(recorded.stats), means(found.stats)
    rows = []
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name, math.nan), after.get(name, math.nan)
        limit = 0.0 if exact else max(ABSOLUTE[dtype], RELATIVE[dtype] * abs(old))
        rows.append(Difference(name, old, new, limit))
    limit = 0.0 if exact else NATS[dtype]
    trained = recorded.batch.mask
    for name, scores in recorded.scores.items():
        token = _most_different(scores, found.scores[name], trained)
        if token is not None:
            words = f"{name}, {_place(recorded, token)}"
            rows.append(Difference(words, float(scores[token]), float(found.scores[name][token]), limit))
    return sorted(rows, key=lambda row: row.rank, reverse=True)


def _most_different(recorded: Tensor, found: Tensor, trained: Tensor) -> int | None:
    """Return the token that is trained on and differs most; None if no token is trained on."""
    if not trained.any():
        return None
    distance = (recorded - found).abs().nan_to_num(nan=math.inf)
    distance[recorded.isnan() & found.isnan()] = 0.0
    return int(torch.where(trained, distance, -1.0).argmax())


def _place(recorded: RecordedStep, token: int) -> str:
    trajectory = int(recorded.batch.seq[token])
    return f"token {token - int(recorded.batch.starts[trajectory])} of trajectory {trajectory}"
