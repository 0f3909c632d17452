"""The target advantage (f-DPG, arXiv:2302.08215): a divergence to a distribution given by reference and reward."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from configs.target import TargetConfig
from objectives.advantage.target import LARGEST_TILT, moment_tilt, pseudo_rewards
from objectives.credit import credit
from tests.objectives.divergence_settings import EXACT
from tests.objectives.ragged_batch import loss_of, make_batch, objective, state_of

POLICY = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
REWARD = torch.tensor([1.0, 0.0, 0.5, 1.0], dtype=torch.float64)
TOKENS = [0] * 4 + [1] * 3 + [2] * 2 + [3]
"""Ten answers of one token with the frequencies of the policy: their mean and their Z are exact expectations."""
NAMES = get_args(get_type_hints(TargetConfig)["divergence"])

# The table of the paper: f'(t).
SLOPE = {
    "forward_kl": lambda t: -1 / t,
    "reverse_kl": lambda t: t.log() + 1,
    "total_variation": lambda t: 0.5 * t.log().sign(),
    "jensen_shannon": lambda t: 0.5 * (2 * t / (t + 1)).log(),  # halved, as everywhere here
    "neyman": lambda t: 1 - 1 / t**2,
    "chi_squared": lambda t: 2 * (t - 1),
}


def target(**choices: object) -> TargetConfig:
    return TargetConfig(**choices)  # type: ignore[arg-type]


def target_distribution(cfg: TargetConfig) -> Tensor:
    """Return the probability of each token under the target."""
    score = REFERENCE * ((REWARD / cfg.beta).exp() if cfg.kind == "tilt" else (REWARD >= 1))
    return score / score.sum()


def rewards(cfg: TargetConfig) -> Tensor:
    group = torch.zeros(len(TOKENS), dtype=torch.long)
    return pseudo_rewards((POLICY / REFERENCE).log()[TOKENS], REWARD[TOKENS], group, cfg)


@pytest.mark.parametrize("name", NAMES)
def test_the_pseudo_reward_is_minus_the_slope_at_policy_over_target_plus_its_mean(name: str) -> None:
    cfg = target(divergence=name, beta=0.5)
    slope = SLOPE[name](POLICY / target_distribution(cfg))
    expected = -slope + (POLICY * slope).sum()
    torch.testing.assert_close(rewards(cfg), expected[TOKENS])


@pytest.mark.parametrize("name", NAMES)
def test_on_policy_the_gradient_is_that_of_the_divergence_to_the_target(name: str) -> None:
    cfg = objective(
        advantage="target",
        ratio="none",
        reduction="sequence_mean_token_sum",
        target=target(divergence=name, beta=0.7),
    )
    logits = POLICY.log().requires_grad_()
    batch = make_batch(
        [("explore", 0, float(REWARD[token]), [token]) for token in TOKENS],
        logp_sampler=POLICY.log()[TOKENS],
        logp_reference=REFERENCE.log()[TOKENS],
    )
    value, _ = loss_of(logits.log_softmax(0)[TOKENS], credit(batch, cfg, state_of()), cfg)
    got = torch.autograd.grad(value, logits)[0]
    whole = POLICY.log().requires_grad_()
    (expected,) = torch.autograd.grad(EXACT[name](whole.softmax(0), target_distribution(cfg.target), 0.2), whole)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_the_reverse_kl_to_a_tilt_has_the_advantage_of_reward_minus_kl_to_the_reference() -> None:
    got = rewards(target(divergence="reverse_kl", beta=0.5))
    regularised = REWARD / 0.5 - (POLICY / REFERENCE).log()
    torch.testing.assert_close(got, (regularised - (POLICY * regularised).sum())[TOKENS])


def test_the_forward_kl_to_correct_answers_is_rejection_sampling_with_importance_weights() -> None:
    got = rewards(target(kind="filter", divergence="forward_kl"))
    # p = .2, 0, 0, .8 on rewards of 1: weights p / policy = .5 and 8, mean 1
    assert got.tolist() == pytest.approx([0.5 - 1] * 4 + [-1.0] * 5 + [8.0 - 1], abs=1e-4)


def test_a_policy_equal_to_its_target_has_advantage_0() -> None:
    cfg = target(beta=0.5)
    log_u = (target_distribution(cfg) / REFERENCE).log()
    for name in NAMES:
        got = pseudo_rewards(log_u, REWARD, torch.zeros(4).long(), target(beta=0.5, divergence=name))
        # The group estimates Z by its mean of P / pi, which is Z for every answer.
        assert got.tolist() == pytest.approx([0.0] * 4, abs=1e-12) or name == "total_variation"


def test_where_the_policy_is_the_reference_z_follows_from_the_pass_rate() -> None:
    # u = 1 and rewards 1, 0, 0, 0: Z = 1 + (e^2 - 1) / 4 = 2.597264; t = Z / e^2 = .351505 and Z
    reward = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    got = pseudo_rewards(torch.zeros(4).double(), reward, torch.zeros(4).long(), target(beta=0.5))
    winner, loser = (-0.5 * math.log(2 * t / (t + 1)) for t in (2.597264 / math.exp(2), 2.597264))
    mean = (winner + 3 * loser) / 4
    assert got.tolist() == pytest.approx([winner - mean] + [loser - mean] * 3, abs=1e-6)
    assert winner - mean > 0 > loser - mean


def test_each_group_has_its_own_target_and_one_without_a_correct_answer_has_advantage_0() -> None:
    log_u = torch.zeros(7)
    reward = torch.tensor([1.0, 0.0, 0.0, 0.0, math.nan, 1.0, math.nan])
    group = torch.tensor([0, 0, 1, 1, 1, 2, -1])
    got = pseudo_rewards(log_u, reward, group, target(kind="filter"))
    assert got[0] > 0 > got[1]
    assert got[2:].tolist() == [0.0] * 5


@pytest.mark.parametrize("name", NAMES)
def test_pseudo_rewards_are_bounded_at_extreme_ratios(name: str) -> None:
    log_u = torch.tensor([500.0, -500.0, 0.0])
    got = pseudo_rewards(log_u, torch.tensor([1.0, 0.0, 1.0]), torch.zeros(3).long(), target(divergence=name))
    assert got.isfinite().all()
    assert got.abs().max() <= 2 * math.exp(20)


def test_the_log_ratio_of_an_answer_is_the_sum_over_its_tokens() -> None:
    cfg = objective(advantage="target", ratio="none")
    long = make_batch(
        [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3])],
        logp_sampler=torch.tensor([-1.0, -2.0, -1.5]),
        logp_reference=torch.tensor([-1.5, -1.0, -2.0]),
    )
    got = credit(long, cfg, state_of()).advantage
    expected = pseudo_rewards(torch.tensor([-0.5, 0.5]), torch.tensor([1.0, 0.0]), torch.zeros(2).long(), cfg.target)
    assert got is not None
    assert got.tolist() == [expected[0], expected[0], expected[1]]


@pytest.mark.parametrize("moment", [0.3, 0.55, 0.65, 0.9])
def test_the_tilt_of_a_moment_gives_the_target_that_mean_reward(moment: float) -> None:
    log_u, group = (POLICY / REFERENCE).log()[TOKENS], torch.zeros(len(TOKENS), dtype=torch.long)
    tilt = moment_tilt(log_u, REWARD[TOKENS], group, moment)
    # The answers have the policy's frequencies, so the importance sampling estimate is the exact expectation.
    score = REFERENCE * (tilt * REWARD).exp()
    assert (score * REWARD).sum() / score.sum() == pytest.approx(moment, abs=1e-9)


def test_at_the_reference_s_own_mean_reward_the_target_is_the_reference() -> None:
    own = (REFERENCE * REWARD).sum().item()  # .1 + .15 + .4 = .65
    group = torch.zeros(len(TOKENS), dtype=torch.long)
    log_u = (POLICY / REFERENCE).log()[TOKENS]
    assert moment_tilt(log_u, REWARD[TOKENS], group, own) == pytest.approx(0.0, abs=1e-9)


def test_the_forward_kl_to_a_moment_is_that_to_the_tilt_with_its_lambda() -> None:
    group = torch.zeros(len(TOKENS), dtype=torch.long)
    tilt = moment_tilt((POLICY / REFERENCE).log()[TOKENS], REWARD[TOKENS], group, 0.8)
    expected = rewards(target(divergence="forward_kl", beta=1 / tilt))
    torch.testing.assert_close(rewards(target(kind="moment", moment=0.8, divergence="forward_kl")), expected)
    assert tilt > 0


def test_one_tilt_serves_all_prompts_and_their_means_are_averaged() -> None:
    # u = 1: prompt 0 has 1 right of 2 answers, prompt 1 has 1 of 4. With x = e^lambda the means are x / (x + 1) and
    # x / (x + 3); their mean .6 at .8 x^2 - .8 x - 3.6 = 0, x = (.8 + sqrt(.64 + 11.52)) / 1.6 = 2.679450.
    reward = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 0.0, math.nan, 1.0])
    group = torch.tensor([0, 0, 1, 1, 1, 1, 1, -1])
    got = moment_tilt(torch.zeros(8), reward, group, 0.6)
    assert got == pytest.approx(math.log(2.679450), abs=1e-5)


def test_a_moment_out_of_reach_gives_the_largest_tilt_and_extreme_ratios_no_infinity() -> None:
    reward, group = torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor([0, 0, 1, 1])
    assert moment_tilt(torch.zeros(4), reward, group, 0.8) == pytest.approx(LARGEST_TILT)
    assert moment_tilt(torch.zeros(4), reward, group, -0.1) == pytest.approx(-LARGEST_TILT)
    far = torch.tensor([900.0, -900.0, 900.0, -900.0])
    assert pseudo_rewards(far, reward, group, target(kind="moment", divergence="forward_kl")).isfinite().all()
