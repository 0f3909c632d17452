"""Save graded answers of the policy, with all that training reads of them, in one .npz file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from trajectories.trajectory import Grade, Trajectory

ARRAYS = ("tokens", "mask", "logp_sampler")
"""Fields of a trajectory that are arrays [T]; the file holds those of all answers end to end."""
PLAIN = ("prompt_id", "sample_index", "first_version", "last_version", "finish_reason", "seed", "text", "route")


def write_answers(path: Path, answers: Sequence[Trajectory], about: Mapping[str, Any]) -> None:
    """Write answers, and JSON values `about` them."""
    rows = [
        {name: getattr(t, name) for name in PLAIN} | {"length": len(t.tokens), "grade": asdict(t.grade)}
        for t in answers
        if t.grade is not None
    ]
    assert len(rows) == len(answers), "only graded answers are saved"
    text = json.dumps({"answers": rows, "about": dict(about)}).encode()
    empty = {"tokens": np.int32, "mask": np.bool_, "logp_sampler": np.float32}
    arrays = {name: np.concatenate([np.zeros(0, empty[name]), *(getattr(t, name) for t in answers)]) for name in ARRAYS}
    np.savez(path, json=np.frombuffer(text, np.uint8), **arrays)  # type: ignore[arg-type]


def read_answers(path: Path) -> tuple[list[Trajectory], dict[str, Any]]:
    """Return the answers and the values that `write_answers` wrote."""
    with np.load(path) as file:
        saved = json.loads(file["json"].tobytes())
        ends = np.cumsum([row["length"] for row in saved["answers"]]).astype(np.int64)
        parts = {name: np.split(file[name], ends[:-1]) for name in ARRAYS}
    answers = []
    for i, row in enumerate(saved["answers"]):
        values: dict[str, Any] = {name: row[name] for name in PLAIN} | {name: parts[name][i] for name in ARRAYS}
        answers.append(Trajectory(**values, grade=Grade(**row["grade"])))
    return answers, saved["about"]
