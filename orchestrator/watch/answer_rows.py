"""Rows of trajectories.jsonl: one answer each, with all that is needed to judge it again."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trajectories.trajectory import Group, Trajectory

TOKEN_LIMIT = 4_096
"""Tokens of an answer that are in its row with their values. Its text is always whole."""
CHARACTER_TOKENS = 8
"""Most tokens that one character is divided into; with more, their bytes are no character."""


def answer_row(
    step: int,
    group: Group,
    trajectory: Trajectory,
    render: Callable[[Sequence[int]], str],
    values: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return the row of one answer. It holds what `breadth verify` needs to judge the answer again.

    Args:
        render: returns the text of token ids, with special tokens.
        values: float32 [T] by name, of `Signals.tokens`.
    """
    grade = trajectory.grade
    return {
        "step": step,
        "prompt_id": trajectory.prompt_id,
        "sample_index": trajectory.sample_index,
        "group_size": len(group.trajectories),
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
        "tokens": token_values(trajectory, render, values or {}),
    }


def token_values(
    trajectory: Trajectory, render: Callable[[Sequence[int]], str], values: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the tokens of an answer from the first generated one: their `count`, and for the first TOKEN_LIMIT of
    them `texts`, `logp_sampler` and the other values, with 4 digits; None where the policy did not generate the token
    or the step has no value for it."""
    first = int(trajectory.mask.argmax())
    part = slice(first, first + TOKEN_LIMIT)
    logps = np.where(trajectory.mask, trajectory.logp_sampler, np.nan)
    columns = {"logp_sampler": logps, **values}
    return {
        "count": len(trajectory.tokens) - first,
        "texts": token_texts(trajectory.tokens[part].tolist(), render),
        **{name: [_short(value) for value in column[part].tolist()] for name, column in columns.items()},
    }


def token_texts(ids: Sequence[int], render: Callable[[Sequence[int]], str]) -> list[str]:
    """Return the text of each token as it is in its answer, so that together they are the answer.

    A character that several tokens make up is the text of the last of them, and that of the others is empty. Each token
    is decoded behind the one before it, because some tokenizers drop the space at the beginning of a text.
    """
    texts: list[str] = []
    begin = 0
    """First token of the character in progress."""
    for end in range(1, len(ids) + 1):
        before = ids[max(begin - 1, 0) : begin]
        text = render([*before, *ids[begin:end]])[len(render(before)) :]
        unfinished = text.endswith("\N{REPLACEMENT CHARACTER}") and end - begin < CHARACTER_TOKENS and end < len(ids)
        texts.append("" if unfinished else text)
        begin = begin if unfinished else end
    return texts


def _short(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None


def _json_or_none(problem: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the problem, or None if it is not strict JSON: a broken problem must not end the run."""
    try:
        json.dumps(dict(problem), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return dict(problem)
