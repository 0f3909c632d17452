"""Make the tasks of graders from answers."""

from collections.abc import Mapping
from typing import Any

from actors.contracts import GradeTask
from configs.rewards import ANSWER_REWARD, RewardConfig
from rewards.registry import VERIFIERS
from trajectories.trajectory import Prompt, Trajectory, domain


def tasks_of(
    prompt: Prompt, job_key: str, answer: Trajectory, rewards: Mapping[str, RewardConfig]
) -> dict[str, GradeTask]:
    """Return the tasks of one answer by the name of the reward.

    Args:
        job_key: key of the answer's `GenerationJob`.
        rewards: `objective.rewards`; empty: the reward of the problem's own verifier alone.
    """
    key = f"{job_key}#{answer.sample_index}"
    verifiers = {ANSWER_REWARD: (key, prompt.verifier)} | {
        name: (f"{key}/{name}", reward.verifier) for name, reward in rewards.items() if reward.verifier
    }
    return {
        name: GradeTask(
            key=own_key,
            verifier=verifier,
            problem=prompt.problem,
            answer=answer.text,
            context=_context(prompt, verifier, answer),
        )
        for name, (own_key, verifier) in verifiers.items()
    }


def _context(prompt: Prompt, verifier: str, trajectory: Trajectory) -> dict[str, Any]:
    """Return what a user verifier may be told besides answer and problem; nothing for a built-in one."""
    if verifier in VERIFIERS:
        return {}
    return {
        "prompt": prompt.text,
        "messages": list(prompt.messages),
        "completion_ids": trajectory.tokens[trajectory.mask].tolist(),
        "step": trajectory.last_version,
        "domain": domain(prompt.id),
    }
