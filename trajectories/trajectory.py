"""The thing that flows: Prompt, Trajectory, Group. Plain numpy values; importing this loads no torch.

Axes: T tokens of one trajectory (prompt and everything after it), G answers to one prompt.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Route = Literal["explore", "rehearse", "replay"]
"""Which terms of the objective a trajectory gets: `explore` (policy gradient and the on-policy
divergence), `rehearse` (the divergence on stored reference answers) or `replay` (the negative log-likelihood)."""
ROUTES: tuple[Route, ...] = ("explore", "rehearse", "replay")

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One problem: its text, and what its verifier needs to judge an answer.

    Example: Prompt(id="countdown/train/7", position=7, text="3,7,12=22:", verifier="countdown",
    problem={"numbers": [3, 7, 12], "target": 22})
    """

    id: str
    position: int
    """Index in its stream; with the stream's seed it determines the prompt."""
    text: str
    verifier: str
    """A name of `rewards/registry.py` or an import path `package.module:function`."""
    problem: Mapping[str, Any]
    """JSON values only: it crosses process borders and is written to disk."""


def domain(prompt_id: str) -> str:
    """The first segment of a prompt's id: the label of its part in a mixture, the task's name outside of one."""
    return prompt_id.partition("/")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What the grader said of one answer.

    Example: Grade(reward=0.0, status="wrong", reason="evaluates to 21, not 22", seconds=0.0001)
    """

    reward: float | None
    """None when the grader itself failed: the trajectory is masked, never counted as a 0."""
    status: str
    """A status of `rewards/verdict.py`."""
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One flat token sequence, prompt and everything after, aligned field by field with `tokens`.

    Example: Trajectory(prompt_id="countdown/train/7", sample_index=3, tokens=[5, 9, 1, 2], mask=[0, 0, 1, 1],
    logp_sampler=[0, 0, -0.4, -1.1], first_version=12, last_version=12, finish_reason="stop", seed=91,
    text="3+7+12")
    """

    prompt_id: str
    sample_index: int
    tokens: np.ndarray
    """int32 [T]"""
    mask: np.ndarray
    """bool [T]: True where the policy generated the token."""
    logp_sampler: np.ndarray
    """float32 [T], nats at the sampling temperature; 0 where `mask` is False."""
    first_version: int
    last_version: int
    """Weight versions that generated the first and the last token."""
    finish_reason: FinishReason
    seed: int
    text: str
    """The answer, decoded without special tokens."""
    route: Route = "explore"
    grade: Grade | None = None
    logp_reference: np.ndarray | None = None
    """float32 [T] of a stored reference answer; None when it has to be computed."""

    @property
    def key(self) -> str:
        """Names the trajectory in every message: its prompt and its place in the group."""
        return f"{self.prompt_id}#{self.sample_index}"

    @property
    def answer_length(self) -> int:
        return int(self.mask.sum())

    @property
    def reward(self) -> float | None:
        return None if self.grade is None else self.grade.reward


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The G answers to one prompt, in the order of their sample index."""

    prompt: Prompt
    trajectories: tuple[Trajectory, ...] = field(default=())

    @property
    def rewards(self) -> list[float]:
        """Rewards of the answers that could be graded."""
        return [t.reward for t in self.trajectories if t.reward is not None]
