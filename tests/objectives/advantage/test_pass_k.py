"""Advantages that aim at Pass@k: numbers by hand, ties, single-valued groups, k = 1, settings and the schedule of k."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import pytest
import torch
from torch import Tensor

from configs.load import load
from configs.objective import ObjectiveConfig
from configs.overlong import OverlongConfig
from configs.pass_k import PassKConfig
from objectives.advantage.estimators import by_group, group_zscore, leave_one_out, mean_normalised
from objectives.advantage.pass_k import pass_k_gain, pass_k_zscore, unlikely_reward, weighted_sign
from objectives.coefficient.controllers import ObjectiveState, advance, initial_state, resumed_state
from objectives.credit import credit
from objectives.wording import describe_policy_gradient
from tests.objectives.ragged_batch import make_batch, objective
from tests.objectives.random_answers import of

Estimate = Callable[[Tensor], Tensor]
BASELINED: dict[str, Estimate] = {
    "pass_k_zscore": partial(pass_k_zscore, k=2),
    "pass_k_gain": partial(pass_k_gain, k=2),
    "mean_normalised": mean_normalised,
}
EVERY: dict[str, Estimate] = {**BASELINED, "weighted_sign": partial(weighted_sign, right_weight=0.1)}
TWO_OF_FIVE = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])


def test_pass_k_zscore_has_the_two_advantages_of_the_paper() -> None:
    # n = 5, c = 2, k = 2: rho = 1 - 3/10, sigma = sqrt(.21) = .458258; A+ = .3 / sigma; A- = (.3 - 2/4) / sigma
    got = pass_k_zscore(TWO_OF_FIVE, 2).tolist()
    assert got == pytest.approx([0.654654, -0.436436, -0.436436, 0.654654, -0.436436], abs=1e-6)
    # k = 3: rho = 1 - 1/10, sigma = .3; A+ = 1/3; A- = (.1 - C(2,2) / C(4,2)) / .3 = (.1 - 1/6) / .3
    assert pass_k_zscore(TWO_OF_FIVE, 3).tolist() == pytest.approx([1 / 3, -2 / 9, -2 / 9, 1 / 3, -2 / 9])


@pytest.mark.parametrize("right", range(1, 7))
@pytest.mark.parametrize("k", [1, 2, 3])
def test_pass_k_zscore_has_mean_0_over_a_group(right: int, k: int) -> None:
    reward = torch.tensor([1.0] * right + [0.0] * (7 - right))
    assert float(pass_k_zscore(reward, k).sum()) == pytest.approx(0, abs=1e-6)


def test_pass_k_zscore_with_k_1_is_the_zscore_with_the_deviation_of_the_population() -> None:
    expected = (TWO_OF_FIVE - 0.4) / TWO_OF_FIVE.std(correction=0)
    torch.testing.assert_close(pass_k_zscore(TWO_OF_FIVE, 1), expected)


def test_pass_k_gain_is_the_mean_rise_of_the_best_reward() -> None:
    # k = 2: twice the mean over the three others of max(0, r - other): of .9: (.4 + .4 + .7) / 3; of .5: .3 / 3
    got = pass_k_gain(torch.tensor([0.5, 0.9, 0.5, 0.2]), 2).tolist()
    assert got == pytest.approx([2 * 0.3 / 3, 2 * 1.5 / 3, 2 * 0.3 / 3, 0.0])
    # k = 3: of .9, over the pairs (.5, .5), (.5, .2), (.5, .2): 3 (.4 + .4 + .4) / 3; equals of .5 add nothing
    got = pass_k_gain(torch.tensor([0.5, 0.9, 0.5, 0.2]), 3).tolist()
    assert got == pytest.approx([0.0, 1.2, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_pass_k_gain_of_right_and_wrong_answers_is_the_chance_that_all_others_of_a_set_are_wrong(k: int) -> None:
    right = k * math.comb(3, k - 1) / math.comb(4, k - 1)
    assert pass_k_gain(TWO_OF_FIVE, k).tolist() == pytest.approx([right, 0, 0, right, 0])


def test_pass_k_gain_with_k_1_is_leave_one_out() -> None:
    reward = torch.tensor([0.5, 0.9, 0.5, -0.2])
    assert torch.equal(pass_k_gain(reward, 1), leave_one_out(reward))


@pytest.mark.parametrize("estimate", [pass_k_zscore, pass_k_gain])
def test_k_is_at_most_the_number_of_graded_answers(estimate: Callable[[Tensor, int], Tensor]) -> None:
    reward = torch.tensor([1.0, 0.0, 0.0])
    assert torch.equal(estimate(reward, 9), estimate(reward, 3))
    assert pass_k_gain(reward, 9).tolist() == [3, 0, 0]
    assert pass_k_zscore(reward, 9).tolist() == [0, 0, 0], "the only set of three has std 0"


def test_mean_normalised_divides_by_the_mean() -> None:
    assert mean_normalised(torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist() == [3, -1, -1, -1]
    assert mean_normalised(torch.tensor([1.0, -3.0])).tolist() == [0, 0], "a negative mean would turn the signs"


def test_weighted_sign_has_lambda_on_right_answers_and_minus_1_on_wrong_ones() -> None:
    assert weighted_sign(torch.tensor([1.0, 0.5, 2.0, 0.0]), 0.25).tolist() == [0.25, -1, 0.25, -1]
    assert weighted_sign(TWO_OF_FIVE, 0.0).tolist() == [0, -1, -1, 0, -1]


def test_likely_right_answers_lose_more_of_their_reward_and_wrong_ones_nothing() -> None:
    reward, logp = torch.tensor([1.0, 1.0, 0.5, 1.0]), torch.tensor([-1.0, -9.0, -2.0, -5.0])
    # less likely answers: 3, 0, 2, 1 of four
    assert unlikely_reward(reward, logp, 0.4).tolist() == pytest.approx([1 - 0.3, 1, 0.5, 1 - 0.1])
    assert torch.equal(unlikely_reward(reward, logp, 0.0), reward)
    tied = unlikely_reward(torch.ones(3), torch.tensor([-2.0, -2.0, -3.0]), 0.6)
    # of each of the two equals, one answer is less likely and one counts half: 1 - .6 * 1.5 / 3
    assert tied.tolist() == pytest.approx([0.7, 0.7, 1])


@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_a_group_does_not_matter_and_equal_rewards_have_equal_advantages(name: str) -> None:
    reward = torch.tensor([1.0, 0.0, 1.0, 0.3, 0.3, 0.0])
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    got = EVERY[name](reward)
    torch.testing.assert_close(EVERY[name](reward[order]), got[order])
    assert got[0] == got[2] and got[3] == got[4] and got[0] > got[1]


@pytest.mark.parametrize("name", BASELINED)
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_groups_whose_answers_are_all_right_or_all_wrong_have_advantage_0(name: str, reward: float) -> None:
    for size in (1, 2, 7):
        assert BASELINED[name](torch.full((size,), reward)).tolist() == [0.0] * size


def test_without_a_baseline_groups_of_equal_rewards_train_too() -> None:
    assert weighted_sign(torch.zeros(3), 0.1).tolist() == [-1, -1, -1]
    assert weighted_sign(torch.ones(3), 0.1).tolist() == pytest.approx([0.1] * 3)


@pytest.mark.parametrize("name", EVERY)
def test_an_answer_without_a_reward_is_left_out_of_its_group(name: str) -> None:
    got = by_group(torch.tensor([1.0, math.nan, 0.0, 0.0]), torch.zeros(4, dtype=torch.long), EVERY[name])
    assert got[1] == 0
    assert got[[0, 2, 3]].tolist() == EVERY[name](torch.tensor([1.0, 0.0, 0.0])).tolist()


def test_unlikely_zscore_ranks_whole_answers_among_the_graded_ones_of_their_group() -> None:
    # Whole answers have -4, -3, (no reward), -5, and -1, -1 in another group. Less likely: 1, 2, 0 of three.
    answers = [("explore", 0, r, [1, 2]) for r in (1.0, 1.0, None, 0.0)] + [("explore", 1, r, [3]) for r in (1.0, 0.0)]
    logp = torch.tensor([-2.0, -2.0, -1.0, -2.0, -9.0, -9.0, -5.0, 0.0, -1.0, -1.0])
    batch = make_batch(answers, logp_sampler=logp)  # type: ignore[arg-type]
    got = credit(batch, of("unlikeliness"), ObjectiveState(coefficients={})).advantage
    assert got is not None
    expected = group_zscore(torch.tensor([1 - 0.25 / 3, 1 - 0.5 / 3, 0.0])).tolist()
    assert got[[0, 2, 6]].tolist() == pytest.approx(expected, abs=1e-6)
    assert got[[4, 5]].tolist() == [0, 0]
    assert got[[8, 9]].tolist() == pytest.approx([0.5**0.5, -(0.5**0.5)], abs=1e-5)
    assert batch.reward[[0, 1, 3]].tolist() == [1, 1, 0], "the batch keeps its rewards"


def test_unlikely_zscore_with_penalty_0_is_group_zscore() -> None:
    batch = make_batch([("explore", 0, r, [1]) for r in (1.0, 0.0, 1.0, 0.5)], logp_sampler=-torch.arange(4.0))
    found = [
        credit(batch, cfg, ObjectiveState(coefficients={})).advantage
        for cfg in (of("unlikeliness", "objective.pass_k.rank_penalty=0"), objective())
    ]
    assert found[0] is not None and found[1] is not None and torch.equal(found[0], found[1])
    assert found[0].abs().max() > 0.5


def test_a_k_beyond_the_group_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^objective\.pass_k\.k: must be at most sampling\.group_size \(4\), got 5"):
        load(["method=pkpo", "sampling.group_size=4", "objective.pass_k.k=5"])
    assert load(["method=pkpo", "sampling.group_size=4", "objective.pass_k.k=4"]).objective.pass_k.k == 4
    rule = r"^objective\.pass_k\.k: must be below sampling\.group_size \(4\) for pass_k_zscore: .* got 4"
    with pytest.raises(ValueError, match=rule):
        load(["method=passk_training", "sampling.group_size=4", "objective.pass_k.k=4"])
    rising = ["objective.pass_k.k=1", "objective.pass_k.schedule=linear", "objective.pass_k.final_k=9"]
    with pytest.raises(ValueError, match=r"^objective\.pass_k\.final_k: must be at most .* got 9"):
        load(["method=pkpo", "sampling.group_size=8", *rising])
    assert load(["method=nsr", "sampling.group_size=1"]).objective.advantage == "weighted_sign", "it has no baseline"
    assert load(["method=grpo", "sampling.group_size=2"]).objective.pass_k.k == 4, "other advantages have no k"


def test_bad_parameters_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^k: must be positive, got 0"):
        PassKConfig(k=0)
    with pytest.raises(ValueError, match=r"^rank_penalty: must be at least 0 and below 1, got 1"):
        PassKConfig(rank_penalty=1.0)
    with pytest.raises(ValueError, match=r"^over: must be positive for schedule step"):
        PassKConfig(schedule="step")
    with pytest.raises(ValueError, match=r"^overlong\.limit: must be 0 for advantage=weighted_sign: .* got 9"):
        ObjectiveConfig(advantage="weighted_sign", overlong=OverlongConfig(limit=9))


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, [8, 8, 8, 8, 8, 8]),
        ({"schedule": "step", "over": 3}, [8, 8, 8, 1, 1, 1]),
        # 8 - 7 s / 4: 8, 6.25, 4.5 (rounded to even), 2.75, 1
        ({"schedule": "linear"}, [8, 6, 4, 3, 1, 1]),
        ({"schedule": "linear", "over": 2, "final_k": 2}, [8, 5, 2, 2, 2, 2]),
    ],
)
def test_k_follows_its_schedule_also_in_a_resumed_run(choices: dict[str, object], expected: list[int]) -> None:
    cfg = objective(advantage="pass_k_gain", pass_k=PassKConfig(k=8, **choices))  # type: ignore[arg-type]
    state = initial_state(cfg, 4)
    found = [state.pass_k]
    for step in range(1, 6):
        state = advance(state, cfg, {}, trajectories=8, step=step, steps=4)
        found.append(state.pass_k)
        restored = ObjectiveState.restored(json.loads(json.dumps(asdict(state))))
        assert restored == state == resumed_state(restored, cfg, step, 4)
    assert found == expected


def test_credit_uses_the_k_of_the_state() -> None:
    batch = make_batch([("explore", 0, r, [1]) for r in (1.0, 0.0, 0.0, 0.0)])
    for k in (2, 3):
        credited = credit(batch, of("pkpo"), ObjectiveState(coefficients={}, pass_k=k))
        assert credited.advantage is not None
        assert credited.advantage.tolist() == [k, 0, 0, 0]


@pytest.mark.parametrize(
    ("preset", "overrides", "words"),
    [
        (
            "pkpo",
            (),
            "(k = 4; expected gradient, on-policy and with sequence_mean_token_sum: that of the best reward of",
        ),
        (
            "pkpo",
            ("objective.pass_k.schedule=step", "objective.pass_k.k=8", "objective.pass_k.over=50"),
            "k from 8 to 1 over 50 steps, step",
        ),
        ("pkpo", ("objective.pass_k.schedule=linear",), "k from 4 to 1 over all steps, linear"),
        ("passk_training", (), "sequence_mean_token_sum: that of (2 / k) arcsin sqrt(Pass@k), in large groups"),
        ("maxrl", (), "that of the sum of Pass@k / k for k < group size"),
        (
            "nsr",
            (),
            "(0.1 on right answers, -1 on wrong ones; expected gradient, on-policy and with sequence_mean_token_sum: ",
        ),
        ("unlikeliness", (), "a right answer loses 0.25 m / G of its reward"),
    ],
)
def test_the_expected_gradient_is_described(preset: str, overrides: tuple[str, ...], words: str) -> None:
    cfg = of(preset, *overrides)
    assert describe_policy_gradient(cfg).startswith(f"advantage {cfg.advantage} (")
    assert words in describe_policy_gradient(cfg)
