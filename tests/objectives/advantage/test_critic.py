"""The critic of SAFE (arXiv:2602.04651): soft-min of the heads, value loss, running reward moments, advantage."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.critic import CriticConfig
from configs.load import load
from configs.objective import ObjectiveConfig
from objectives.advantage.critic import RewardMoments, critic_advantage, soft_min, value_errors, value_metrics
from objectives.coefficient.controllers import ObjectiveState, initial_state, with_rewards
from objectives.credit import credit
from objectives.diagnostics import means, merge, to_stats
from objectives.objective import Scores, loss
from tests.objectives.ragged_batch import make_batch, objective, scores
from trajectories.batch import Batch
from trajectories.split import partition

CRITIC = objective(advantage="critic")


@pytest.mark.parametrize(("softness", "expected"), [(0.3, 0.65604), (1e-3, 0.50069), (100, 0.74969)])
def test_the_soft_min_has_the_values_computed_by_hand(softness: float, expected: float) -> None:
    # -.3 log((e^(-1/.3) + e^(-.5/.3)) / 2) = -.3 log(.112274) = .65604; it tends to the minimum and to the mean
    assert float(soft_min(torch.tensor([[1.0, 0.5]]).double(), softness)) == pytest.approx(expected, abs=5e-6)


def test_the_soft_min_of_equal_heads_is_their_value_and_is_finite_at_extremes() -> None:
    values = torch.tensor([[0.3, 0.3], [-2.0, -2.0], [1e4, 1e4]])
    torch.testing.assert_close(soft_min(values, 0.3), values[:, 0])
    torch.testing.assert_close(soft_min(values[:, :1], 0.3), values[:, 0])
    assert soft_min(torch.tensor([[1e4, -1e4]]), 1e-3).tolist() == pytest.approx([-1e4])


def test_the_lower_head_has_the_larger_gradient() -> None:
    # softmax(-V / .3) of (1, .5): e^(-5/3) / (1 + e^(-5/3)) = .158869
    values = torch.tensor([[1.0, 0.5]], requires_grad=True)
    soft_min(values, 0.3).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [pytest.approx([0.158869, 0.841131], abs=1e-6)]


@pytest.mark.parametrize(
    ("value", "old", "target", "expected", "slope"),
    [
        # |e| = .1: quadratic, .005 in both terms
        (0.4, 0.3, 0.5, 0.005, -0.1),
        # e = -1: .5 (1 - .25) = .375; clipped to .2: e = -.8: .5 (.8 - .25) = .275; the clipped term has slope 0
        (0.0, 0.4, 1.0, 0.5 * (0.375 + 0.275), -0.25),
        # the value is within the clip: both terms .375, slope -.5
        (0.0, 0.1, 1.0, 0.375, -0.5),
    ],
)
def test_the_value_loss_is_the_mean_of_a_clipped_and_an_unclipped_huber_loss(
    value: float, old: float, target: float, expected: float, slope: float
) -> None:
    v = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    error = value_errors(v, torch.tensor([old]).double(), torch.tensor([target]).double(), CriticConfig())
    error.sum().backward()
    assert error.item() == pytest.approx(expected, abs=1e-6)
    assert v.grad is not None and float(v.grad) == pytest.approx(slope, abs=1e-6)


def test_running_moments_equal_those_of_all_rewards_so_far() -> None:
    rewards = [np.random.default_rng(seed).normal(seed, 1 + seed, size) for seed, size in enumerate([5, 1, 40])]
    moments = RewardMoments(count=1e-12)
    for part in rewards:
        moments = moments.seen(torch.cat([torch.tensor(part), torch.tensor([math.nan])]))
    all_rewards = np.concatenate(rewards)
    assert moments.mean == pytest.approx(all_rewards.mean(), abs=1e-9)
    assert moments.variance == pytest.approx(all_rewards.var(), abs=1e-9)
    assert moments.count == pytest.approx(46)
    torch.testing.assert_close(
        moments.normalised(torch.tensor(all_rewards)),
        torch.tensor((all_rewards - all_rewards.mean()) / all_rewards.std()),
    )
    assert moments.seen(torch.tensor([math.nan])) == moments


def test_moments_start_with_mean_0_of_negligible_weight() -> None:
    # n = 2 at 1 and 3: mean 4 / 2.0001; M2 = .0001 + 2 + 4 * .0001 * 2 / 2.0001
    moments = RewardMoments().seen(torch.tensor([1.0, 3.0]))
    assert moments.mean == pytest.approx(4 / 2.0001)
    assert moments.variance == pytest.approx((0.0001 + 2 + 4 * 0.0002 / 2.0001) / 2.0001)


ANSWERS = [
    ("explore", 0, 1.0, [1, 2]),
    ("explore", 0, 0.0, [3]),
    ("explore", 1, None, [7, 7]),
    ("explore", 1, 1.0, [4, 5, 6]),
    ("rehearse", -1, None, [8]),
]
VALUE_OLD = torch.tensor([0.5, -0.5, 9.0, 0.0, 9.0])
VALUES = torch.tensor([[0.4, 0.6], [0.1, -0.2], [3.0, 3.0], [0.9, 0.1], [3.0, 3.0]])
LOGP = torch.tensor([-0.5, -2.0, -1.0, -0.25, -3.0, -4.0, -0.1, -0.2, -0.3])


def batch_of(value_old: Tensor = VALUE_OLD) -> Batch:
    whole = make_batch(ANSWERS, logp_sampler=LOGP + 0.3 * LOGP.sin(), logp_old=LOGP + 0.1)  # type: ignore[arg-type]
    return replace(whole, value_old=value_old)


def state_of(moments: RewardMoments | None = None) -> ObjectiveState:
    return ObjectiveState(coefficients={}, rewards=moments or RewardMoments())


def scores_with(values: Tensor = VALUES, logp: Tensor = LOGP) -> Scores:
    return replace(scores(logp), values=values)


def test_the_advantage_is_normalised_reward_minus_value_whitened_over_graded_answers() -> None:
    # mean .6 and variance .24 before, over 7; then 1, 0, 1: mean .62, variance (7 * .24 + 2/3 + 2.1 * (1/15)^2) / 10
    moments = RewardMoments(count=7, mean=0.6, variance=0.24)
    variance = (1.68 + 2 / 3 + 2.1 / 225) / 10
    targets = [(1 - 0.62) / math.sqrt(variance), -0.62 / math.sqrt(variance), (1 - 0.62) / math.sqrt(variance)]
    residuals = np.array([targets[0] - 0.5, targets[1] + 0.5, targets[2]])
    expected = (residuals - residuals.mean()) / residuals.std(ddof=1)
    advantage, target = critic_advantage(batch_of(), batch_of().reward, moments)
    assert target[[0, 1, 3]].tolist() == pytest.approx(targets, abs=1e-6)
    assert target[[2, 4]].isnan().all()
    assert advantage.tolist() == pytest.approx([expected[0], expected[1], 0, expected[2], 0], abs=1e-6)
    credited = credit(batch_of(), CRITIC, state_of(moments))
    assert credited.advantage is not None
    by_token = [expected[0]] * 2 + [expected[1]] + [0] * 2 + [expected[2]] * 3 + [0]
    assert credited.advantage.tolist() == pytest.approx(by_token, abs=1e-6)


def test_with_one_head_and_no_penalty_the_loss_is_ppo_with_one_value_per_answer() -> None:
    cfg = replace(CRITIC, critic=CriticConfig(heads=1), old_policy="learner")
    whole = credit(batch_of(), cfg, state_of())
    assert whole.logp_old is not None and whole.value_target is not None
    logp, values = LOGP.clone().requires_grad_(), VALUES[:, :1].clone().requires_grad_()
    found, stats = loss(scores_with(values, logp), whole, cfg, {})
    gradient = torch.autograd.grad(found, (logp, values))

    graded, target = [0, 1, 3], RewardMoments().seen(torch.tensor([1.0, 0, 1])).normalised(torch.tensor([1.0, 0, 1]))
    residuals = target - VALUE_OLD[graded]
    advantage = ((residuals - residuals.mean()) / residuals.std()).repeat_interleave(torch.tensor([2, 1, 3]))
    tokens = torch.tensor([0, 1, 2, 5, 6, 7])
    ratio = (logp - whole.logp_old)[tokens].exp()
    policy_loss = -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).mean()
    value = values[graded, 0]
    clipped = VALUE_OLD[graded] + (value - VALUE_OLD[graded]).clamp(-0.2, 0.2)
    huber = torch.nn.HuberLoss(delta=0.5)
    value_loss = (huber(value, target) + huber(clipped, target)) / 2
    expected = policy_loss + 0.5 * value_loss
    torch.testing.assert_close(found, expected)
    for got, exact in zip(gradient, torch.autograd.grad(expected, (logp, values)), strict=True):
        torch.testing.assert_close(got, exact)
    measured = means(to_stats(stats))
    assert measured["value"] == pytest.approx(float(value.detach().mean())) and measured["value_loss"] == pytest.approx(
        float(value_loss.detach())
    )
    assert measured["policy_loss"] == pytest.approx(float(policy_loss.detach()))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_losses_of_the_microbatches_sum_to_that_of_the_batch_in_any_order(ranks: int) -> None:
    whole = credit(batch_of(), CRITIC, state_of())
    values = VALUES.clone().requires_grad_()
    expected, stats = loss(scores_with(values), whole, CRITIC, {})
    expected.backward()
    reordered = whole.select([3, 4, 0, 2, 1])
    total, gradient, measured = 0.0, torch.zeros_like(VALUES), to_stats({})
    starts = [0, 2, 3, 5, 8, 9]
    for parts in partition(reordered, ranks, token_budget=4):
        for part in parts:
            # The first token identifies the answer.
            first = part.tokens[part.lengths.cumsum(0) - part.lengths]
            rows = [[1, 3, 7, 4, 8].index(int(token)) for token in first]
            logp = torch.cat([LOGP[starts[row] : starts[row + 1]] for row in rows])
            leaf = VALUES[rows].clone().requires_grad_()
            part_loss, part_stats = loss(scores_with(leaf, logp), part, CRITIC, {})
            part_loss.backward()
            assert leaf.grad is not None, "a microbatch without answers has a gradient of zeros"
            gradient.index_add_(0, torch.tensor(rows), leaf.grad)
            total, measured = total + part_loss.item(), merge(measured, to_stats(part_stats))
    assert total == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient, values.grad)
    assert means(measured) == pytest.approx(means(to_stats(stats)), abs=1e-6)


def test_the_moments_advance_once_per_step_with_the_overlong_penalty_and_survive_json() -> None:
    cfg = load(["method=safe_critic", "objective.overlong={limit: 3, fraction: 0.5, penalty: 1.0}"]).objective
    # limit 3, cache 1.5: answers of 2, 1 and 3 tokens lose 1/3, 0 and 1
    state = with_rewards(initial_state(cfg, 10), cfg, batch_of())
    assert asdict(state.rewards) == pytest.approx(asdict(RewardMoments().seen(torch.tensor([2 / 3, 0.0, 0.0]))))
    assert ObjectiveState.restored(json.loads(json.dumps(asdict(state)))) == state
    other = ObjectiveConfig()
    assert with_rewards(initial_state(other, 10), other, batch_of()).rewards == RewardMoments()


def test_credit_normalises_with_the_moments_that_the_state_has_after_the_step() -> None:
    before = RewardMoments(count=7, mean=0.6, variance=0.24)
    credited = credit(batch_of(), CRITIC, state_of(before))
    after = with_rewards(state_of(before), CRITIC, batch_of()).rewards
    assert credited.value_target is not None
    torch.testing.assert_close(credited.value_target, after.normalised(batch_of().reward), equal_nan=True)


def test_value_explained_is_the_explained_fraction_of_the_target_variance() -> None:
    # targets vary by t = (x, y, x) with variance (x - y)^2 / 3
    credited = credit(batch_of(torch.zeros(5)), CRITIC, state_of())
    assert credited.value_target is not None
    assert value_metrics(credited) == {"value_explained": pytest.approx(0)}
    half = replace(credited, value_old=credited.value_target.nan_to_num() / 2)
    assert value_metrics(half) == {"value_explained": pytest.approx(0.75)}
    assert value_metrics(batch_of()) == {}


def test_a_batch_without_old_values_fails_an_assertion() -> None:
    with pytest.raises(AssertionError, match="before the first update"):
        credit(replace(batch_of(), value_old=None), CRITIC, state_of())
    assert CRITIC.scores_first and not ObjectiveConfig().scores_first


# A baseline that depends on the answer.


def expected_gradient(logits: Tensor, reward: Tensor, value: Tensor) -> Tensor:
    """Return the expected policy gradient of R - V over one answer token, enumerated, by the logits."""
    leaf = logits.clone().requires_grad_()
    logp = leaf.log_softmax(-1)
    (logp.exp().detach() * (reward - value) * logp).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def test_a_value_of_the_prompt_does_not_change_the_expected_policy_gradient() -> None:
    logits, reward = torch.tensor([0.3, -1.0, 0.7, 0.1]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    value = torch.full((4,), 0.37)
    torch.testing.assert_close(expected_gradient(logits, reward, value), expected_gradient(logits, reward, 0 * value))


def test_a_value_of_the_answer_removes_the_gradient_of_the_part_it_predicts() -> None:
    logits, reward = torch.tensor([0.3, -1.0, 0.7, 0.1]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    plain = expected_gradient(logits, reward, torch.zeros(4))
    torch.testing.assert_close(expected_gradient(logits, reward, 0.9 * reward), 0.1 * plain)
    assert float(expected_gradient(logits, reward, reward).abs().max()) == 0
    # Whitening scales the residuals to deviation 1, whatever their size: here they are errors of the critic.
    errors = torch.tensor([1e-3, -1e-3, 0.0, 2e-3, 0.0])
    whole = credit(batch_of(torch.zeros(5)), CRITIC, state_of())
    assert whole.value_target is not None
    advantage, _ = critic_advantage(
        replace(whole, value_old=whole.value_target.nan_to_num() + errors), whole.reward, RewardMoments()
    )
    assert advantage[[0, 1, 3]].std() == pytest.approx(1, abs=1e-3)
    assert advantage[1] > 0 > max(advantage[0], advantage[3]), "the sign of the advantage is wrong for every answer"
