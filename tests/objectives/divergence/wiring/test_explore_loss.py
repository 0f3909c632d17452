"""Loss wiring on explored tokens: the gradient of each estimator, and the estimators that are refused."""

import pytest
import torch

from configs.terms import TermConfig
from objectives.divergence.f_divergences import F_DIVERGENCES
from tests.objectives.divergence.formulas import CASES, ON_POLICY, SLOPE
from tests.objectives.divergence_settings import (
    ALPHA,
    COEFFICIENT,
    NAMES,
    OLD,
    POLICY,
    REFERENCE,
    anchor_of,
    estimated_gradient,
    exact_gradient,
    label,
    settings,
)
from tests.objectives.ragged_batch import divergence


def test_k3_on_policy_has_the_gradient_of_the_forward_kl() -> None:
    got = estimated_gradient(divergence("reverse_kl", estimator="k3"), POLICY) / COEFFICIENT
    assert got.tolist() == pytest.approx([0.2, -0.1, -0.1])
    torch.testing.assert_close(got, exact_gradient("forward_kl"))


@pytest.mark.parametrize("cfg", [c for c in settings(every_alpha=True) if c.estimator == "ratio_weighted"], ids=label)
def test_the_ratio_weighted_estimator_has_the_exact_gradient_on_answers_of_an_older_policy(cfg: TermConfig) -> None:
    expected = exact_gradient(cfg.name, POLICY, anchor_of(cfg, OLD), cfg.alpha)
    torch.testing.assert_close(estimated_gradient(cfg, OLD), COEFFICIENT * expected, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_straight_through_estimator_is_biased_on_answers_of_an_older_policy(name: str) -> None:
    got = estimated_gradient(divergence(name, estimator="straight_through"), OLD)
    exact = COEFFICIENT * exact_gradient(name)
    assert (got - exact).abs().max() > 0.1 * exact.abs().max()


def test_k1_is_refused_because_its_expected_gradient_is_0() -> None:
    logits = POLICY.log().requires_grad_()
    logp = logits.log_softmax(0)
    expectation = (POLICY * (logp - REFERENCE.log())).sum()
    assert torch.autograd.grad(expectation, logits)[0].tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    with pytest.raises(ValueError, match="k1"):
        divergence("reverse_kl", estimator="k1")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reverse_kl"])
def test_k3_of_another_divergence_is_refused_because_it_lacks_the_score_function_term(name: str) -> None:
    with pytest.raises(ValueError, match="not its gradient"):
        divergence(name, estimator="k3")
    logits = POLICY.log().requires_grad_()
    at = F_DIVERGENCES[name](logits.log_softmax(0) - REFERENCE.log(), ALPHA)
    naive = torch.autograd.grad((POLICY * at.above_tangent / at.log_u.exp()).sum(), logits)[0]
    exact = exact_gradient(name)
    assert (naive - exact).norm() > 0.1 * exact.norm()


@pytest.mark.parametrize(("name", "alpha"), CASES)
def test_the_naive_estimator_lacks_the_score_function_term(name: str, alpha: float) -> None:
    # E[(f'(u) - f(u)/u + f'(1)(1 - 1/u) - f'(1)) grad log pi], by the logits: pi (c - E[c]) with c the bracket.
    cfg = divergence(name, alpha=alpha, estimator="naive")
    u = POLICY / REFERENCE
    bracket = SLOPE[name](u, alpha) - ON_POLICY[name](u, alpha)
    expected = POLICY * (bracket - (POLICY * bracket).sum())
    got = estimated_gradient(cfg, POLICY) / COEFFICIENT
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=5e-7)
    exact = exact_gradient(name, alpha=alpha)
    assert (got - exact).norm() > 0.05 * exact.norm(), "it is not the gradient of the divergence"
