"""Sequence level: divergences between whole answers, in the reward and in the loss (chi-squared, arXiv:2403.03185)."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.terms import TermConfig
from objectives.credit import credit
from objectives.divergence.wiring.whole_answer import answer_slope, answer_value, linear_exp
from tests.objectives.divergence.wiring.enumerated_answers import (
    BETA,
    POLICY_TABLE,
    REFERENCE_TABLE,
    answer_logps,
    expected_gradient,
    summed,
)
from tests.objectives.divergence_settings import EXACT, NAMES, POLICY, REFERENCE, exact_gradient, in_tenths
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, state_of


def exact_gradient_of_answers(name: str) -> Tensor:
    """Return the exact gradient of D(policy || reference) between answers of two tokens."""
    table = POLICY_TABLE.clone().requires_grad_()
    answers = list(itertools.product(range(3), repeat=2))
    p, q = (torch.stack([answer_logps(t, a).sum() for a in answers]).exp() for t in (table, REFERENCE_TABLE))
    return torch.autograd.grad(EXACT[name](p, q, 0.2), table)[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_reward_wiring_has_the_exact_gradient_for_every_divergence(name: str) -> None:
    term = divergence(name, level="sequence", wiring="reward", estimator="k1")
    torch.testing.assert_close(
        expected_gradient(summed(term), 2), BETA * exact_gradient_of_answers(name), rtol=1e-4, atol=1e-5
    )


def test_the_differentiated_estimate_of_chi_squared_has_half_its_gradient_plus_that_of_the_forward_kl() -> None:
    term = divergence("chi_squared", level="sequence", estimator="k3")
    expected = exact_gradient_of_answers("chi_squared") / 2 + exact_gradient_of_answers("forward_kl")
    torch.testing.assert_close(expected_gradient(summed(term), 2), BETA * expected, rtol=1e-4, atol=1e-5)


def gradient_over_ten_answers(term: TermConfig, policy: Tensor = POLICY, reference: Tensor = REFERENCE) -> Tensor:
    """Return the gradient by the logits of a term over ten answers of a sampled token and a certain one."""
    tokens = in_tenths(policy)
    logits = policy.log().requires_grad_()
    logp = torch.stack([logits.log_softmax(0)[tokens], torch.zeros(10).double()], 1).flatten()
    reference_logp = torch.stack([reference.log()[tokens], torch.zeros(10).double()], 1).flatten()
    answers = [("explore", 0, 1.0, [token, 0]) for token in tokens]
    batch = make_batch(answers, logp_sampler=logp.detach(), logp_reference=reference_logp)
    cfg = summed(term)
    value, _ = loss_of(logp, credit(batch, cfg, state_of(BETA)), cfg, BETA)
    return torch.autograd.grad(value, logits)[0]


def test_the_square_root_of_chi_squared_is_exact_in_the_reward_and_as_published_in_the_loss() -> None:
    # chi2 = .1633333 on the test vector; grad sqrt(chi2) = grad chi2 / (2 sqrt(chi2))
    slope = 1 / (2 * math.sqrt(0.04 / 0.5 + 0.01 / 0.3 + 0.01 / 0.2))
    chi, forward = exact_gradient("chi_squared"), exact_gradient("forward_kl")
    reward = divergence("chi_squared", level="sequence", root=True, wiring="reward", estimator="k1")
    torch.testing.assert_close(gradient_over_ten_answers(reward), BETA * slope * chi, rtol=1e-4, atol=1e-6)
    published = divergence("chi_squared", level="sequence", root=True, estimator="k3")
    torch.testing.assert_close(
        gradient_over_ten_answers(published), BETA * slope * (chi / 2 + forward), rtol=1e-4, atol=1e-6
    )
    for term in (reward, published):
        assert gradient_over_ten_answers(term, POLICY, POLICY).tolist() == [0.0, 0.0, 0.0]  # below the floor: no slope


def test_the_gradient_of_a_long_answer_neither_overflows_nor_vanishes() -> None:
    log_u = torch.tensor([-3.0, 10.0, 11.0, 300.0], requires_grad=True)
    got = linear_exp(log_u)
    assert got.tolist() == pytest.approx([math.exp(-3), math.exp(10), 2 * math.exp(10), 291 * math.exp(10)], rel=1e-5)
    assert torch.autograd.grad(got.sum(), log_u)[0][2:].tolist() == pytest.approx([math.exp(10)] * 2, rel=1e-5)
    term = divergence("chi_squared", level="sequence", estimator="k3")
    for sign in (1.0, -1.0):
        far = torch.tensor([sign * 300], requires_grad=True)
        (slope,) = torch.autograd.grad(answer_value(term, far).sum(), far)
        assert slope.item() == pytest.approx(sign * math.exp(10), rel=1e-3)
        assert answer_slope(replace(term, wiring="reward", estimator="k1"), far).isfinite().all()


def test_near_the_reference_chi_squared_between_answers_is_the_square_of_their_log_ratio() -> None:
    log_u = torch.tensor([0.01, -0.02], dtype=torch.float64)
    value = answer_value(divergence("chi_squared", level="sequence", estimator="k3"), log_u)
    torch.testing.assert_close(value, log_u.square(), rtol=1e-3, atol=0)
