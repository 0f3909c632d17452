"""The policy of the most reward minus Tsallis KL: exp_q, which of its answers lose their support, and that the preset
`tsallis` has no gradient there. Answers of one token, enumerated."""

import math

import pytest
import torch
from torch import Tensor

from objectives.objective import loss
from tests.objectives.ragged_batch import make_batch, scores
from tests.objectives.random_answers import credited, of

REFERENCE = torch.tensor([0.4, 0.3, 0.2, 0.1])
RIGHT = torch.tensor([1.0, 0.0, 1.0, 0.0])


def optimum(reward: Tensor, beta: float, q: float) -> Tensor:
    """Return argmax over pi of E_pi[r] - beta D_f(pi || REFERENCE), f(u) = (u^q - u) / (q - 1), float64.

    With c of the constraint sum pi = 1: beta f'(u) = r - c where u > 0, so u = [(1 + (q - 1)(r - c) / beta) / q]_+ to
    the power 1 / (q - 1), the exp_q policy; exp((r - c) / beta - 1) at q = 1. The sum falls in c, which is bisected.
    """
    reference, reward = REFERENCE.double(), reward.double()

    def at(c: float) -> Tensor:
        if q == 1:
            return reference * ((reward - c) / beta - 1).exp()
        base = (1 + (q - 1) * (reward - c) / beta) / q
        if q < 1 and bool((base <= 0).any()):
            return torch.full_like(reference, math.inf)  # c is below the pole, to which u rises without bound
        return reference * base.clamp(min=0) ** (1 / (q - 1))

    low, high = float(reward.min()) - 100 * beta - 100, float(reward.max()) + 100 * beta + 100
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float(at(middle).sum()) > 1 else (low, middle)
    return at(high)


def objective_of(policy: Tensor, reward: Tensor, beta: float, q: float) -> float:
    u = policy / REFERENCE.double()
    divergence = (REFERENCE * ((u**q - u) / (q - 1) if q != 1 else torch.special.xlogy(u, u))).sum()
    return float(policy @ reward.double() - beta * divergence)


def trained_gradient(policy: Tensor, reward: Tensor, beta: float, q: float) -> Tensor:
    """Return the expected gradient by the logits [V] of the preset `tsallis`, of the reward and not its z-score."""
    cfg = of("tsallis", "objective.advantage=mean_only", f"objective.terms.divergence.alpha={q}")
    answers = [("explore", 0, float(r), [token]) for token, r in enumerate(reward)]
    logp = policy.float().log()
    batch = make_batch(answers, logp_sampler=logp, logp_reference=REFERENCE.log())  # type: ignore[arg-type]
    leaf = logp.clone().requires_grad_()
    value, _ = loss(scores(leaf), credited(batch, cfg, beta), cfg, {"divergence": beta})
    (slope,) = torch.autograd.grad(value, leaf)
    weighted = policy.float() * slope * len(policy)  # every answer stands once in the batch
    return weighted - policy.float() * weighted.sum()


@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0])
def test_the_exp_q_policy_is_the_best_of_many_and_the_preset_has_no_gradient_there(q: float) -> None:
    reward, beta = torch.tensor([1.0, 0.3, 0.5, -0.2]), 1.5
    best = optimum(reward, beta, q)
    assert float(best.sum()) == pytest.approx(1, abs=1e-9) and float(best.min()) > 0.01
    torch.testing.assert_close(trained_gradient(best, reward, beta, q), torch.zeros(4), rtol=0, atol=2e-6)
    highest = objective_of(best, reward, beta, q)
    noise = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).double()
    others = (best.log() + 0.2 * noise).softmax(-1)
    assert all(objective_of(other, reward, beta, q) < highest for other in others)
    assert max(float(trained_gradient(other, reward, beta, q).abs().max()) for other in others) > 0.01


def test_at_q_2_a_small_coefficient_takes_the_support_of_lower_rewards_and_at_q_1_and_below_none_does() -> None:
    # q = 2, beta = .1: u = (1 + (r - c) / beta) / 2 is 0 at reward 0 where c >= .1. The right answers, .6 of the
    # reference, then have u = 1 / .6: (1 + 10 (1 - c)) / 2 = 5 / 3, so c = .7667.
    torch.testing.assert_close(optimum(RIGHT, 0.1, 2.0), torch.tensor([2 / 3, 0, 1 / 3, 0]).double())
    # q = 1: u = exp(10 r) / Z, Z = .6 e^10 + .4 = 13216.28, so .4 / Z of .3 and .1
    assert optimum(RIGHT, 0.1, 1.0)[1:4:2].tolist() == pytest.approx([0.3 / 13216.28, 0.1 / 13216.28], rel=1e-6)
    # q = 1 / 2: u = (2 + (c - r) / beta)^-2. As u is about 1 / .6 at reward 1, c = 1 - .1 (2 - .6^.5) = .8775, and
    # u = 10.775^-2 = .00861 at reward 0
    assert optimum(RIGHT, 0.1, 0.5)[1:4:2].tolist() == pytest.approx([0.3 * 0.00861, 0.1 * 0.00861], rel=0.01)


@pytest.mark.parametrize("q", [1.2, 1.5, 2.0])
def test_wrong_answers_lose_their_support_below_the_coefficient_of_the_page(q: float) -> None:
    # u = 0 at reward 0 where c >= beta / (q - 1); at equality u = p^-1 on the right answers, p = .6 of the reference:
    # beta = (q - 1) p^(q - 1) / q
    beta = (q - 1) * 0.6 ** (q - 1) / q
    assert float(optimum(RIGHT, 0.99 * beta, q)[[1, 3]].max()) == 0
    assert float(optimum(RIGHT, 1.01 * beta, q)[[1, 3]].min()) > 0


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
def test_answers_of_equal_reward_keep_their_shares_under_the_reference(q: float) -> None:
    best = optimum(RIGHT, 0.1, q)
    assert float(best[0] / best[2]) == pytest.approx(2)


def test_a_softmax_policy_has_a_gradient_at_every_support_when_the_optimum_has_lost_an_answer() -> None:
    # The two optima differ by beta alone: at .1 answers of reward 0 have no support, and their logits fall for ever.
    lost = optimum(RIGHT, 0.1, 2.0)
    for part in (1e-2, 1e-4):
        policy = (1 - part) * lost + part * REFERENCE.double()
        gradient = trained_gradient(policy, RIGHT, 0.1, 2.0)
        # A - mean A of reward 0: -(1 - .1 f' of both), with f' = 2 u - 2: -(1 - .1 (2 / .6)) = -2 / 3 at part 0
        expected = 2 / 3 * part * REFERENCE[[1, 3]]
        torch.testing.assert_close(gradient[[1, 3]], expected, rtol=0.02, atol=0)
