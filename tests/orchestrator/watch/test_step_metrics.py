"""Metrics of the groups of one step."""

import numpy as np
import pytest

from orchestrator.watch.step_metrics import group_metrics
from tests.orchestrator.fake_roles import prompt
from trajectories.trajectory import Grade, Group, Prompt, Trajectory


def group(prompt: Prompt, *rewards: float | None, length: int = 2) -> Group:
    """One answer of `length` tokens per reward; None: its grader failed."""
    trajectories = tuple(
        Trajectory(
            prompt_id=prompt.id,
            sample_index=i,
            tokens=np.arange(length + 1, dtype=np.int32),
            mask=np.arange(length + 1) > 0,
            logp_sampler=np.zeros(length + 1, dtype=np.float32),
            first_version=0,
            last_version=0,
            finish_reason="length" if i == 0 else "stop",
            seed=i,
            text="",
            grade=Grade(reward=reward, status="grader_error" if reward is None else "wrong"),
        )
        for i, reward in enumerate(rewards)
    )
    return Group(prompt=prompt, trajectories=trajectories)


def in_domain(name: str) -> Prompt:
    return Prompt(id=f"{name}/train/0", position=0, text="1+1?", verifier="math", problem={})


def test_rewards_and_lengths_of_a_step_are_counted_without_ungraded_answers() -> None:
    values = group_metrics([group(prompt(0), 1.0, 0.0, None), group(prompt(1), 0.0, 0.0, length=4)])
    assert values == {
        "tokens": 14.0,
        "answer_length": pytest.approx(14 / 5),
        "truncated": pytest.approx(2 / 5),
        "masked": 1.0,
        "reward": pytest.approx(1 / 4),
        "reward_std": pytest.approx(0.25),
        "solved_groups": 0.5,
        "zero_signal_groups": 0.5,
    }


def test_the_mean_reward_of_each_domain_leaves_out_domains_without_graded_answers() -> None:
    groups = [group(in_domain("math"), 1.0, 0.0), group(in_domain("sql"), 1.0), group(in_domain("code"), None)]
    groups += [group(in_domain("math"), 0.0, 0.0)]
    values = group_metrics(groups, by_domain=True)
    assert {name: value for name, value in values.items() if "/" in name} == {"reward/math": 0.25, "reward/sql": 1.0}


def test_a_step_without_graded_answers_has_no_reward_metrics() -> None:
    assert set(group_metrics([group(prompt(0), None)], by_domain=True)) == {
        "tokens",
        "answer_length",
        "truncated",
        "masked",
    }
