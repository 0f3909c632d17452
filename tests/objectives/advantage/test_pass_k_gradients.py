"""Expected gradients of the advantages that aim at Pass@k, by enumeration of all groups, and the objectives they have.

The policy is a softmax over four answers. All groups of n answers, weighted by their probability, give the exact
expectation of mean_i A_i grad log pi(y_i), with A from `credit` under the settings of a preset.
"""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from objectives.advantage.pass_k import pass_k_zscore
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from tests.objectives.ragged_batch import make_batch
from tests.objectives.random_answers import of

PROBABILITIES = torch.tensor([0.45, 0.3, 0.05, 0.2], dtype=torch.float64)
RIGHT = [0.0, 1.0, 1.0, 0.0]
"""Answers 1 and 2 are right, with probability p = 0.35."""
SOLUTIONS = [0, 1, 2, 0]
"""Both wrong answers are the same solution, the right ones are two."""
GRADED = [0.3, -1.0, 2.0, 0.3]
"""Rewards that are not 0 or 1, two of them equal."""

Advantage = Callable[[Tensor], Tensor]
"""From the rewards [groups, n] of all groups to their advantages [groups, n]."""


def preset(name: str, *overrides: str, k: int = 1) -> Advantage:
    """Return the advantages of a preset, as `credit` computes them; the likelihoods are those of the policy."""

    def advantage(reward: Tensor) -> Tensor:
        groups = all_groups(reward.shape[1])
        answers = [
            ("explore", number, float(value), [token])
            for number, (tokens, values) in enumerate(zip(groups.tolist(), reward.tolist(), strict=True))
            for token, value in zip(tokens, values, strict=True)
        ]
        batch = make_batch(
            answers,  # type: ignore[arg-type]
            logp_sampler=PROBABILITIES.log()[groups.flatten()].float(),
            meaning=[SOLUTIONS[token] for token in groups.flatten().tolist()],
        )
        credited = credit(batch, of(name, *overrides), ObjectiveState(coefficients={}, pass_k=k))
        assert credited.advantage is not None
        return credited.advantage.double().view(reward.shape)

    return advantage


def all_groups(n: int) -> Tensor:
    """Return every group of n answers, int64 [4^n, n]."""
    return torch.tensor(list(itertools.product(range(4), repeat=n)))


def expected_gradient(advantage: Advantage, n: int, rewards: list[float] = RIGHT) -> Tensor:
    """Return the expectation of mean_i A_i grad log pi(y_i) by the logits of the four answers."""
    groups = all_groups(n)
    weight = PROBABILITIES[groups].prod(1, keepdim=True) * advantage(torch.tensor(rewards)[groups])
    logits = PROBABILITIES.log().requires_grad_()
    return torch.autograd.grad((weight * logits.log_softmax(0)[groups]).sum() / n, logits)[0]


