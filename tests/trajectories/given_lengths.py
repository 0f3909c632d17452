"""Trajectories and batches of given lengths."""

import numpy as np

from trajectories.batch import Batch, pack
from trajectories.trajectory import Grade, Group, Prompt, Route, Trajectory

PROMPT = Prompt(id="p", position=0, text="", verifier="", problem={})


def trajectory(
    index: int, prompt: int, answer: int, reward: float | None = 1.0, route: Route = "explore"
) -> Trajectory:
    """A trajectory of `prompt` and `answer` tokens, whose token ids begin at 100 * index."""
    length = prompt + answer
    mask = np.arange(length) >= prompt
    return Trajectory(
        prompt_id="p",
        sample_index=index,
        tokens=np.arange(length, dtype=np.int32) + 100 * index,
        mask=mask,
        logp_sampler=-0.5 * mask.astype(np.float32),
        first_version=3,
        last_version=3,
        finish_reason="stop",
        seed=index,
        text="",
        route=route,
        grade=Grade(reward=reward, status="correct" if reward is not None else "grader_error"),
        logp_reference=-np.ones(length, dtype=np.float32) if route == "rehearse" else None,
    )


def batch_of(*shapes: tuple[int, int]) -> Batch:
    """A batch of groups of one answer each, with these (prompt, answer) lengths."""
    return pack([Group(prompt=PROMPT, trajectories=(trajectory(i, *shape),)) for i, shape in enumerate(shapes)])
