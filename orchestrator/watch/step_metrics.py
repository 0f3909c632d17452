"""Metrics of one step: of its groups (rewards, answer lengths and ungraded answers), and of its batch."""

from collections.abc import Sequence

import numpy as np

from configs.objective import ObjectiveConfig
from configs.rewards import ANSWER_REWARD
from objectives.advantage.critic import value_metrics
from objectives.advantage.token_mask import mask_metrics
from objectives.coefficient.controllers import ObjectiveState, term_metric
from objectives.coefficient.recap import replay_metrics
from objectives.diagnostics import Stats, means
from trajectories.batch import Batch
from trajectories.trajectory import Group, Trajectory, domain


def group_metrics(groups: Sequence[Group], by_domain: bool = False) -> dict[str, float]:
    """Compute the reward and length metrics of one step, named as in docs/metrics.md.

    Args:
        by_domain: add `reward/DOMAIN`, the mean reward of each domain of a mixture.
    """
    trajectories = [t for group in groups for t in group.trajectories]
    tokens = float(np.concatenate([t.mask for t in trajectories]).sum())
    rewards = [group.rewards for group in groups if group.rewards]
    graded = [reward for group in rewards for reward in group]
    values = {
        "tokens": tokens,
        "answer_length": tokens / len(trajectories),
        "truncated": float(np.mean([t.finish_reason == "length" for t in trajectories])),
        "masked": float(sum(t.reward is None for t in trajectories)),
    }
    if graded:
        values |= {
            "reward": float(np.mean(graded)),
            "reward_std": float(np.mean([np.std(group) for group in rewards])),
            "solved_groups": float(np.mean([any(map(is_right, g.trajectories)) for g in groups if g.rewards])),
            "zero_signal_groups": float(np.mean([not group.has_signal for group in groups if group.rewards])),
        }
    parts = [t.grade.parts for t in trajectories if t.grade and t.reward is not None]
    for name in dict.fromkeys(name for found in parts for name in found):
        values[f"rewards/{name}"] = float(np.mean([found[name] for found in parts if name in found]))
    if by_domain:
        domain_rewards: dict[str, list[float]] = {}
        for group in groups:
            domain_rewards.setdefault(domain(group.prompt.id), []).extend(group.rewards)
        values |= {f"reward/{name}": float(np.mean(found)) for name, found in domain_rewards.items() if found}
    return values


def is_right(answer: Trajectory) -> bool:
    """Return whether an answer has the full reward of the problem's own verifier."""
    grade = answer.grade
    return grade is not None and (grade.parts.get(ANSWER_REWARD, grade.reward) or 0.0) >= 1.0


def batch_metrics(
    batch: Batch, stats: Stats, objective: ObjectiveConfig, state: ObjectiveState, step: int
) -> dict[str, float]:
    """Compute the metrics of a step's update, coefficients and staleness, named as in docs/metrics.md.

    Args:
        stats: of the learner's update.
        state: of the objective during the update.
        step: number of updates before this one.
    """
    staleness = (step - batch.version[batch.version >= 0]).double()
    pass_k = {} if objective.pass_k.schedule == "constant" else {"pass_k": float(state.pass_k)}
    return (
        means(stats)
        | value_metrics(batch)
        | mask_metrics(batch, objective, state.mask)
        | replay_metrics(batch, state.recap, objective)
        | {term_metric(name, "coefficient"): value for name, value in state.coefficients.items()}
        | pass_k
        | {"staleness": float(staleness.mean()), "staleness_max": float(staleness.max())}
    )
