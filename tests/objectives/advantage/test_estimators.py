"""Advantages of the answers of a group by each estimator, whitening, and the overlong penalty."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.overlong import OverlongConfig
from objectives.advantage.estimators import (
    best_answers,
    best_of_n,
    by_group,
    global_whiten,
    group_mean_global_whiten,
    group_zscore,
    leave_one_out,
    mean_only,
    none,
    overlong_penalty,
    shaped_reward,
    whiten,
)
from tests.objectives.ragged_batch import make_batch

ONE_IN_FOUR = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0])


def test_group_zscore_uses_the_sample_deviation() -> None:
    # mean 1/4, sum of squares 1.5, std sqrt(1.5 / 7) = 0.46291
    expected = [1.6202 if reward == 1 else -0.5401 for reward in ONE_IN_FOUR.tolist()]
    assert group_zscore(ONE_IN_FOUR).tolist() == pytest.approx(expected, abs=1e-4)


def test_mean_only_subtracts_the_group_mean_only() -> None:
    assert mean_only(torch.tensor([1.0, 0, 0, 0])).tolist() == [0.75, -0.25, -0.25, -0.25]


def test_leave_one_out_subtracts_the_mean_of_the_other_answers() -> None:
    expected = [0.857142 if reward == 1 else -0.285714 for reward in ONE_IN_FOUR.tolist()]
    assert leave_one_out(ONE_IN_FOUR).tolist() == pytest.approx(expected, abs=1e-5)


def test_advantage_none_is_0_everywhere_and_refused_without_another_loss() -> None:
    assert by_group(torch.tensor([1.0, 0.0, 7.0]), torch.tensor([0, 0, 1]), none).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"^advantage: must be other than 'none' without a term, an entropy"):
        ObjectiveConfig(advantage="none")


@pytest.mark.parametrize("size", [2, 3, 7])
def test_leave_one_out_is_mean_only_times_g_over_g_minus_one(size: int) -> None:
    reward = torch.randn(size, generator=torch.Generator().manual_seed(size))
    torch.testing.assert_close(leave_one_out(reward), mean_only(reward) * size / (size - 1))


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3])
def test_equal_rewards_have_zscores_of_exactly_0(reward: float) -> None:
    assert group_zscore(torch.full((7,), reward)).tolist() == [0.0] * 7


def test_each_group_has_its_own_statistics() -> None:
    reward, group = torch.tensor([1.0, 5.0, 0.0, 7.0]), torch.tensor([0, 3, 0, 3])
    assert by_group(reward, group, mean_only).tolist() == [0.5, -1.0, -0.5, 1.0]


@pytest.mark.parametrize("estimate", [group_zscore, mean_only, leave_one_out])
def test_an_answer_without_a_reward_is_left_out_of_the_group_statistics(estimate: Callable[[Tensor], Tensor]) -> None:
    with_failure = by_group(torch.tensor([1.0, math.nan, 0.0, 0.0]), torch.zeros(4, dtype=torch.long), estimate)
    without = by_group(torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3, dtype=torch.long), estimate)
    assert with_failure[1] == 0
    assert with_failure[[0, 2, 3]].tolist() == without.tolist()


@pytest.mark.parametrize("estimate", [group_zscore, mean_only, leave_one_out])
def test_a_group_with_fewer_than_two_graded_answers_has_advantage_0(estimate: Callable[[Tensor], Tensor]) -> None:
    reward = torch.tensor([1.0, math.nan, math.nan, math.nan])
    assert by_group(reward, torch.tensor([0, 0, 1, 1]), estimate).tolist() == [0.0] * 4


def test_rehearsed_trajectories_have_advantage_0() -> None:
    reward, group = torch.tensor([1.0, 0.0, math.nan, 1.0]), torch.tensor([0, 0, -1, -1])
    assert by_group(reward, group, mean_only).tolist() == [0.5, -0.5, 0.0, 0.0]


def test_whitening_uses_the_selected_tokens_only() -> None:
    advantage = torch.tensor([1.0, 1.0, 99.0, 4.0])
    got = whiten(advantage, torch.tensor([True, True, False, True]))
    # mean 2, variance (1 + 1 + 4) / 2 = 3
    assert got.tolist() == pytest.approx([-1 / math.sqrt(3), -1 / math.sqrt(3), 0, 2 / math.sqrt(3)])


@pytest.mark.parametrize("advantage", [[0.3, 0.3, 0.3], [5.0]])
def test_whitening_equal_advantages_gives_0(advantage: list[float]) -> None:
    got = whiten(torch.tensor(advantage), torch.ones(len(advantage), dtype=torch.bool))
    assert got.tolist() == pytest.approx([0.0] * len(advantage), abs=1e-3)


def test_group_mean_global_whiten_subtracts_the_group_mean_and_global_whiten_does_not() -> None:
    reward, group = torch.tensor([1.0, 0.0, 5.0, 7.0]), torch.tensor([0, 0, 1, 1])
    assert by_group(reward, group, global_whiten).tolist() == reward.tolist()
    assert by_group(reward, group, group_mean_global_whiten).tolist() == [0.5, -0.5, -1.0, 1.0]


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ([0.2, 0.9, 0.5, 0.1], [0, 1, 0, 0]),
        ([1.0, 0.0, 1.0, 0.0], [0.5, 0, 0.5, 0]),
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0, 0]),
        ([-1.0, -2.0], [0, 0]),
        ([1.0], [1]),
    ],
)
def test_best_of_n_gives_one_weight_to_the_best_answer_divided_among_equals(
    reward: list[float], expected: list[float]
) -> None:
    assert best_of_n(torch.tensor(reward)).tolist() == expected


def test_the_weights_of_best_answers_make_a_mean_over_answers_one_over_groups() -> None:
    reward = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, math.nan, 0.0, 1.0])
    group = torch.tensor([0, 0, 0, 1, 1, 1, 2, -1])
    # 6 graded answers of 3 groups: 2 to each group with a right answer, and none to the stored answer
    assert best_answers(reward, group).tolist() == [2, 0, 0, 1, 1, 0, 0, 0]


def test_an_answer_that_is_left_out_of_the_loss_has_its_penalty_in_the_baseline() -> None:
    batch = make_batch([("explore", 0, 0.0, [1] * 16), ("explore", 0, 0.0, [1] * 15), ("explore", 0, 0.0, [1] * 4)])
    batch.mask[:16] = False
    cfg = OverlongConfig(limit=16, fraction=0.5, penalty=0.5, mask=True)
    assert shaped_reward(batch, cfg).tolist() == [-0.5, -0.4375, 0.0]


def test_the_overlong_penalty_falls_linearly_to_the_greatest_penalty_at_the_limit() -> None:
    # DAPO's own numbers: L_max = 20480, L_cache = 4096, rewards of -1 and 1
    cfg = OverlongConfig(limit=20_480, fraction=0.2, penalty=1.0)
    lengths = torch.tensor([1, 16_384, 17_408, 18_432, 20_480, 99_999])
    assert overlong_penalty(lengths, cfg).tolist() == [0, 0, -0.25, -0.5, -1, -1]
    assert overlong_penalty(lengths, OverlongConfig(limit=20_480)).tolist() == [0, 0, -0.125, -0.25, -0.5, -0.5]
    assert overlong_penalty(lengths, OverlongConfig()).tolist() == [0.0] * 6


@pytest.mark.parametrize(("rewards", "penalty"), [([1.0, 0, 0], 0.5), ([1.0, -1, -1], 1.0)])
def test_a_right_answer_at_the_length_limit_keeps_its_advantage_whatever_the_range_of_rewards(
    rewards: list[float], penalty: float
) -> None:
    # By hand: (1 - 0.5, 0, 0) has mean 1/6 and deviation 0.2887, so 1.1547, -0.5774, -0.5774.
    cfg = OverlongConfig(limit=16, penalty=penalty)
    shaped = torch.tensor(rewards) + overlong_penalty(torch.tensor([16, 8, 8]), cfg)
    assert group_zscore(shaped).tolist() == pytest.approx([1.1547, -0.5774, -0.5774], abs=1e-4)


def test_rewards_that_differ_by_rounding_alone_have_zscores_of_exactly_0() -> None:
    shaped = torch.tensor([1.0, 0, 0]) + overlong_penalty(
        torch.tensor([16, 8, 8]), OverlongConfig(limit=16, penalty=1.0)
    )
    assert shaped[0] != shaped[1], "a sum that is rounded"
    assert group_zscore(shaped).tolist() == [0.0] * 3
