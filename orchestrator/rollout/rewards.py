"""Combine several rewards of one answer."""

from collections.abc import Mapping

from configs.rewards import ANSWER_REWARD, RewardConfig
from trajectories.trajectory import Grade

JUDGED = ("correct", "wrong")
"""Statuses of an answer that was judged to the end."""


def combined(graded: Mapping[str, Grade], rewards: Mapping[str, RewardConfig]) -> Grade:
    """Return the grade of an answer from those of its several rewards, by name.

        reward = sum over rewards of weight x reward, or 0 if a gate's reward is below 1

    Status, reason, semantic key and vote are those of `answer`, the reward of the problem's own verifier. If one of the
    rewards is missing, because its grader failed or a verdict lacks a part, so is the sum.
    """
    answer = graded[ANSWER_REWARD]
    grades = {name: graded[name] if name in graded else _part(reward.part, answer) for name, reward in rewards.items()}
    parts = {name: grades[name].reward for name in rewards}
    failed = [name for name, reward in parts.items() if reward is None]
    seconds = sum(grade.seconds for grade in graded.values())
    if failed:
        reason = f"reward {failed[0]}: {grades[failed[0]].reason}"
        return Grade(reward=None, status=grades[failed[0]].status, reason=reason, seconds=seconds, parts=parts)
    known = {name: reward for name, reward in parts.items() if reward is not None}
    open_ = all(known[name] >= 1 for name, reward in rewards.items() if reward.gate)
    total = sum(reward.weight * known[name] for name, reward in rewards.items()) if open_ else 0.0
    return Grade(
        reward=total,
        status=answer.status,
        reason=answer.reason,
        seconds=seconds,
        parts=parts,
        semantic_key=answer.semantic_key,
        vote=answer.vote,
    )


def _part(name: str, answer: Grade) -> Grade:
    """Return the grade of a part of the verdict; 0 where a fault of the answer, such as a timeout, left it out."""
    if name in answer.parts:
        return Grade(reward=answer.parts[name], status=answer.status)
    if answer.status in JUDGED:
        reason = f"the verdict has no part {name!r}, only {', '.join(answer.parts) or 'none'}"
        return Grade(reward=None, status="grader_error", reason=reason)
    return Grade(reward=None if answer.reward is None else 0.0, status=answer.status, reason=answer.reason)
