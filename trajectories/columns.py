"""Make columns of a batch from the trajectories in it. N tokens, B trajectories."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trajectories.trajectory import OWN_ROUTES, Group, Trajectory


def meanings(groups: Sequence[Group], trajectories: int) -> Tensor:
    """Return the number of each answer's meaning within its group, int64 [B], and -1 for the answers after these."""
    numbers: list[int] = []
    for group in groups:
        seen: dict[tuple[str, str], int] = {}
        numbers += [seen.setdefault(t.meaning, len(seen)) for t in (*group.trajectories, *group.experience)]
    return torch.tensor(numbers + [-1] * (trajectories - len(numbers)))


def is_trained(own: Trajectory, mask_truncated: bool) -> bool:
    """Return whether an answer of the policy is trained on: it has a grade and is not masked as too long."""
    return own.reward is not None and not (mask_truncated and own.finish_reason == "length")


def reward_parts(trajectories: Sequence[Trajectory]) -> dict[str, Tensor]:
    """Return each of several rewards, float32 [B]; empty if there is one."""
    parts = [t.grade.parts if t.route in OWN_ROUTES and t.reward is not None and t.grade else {} for t in trajectories]
    names = dict.fromkeys(name for found in parts for name in found)
    return {name: torch.tensor([found.get(name, math.nan) for found in parts]) for name in names}


def reference_logps(trajectories: Sequence[Trajectory]) -> Tensor | None:
    """Return the stored reference log-probs, float32 [N]; None if no trajectory has any.

    They are NaN on a trajectory without them, so that a loss that uses one by mistake is NaN.
    """
    if all(t.logp_reference is None for t in trajectories):
        return None
    return _joined_or_nan(trajectories, [t.logp_reference for t in trajectories])


def anchor_logps(trajectories: Sequence[Trajectory]) -> dict[str, Tensor]:
    """Return the log-probs of further references that are known, float32 [N] by name; NaN where they are not."""
    names = dict.fromkeys(name for t in trajectories for name in t.logp_anchors)
    return {name: _joined_or_nan(trajectories, [t.logp_anchors.get(name) for t in trajectories]) for name in names}


def _joined_or_nan(trajectories: Sequence[Trajectory], columns: Sequence[np.ndarray | None]) -> Tensor:
    whole = [
        np.full(len(t.tokens), np.nan) if column is None else column
        for t, column in zip(trajectories, columns, strict=True)
    ]
    return joined(whole, torch.float32)


def joined(arrays: Sequence[np.ndarray], dtype: torch.dtype) -> Tensor:
    """Return the arrays end to end."""
    return torch.from_numpy(np.concatenate(arrays)).to(dtype)
