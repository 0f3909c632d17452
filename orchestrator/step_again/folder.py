"""Files of a recorded step: `<run>/steps/step-000003/` holds all that its update depended on, and what came of it.

`start/` has policy and optimizer before the update, as in a checkpoint; `batch.safetensors` the batch with the token
log-probs before and after the update; `step.json` coefficients, metrics and machine; `config.yaml` the settings.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from objectives.diagnostics import Stats
from trajectories.batch import TOKEN_FIELDS, TOKEN_TABLES, TRAJECTORY_FIELDS, TRAJECTORY_TABLES, Batch, Totals

STEP, BATCH, START = "step.json", "batch.safetensors", "start"
SCORES = "scores"
"""Prefix of the names of `RecordedStep.scores` in the file of the batch."""


@dataclass(frozen=True, kw_only=True)
class RecordedStep:
    """One update: what it was given, and what came of it."""

    step: int
    """Number of the step that the update makes, as in metrics.jsonl."""
    batch: Batch = field(repr=False)
    coefficients: Mapping[str, float]
    """Coefficient of each divergence term."""
    stats: Stats
    """Metrics of the update."""
    scores: Mapping[str, Tensor] = field(repr=False)
    """float32 [N]: `logp_before`, `entropy_before`, and `logp_after` the update, in nats."""
    machine: Mapping[str, Any]
    """Where the learner computed, of `comparison.machine_of`."""


def write(folder: Path, recorded: RecordedStep) -> None:
    """Write batch, scores, metrics and machine to an existing folder."""
    batch = recorded.batch
    tensors = {name: getattr(batch, name) for name in (*TOKEN_FIELDS, *TRAJECTORY_FIELDS)}
    for table in (*TOKEN_TABLES, *TRAJECTORY_TABLES):
        tensors |= {f"{table}/{name}": values for name, values in getattr(batch, table).items()}
    tensors |= {f"{SCORES}/{name}": values for name, values in recorded.scores.items()}
    present = {name: values.cpu().contiguous().clone() for name, values in tensors.items() if values is not None}
    save_file(present, folder / BATCH)
    others = {
        "step": recorded.step,
        "coefficients": dict(recorded.coefficients),
        "stats": recorded.stats,
        "machine": dict(recorded.machine),
        "domains": batch.domains,
        "totals": {route: asdict(totals) for route, totals in batch.totals.items()},
        "term_factors": batch.term_factors,
    }
    (folder / STEP).write_text(json.dumps(others, indent=1) + "\n")


def read(folder: Path) -> RecordedStep:
    """Read what `write` wrote.

    Raises:
        ValueError: a file is missing or damaged.
    """
    try:
        others = json.loads((folder / STEP).read_text())
        tensors = load_file(folder / BATCH)
        fields: dict[str, Any] = {name: tensors.get(name) for name in (*TOKEN_FIELDS, *TRAJECTORY_FIELDS)}
        for table in (*TOKEN_TABLES, *TRAJECTORY_TABLES):
            fields[table] = _below(tensors, table)
        batch = Batch(
            **fields,
            domains=tuple(others["domains"]),
            totals={route: Totals(**totals) for route, totals in others["totals"].items()},
            term_factors=others["term_factors"],
        )
        return RecordedStep(
            step=others["step"],
            batch=batch,
            coefficients=others["coefficients"],
            stats={name: (value, weight) for name, (value, weight) in others["stats"].items()},
            scores=_below(tensors, SCORES),
            machine=others["machine"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"FOLDER: must be a step that a run recorded, got {str(folder)!r} ({reason})") from None


def _below(tensors: Mapping[str, Tensor], table: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{table}/"): values for name, values in tensors.items() if name.startswith(f"{table}/")}