def gradient(objective: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the gradient by the logits of a function of the probabilities of the four answers."""
    logits = PROBABILITIES.log().requires_grad_()
    return torch.autograd.grad(objective(logits.softmax(0)), logits)[0]


def pass_at(k: int) -> Callable[[Tensor], Tensor]:
    return lambda probabilities: 1 - (1 - probabilities[1:3].sum()) ** k


def best_of(k: int, rewards: list[float]) -> Callable[[Tensor], Tensor]:
    """Return the expected best reward of k answers, as a function of the probabilities."""
    chosen = all_groups(k)
    best = torch.tensor(rewards, dtype=torch.float64)[chosen].amax(1)
    return lambda probabilities: (probabilities[chosen].prod(1) * best).sum()


def log_likelihood(order: int) -> Callable[[Tensor], Tensor]:
    """Return log p, p the probability of a right answer, truncated: sum_{k=1}^{order} -(1 - p)^k / k."""
    return lambda probabilities: sum(
        (-((1 - probabilities[1:3].sum()) ** k) / k for k in range(1, order + 1)), start=torch.tensor(0.0)
    )


def assert_close(got: Tensor, expected: Tensor) -> None:
    """Assert that two gradients agree, and are not 0."""
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-7)
    assert expected.abs().max() > 1e-3


def mean_over_sets(reward: Tensor, k: int, value: Callable[[int, tuple[int, ...]], Tensor]) -> Tensor:
    """Return k times the mean of `value(i, J)` over all sets J of k - 1 other answers, for every answer i."""
    n = reward.shape[1]
    columns = []
    for i in range(n):
        others = list(itertools.combinations([j for j in range(n) if j != i], k - 1))
        columns.append(k * torch.stack([value(i, chosen) for chosen in others]).mean(0))
    return torch.stack(columns, 1).double()


def without_baseline(k: int) -> Advantage:
    """Return PKPO's s_i times n without a baseline: the best reward of every set of k answers with answer i."""
    return lambda reward: mean_over_sets(reward, k, lambda i, chosen: reward[:, [i, *chosen]].amax(1))


@pytest.mark.parametrize("n", [2, 4, 5])
def test_the_expected_gradient_of_pkpo_is_that_of_pass_at_k(n: int) -> None:
    for k in range(1, n + 1):
        assert_close(expected_gradient(preset("pkpo", k=k), n), gradient(pass_at(k)))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_expected_gradient_of_pkpo_is_that_of_the_best_reward_of_k_answers(k: int) -> None:
    assert_close(expected_gradient(preset("pkpo", k=k), 4, GRADED), gradient(best_of(k, GRADED)))
    assert_close(gradient(best_of(k, RIGHT)), gradient(pass_at(k)))


@pytest.mark.parametrize("rewards", [RIGHT, GRADED])
@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_baseline_of_pkpo_is_the_best_of_the_others_and_changes_the_noise_but_not_the_expectation(
    k: int, rewards: list[float]
) -> None:
    groups = all_groups(4)
    reward = torch.tensor(rewards)[groups]
    got = preset("pkpo", k=k)(reward)
    added = mean_over_sets(
        reward, k, lambda i, chosen: reward[:, [i, *chosen]].amax(1) - reward[:, list(chosen)].amax(1)
    )
    torch.testing.assert_close(got, added, rtol=1e-6, atol=1e-6)
    assert_close(expected_gradient(without_baseline(k), 4, rewards), gradient(best_of(k, rewards)))
    probability, score = PROBABILITIES[groups].prod(1), torch.eye(4, dtype=torch.float64)[groups] - PROBABILITIES
    noise = [
        float((probability * (a[:, :, None] * score).mean(1).square().sum(1)).sum())
        for a in (got, without_baseline(k)(reward))
    ]
    assert noise[0] < noise[1]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_pass_at_k_training_times_its_deviation_has_the_gradient_of_pass_at_k_times_1_over_k_minus_1_over_n(
    k: int,
) -> None:
    n = 5

    def numerator(reward: Tensor) -> Tensor:
        wrong = (n - reward.sum(1)).tolist()
        none_right = torch.tensor([math.comb(round(w), k) / math.comb(n, k) for w in wrong], dtype=torch.float64)
        return preset("passk_training", k=k)(reward) * (none_right * (1 - none_right)).sqrt()[:, None]

    assert_close(expected_gradient(numerator, n), (1 / k - 1 / n) * gradient(pass_at(k)))


def weight_of_pass_at_1(k: int, n: int, p: float) -> float:
    """Return the w for which a prompt's expected gradient under Pass@k training is w grad p: E[A+] - E[A-], each given
    the other n - 1 answers."""
    total = 0.0
    for others in range(n):  # right ones among the other n - 1
        chance = math.comb(n - 1, others) * p**others * (1 - p) ** (n - 1 - others)
        right, wrong = (
            float(pass_k_zscore(torch.tensor([r] + [1.0] * others + [0.0] * (n - 1 - others)).double(), k)[0])
            for r in (1.0, 0.0)
        )
        total += chance * (right - wrong)
    return total


def test_pass_at_k_training_weighs_prompts_otherwise_than_pass_at_k() -> None:
    # On one prompt with rewards 0 or 1 every gradient is a multiple of that of p, so only the weight can differ.
    for k in (1, 2, 3):
        assert_close(
            expected_gradient(preset("passk_training", k=k), 5),
            weight_of_pass_at_1(k, 5, 0.35) * gradient(pass_at(1)),
        )
    hard, middle, easy = (weight_of_pass_at_1(2, 16, p) / (2 * (1 - p)) for p in (0.02, 0.3, 0.8))
    assert hard > 1.3 * middle and easy > 2 * middle, "the deviation raises hard prompts, and easy ones more"


@pytest.mark.parametrize("p", [0.2, 0.5])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_in_large_groups_pass_at_k_training_has_the_gradient_of_2_over_k_arcsin_sqrt_pass_at_k(
    k: int, p: float
) -> None:
    at = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(2 / k * (1 - (1 - at) ** k).sqrt().asin(), at)
    small, large = (abs(weight_of_pass_at_1(k, n, p) / float(slope) - 1) for n in (75, 300))
    assert large < 0.02 and large < small / 3


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_expected_gradient_of_maxrl_is_that_of_the_log_likelihood_truncated_to_order_n_minus_1(n: int) -> None:
    got = expected_gradient(preset("maxrl"), n)
    assert_close(got, gradient(log_likelihood(n - 1)))
    assert_close(got, sum((gradient(pass_at(k)) / k for k in range(1, n)), start=torch.zeros(4)))
    # The baseline is left out where no answer is right, which costs the last order.
    unbaselined = expected_gradient(lambda reward: reward / reward.mean(1, keepdim=True).clamp(min=1e-9), n)
    assert_close(unbaselined, gradient(log_likelihood(n)))


@pytest.mark.parametrize("right_weight", [0.0, 0.1, 1.0])
def test_the_expected_gradient_of_nsr_is_that_of_pass_at_1_whatever_lambda_is(right_weight: float) -> None:
    advantage = preset("nsr", f"objective.pass_k.right_weight={right_weight}")
    assert_close(expected_gradient(advantage, 3), (1 + right_weight) * gradient(pass_at(1)))


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_expected_gradient_of_darling_is_that_of_pass_at_1_minus_the_squares_of_its_solutions(n: int) -> None:
    # A right answer's reward is 1 - p on average, p the probability of its solution, and the others' rewards fall by
    # p / (n - 1) with it, of which the mean takes 1 / n.
    def objective(probabilities: Tensor) -> Tensor:
        right = probabilities[1:3]
        return (1 - 1 / n) * right.sum() - (1 - 2 / n) / 2 * right.square().sum()

    assert_close(expected_gradient(preset("darling"), n), gradient(objective))


def test_with_rewards_0_or_1_only_unlikeliness_ucpo_and_darling_prefer_the_rarer_of_two_right_answers() -> None:
    def preference(advantage: Advantage) -> float:
        """Return the gradient per probability of the rare right answer over that of the likely one."""
        rise = expected_gradient(advantage, 4) / PROBABILITIES
        return float(rise[2] / rise[1])

    for name in ("grpo", "passk_training", "pkpo", "maxrl", "nsr"):
        assert preference(preset(name, k=2)) == pytest.approx(1.0, abs=1e-5), name
    assert preference(preset("unlikeliness")) > 1.05
    assert preference(preset("unlikeliness", "objective.pass_k.rank_penalty=0")) == pytest.approx(1.0, abs=1e-5)
    assert preference(preset("darling")) > 1.2
    assert preference(preset("ucpo")) > 1.05
    assert preference(preset("ucpo", "objective.pass_k.uniformity=1")) > preference(preset("ucpo"))
