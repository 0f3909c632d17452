"""Rows of the table of sampled answers: prompt, answer, verdict, and what training computed for the answer's tokens."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trajectories.trajectory import Trajectory

TEXT_LIMIT = 2_000
"""Characters of a text in a sink's table. trajectories.jsonl holds the full text."""
TOKEN_LIMIT = 256
"""Tokens of an answer whose log-probs are in a sink's table."""


def table_row(
    row: Mapping[str, Any],
    trajectory: Trajectory,
    render: Callable[[Sequence[int]], str],
    signals: Mapping[str, float | None],
) -> dict[str, Any]:
    """Return the row of one answer in a sink's table.

    Args:
        row: of trajectories.jsonl.
        render: returns the text of token ids, with special tokens.
        signals: of `Signals.row`; empty if the answer was not trained on.
    """
    chosen = ("step", "prompt_id", "sample_index", "prompt", "answer", "status", "reason", "reward")
    rest = ("finish_reason", "first_version", "last_version", "route", "verifier")
    logps = trajectory.logp_sampler[trajectory.mask]
    return {
        **{name: shown(row[name]) for name in chosen},
        "parts": ", ".join(f"{name} {value}" for name, value in row.get("rewards", {}).items()),
        **{name: signals.get(name) for name in ("advantage", "entropy", "divergence")},
        "length": len(logps),
        "logp": float(logps.sum()),
        "token_logps": _token_logps(trajectory, logps, render),
        **{name: shown(row[name]) for name in rest},
    }


def _token_logps(trajectory: Trajectory, logps: np.ndarray, render: Callable[[Sequence[int]], str]) -> str:
    """Return each token with its log-prob under the sampler, in nats, up to TOKEN_LIMIT tokens."""
    ids = trajectory.tokens[trajectory.mask][:TOKEN_LIMIT].tolist()
    words = (f"{render([token])!r} {logp:.2f}" for token, logp in zip(ids, logps, strict=False))
    return "  ".join(words).encode("utf-8", "replace").decode()


def shown(value: Any) -> Any:
    """Return a text as a sink can store it: short, and valid UTF-8 whatever the policy generated."""
    return value[:TEXT_LIMIT].encode("utf-8", "replace").decode() if isinstance(value, str) else value
