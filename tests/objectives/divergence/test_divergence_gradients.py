"""Each estimator's gradient, through `credit` and `loss`, against the gradient of the exact expectation.

One-token answers over three tokens, dealt out in tenths, make a batch whose mean is an exact expectation.
"""

import math
from dataclasses import replace

import pytest
import torch

from configs.terms import TermConfig
from objectives.credit import credit
from objectives.divergence.f_divergences import F_DIVERGENCES
from tests.objectives.divergence_settings import (
    COEFFICIENT,
    EXACT,
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
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, state_of

ALPHA = 0.2


def test_every_divergence_has_an_exact_form_to_be_checked_against() -> None:
    assert set(EXACT) == set(NAMES)


def test_the_gradient_of_the_reverse_kl_is_that_of_the_test_vector() -> None:
    assert exact_gradient("reverse_kl").tolist() == pytest.approx([0.17594, -0.09812, -0.07783], abs=1e-5)


@pytest.mark.parametrize(
    "cfg", [cfg for cfg in settings(every_alpha=True) if cfg.estimator != "k3" or cfg.rehearses], ids=label
)
def test_every_estimator_but_k3_on_policy_has_the_exact_gradient(cfg: TermConfig) -> None:
    drawn_from = REFERENCE if cfg.rehearses else POLICY
    got = estimated_gradient(cfg, drawn_from)
    expected = exact_gradient(cfg.name, POLICY, anchor_of(cfg, drawn_from), cfg.alpha)
    torch.testing.assert_close(got, COEFFICIENT * expected, rtol=1e-5, atol=2e-7)


def test_k3_differentiated_on_policy_has_the_gradient_of_the_forward_kl() -> None:
    got = estimated_gradient(divergence("reverse_kl", estimator="k3"), POLICY) / COEFFICIENT
    assert got.tolist() == pytest.approx([0.2, -0.1, -0.1])
    torch.testing.assert_close(got, exact_gradient("forward_kl"))


@pytest.mark.parametrize(
    "cfg",
    [c for c in settings(every_alpha=True) if c.estimator == "ratio_weighted" or c.wiring == "joint"],
    ids=label,
)
def test_the_ratio_weighted_and_the_joint_wiring_are_exact_on_answers_of_an_older_policy(
    cfg: TermConfig,
) -> None:
    expected = exact_gradient(cfg.name, POLICY, anchor_of(cfg, OLD), cfg.alpha)
    torch.testing.assert_close(estimated_gradient(cfg, OLD), COEFFICIENT * expected, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_straight_through_estimator_is_biased_on_answers_of_an_older_policy(name: str) -> None:
    got = estimated_gradient(divergence(name, estimator="straight_through"), OLD)
    exact = COEFFICIENT * exact_gradient(name)
    assert (got - exact).abs().max() > 0.1 * exact.abs().max()


def test_a_differentiated_k1_is_refused_because_it_regularises_nothing() -> None:
    logits = POLICY.log().requires_grad_()
    logp = logits.log_softmax(0)
    expectation = (POLICY * (logp - REFERENCE.log())).sum()
    assert torch.autograd.grad(expectation, logits)[0].tolist() == pytest.approx([0, 0, 0], abs=1e-12)
    with pytest.raises(ValueError, match="k1"):
        divergence("reverse_kl", estimator="k1")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "reverse_kl"])
def test_differentiating_k3_of_another_divergence_is_refused_because_it_misses_the_score(name: str) -> None:
    with pytest.raises(ValueError, match="not its gradient"):
        divergence(name, estimator="k3")
    logits = POLICY.log().requires_grad_()
    at = F_DIVERGENCES[name](logits.log_softmax(0) - REFERENCE.log(), ALPHA)
    naive = torch.autograd.grad((POLICY * at.above_tangent / at.log_u.exp()).sum(), logits)[0]
    exact = exact_gradient(name)
    assert (naive - exact).norm() > 0.1 * exact.norm()


@pytest.mark.parametrize("cfg", settings(), ids=label)
def test_where_policy_and_reference_agree_nothing_is_pulled(cfg: TermConfig) -> None:
    gradient = estimated_gradient(cfg, REFERENCE, policy=REFERENCE)
    assert gradient.tolist() == pytest.approx([0, 0, 0], abs=1e-7)


@pytest.mark.parametrize(
    "cfg",
    [c for c in settings() if not c.normalised and (c.wiring != "loss" or c.estimator != "k1")],
    ids=label,
)
def test_tangent_forms_are_zero_token_by_token_where_policy_and_reference_agree(cfg: TermConfig) -> None:
    route, group = ("rehearse", -1) if cfg.rehearses else ("explore", 0)
    logp = torch.tensor([-0.2, -4.0, -0.7])
    batch = make_batch([(route, group, None if cfg.rehearses else 1.0, [1, 2, 3])], logp_sampler=logp)
    batch = replace(batch, logp_reference=logp)
    whole = objective(terms={"divergence": cfg})
    batch = credit(batch, whole, state_of(1.0))
    leaf = logp.clone().requires_grad_()
    value, stats = loss_of(leaf, batch, whole, 1.0)
    assert value.item() == 0
    assert torch.autograd.grad(value, leaf)[0].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-8)
    assert stats["terms/divergence/value"].tolist() == [0.0, 3.0]


def test_the_reported_divergence_is_the_value_under_the_policy() -> None:
    tokens = [0] * 7 + [1] * 2 + [2]
    for name in NAMES:
        cfg = objective(terms={"divergence": divergence(name, estimator="straight_through")})
        batch = make_batch(
            [("explore", 0, 1.0, [token]) for token in tokens],
            logp_sampler=POLICY.log()[tokens],
            logp_reference=REFERENCE.log()[tokens],
        )
        batch = credit(batch, cfg, state_of(1.0))
        _, stats = loss_of(POLICY.log()[batch.tokens], batch, cfg, 1.0)
        value, weight = stats["terms/divergence/value"].tolist()
        assert weight == 10
        assert math.isclose(value / weight, float(EXACT[name](POLICY, REFERENCE, ALPHA)), rel_tol=1e-5)
