"""Rows of trajectories.jsonl: one answer each, with all that is needed to judge it again."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trajectories.trajectory import Group, Trajectory


def answer_row(
    step: int, group: Group, trajectory: Trajectory, render: Callable[[Sequence[int]], str]
) -> dict[str, Any]:
    """Return the row of one answer. It holds what `breadth verify` needs to judge the answer again.

    Args:
        render: returns the text of token ids, with special tokens.
    """
    grade = trajectory.grade
    return {
        "step": step,
        "prompt_id": trajectory.prompt_id,
        "sample_index": trajectory.sample_index,
        "prompt": group.prompt.text,
        "rendered": render(trajectory.prompt_tokens.tolist()),
        "verifier": group.prompt.verifier,
        "problem": _json_or_none(group.prompt.problem),
        "answer": trajectory.text,
        "reward": trajectory.reward,
        **({"rewards": dict(grade.parts)} if grade and grade.parts else {}),
        "status": grade.status if grade else "",
        "reason": grade.reason if grade else "",
        "first_version": trajectory.first_version,
        "last_version": trajectory.last_version,
        "finish_reason": trajectory.finish_reason,
        "route": trajectory.route,
    }


def _json_or_none(problem: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the problem, or None if it is not strict JSON: a broken problem must not end the run."""
    try:
        json.dumps(dict(problem), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return dict(problem)
