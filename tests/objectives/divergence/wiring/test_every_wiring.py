"""Properties of every wiring: the gradient through `credit` and `loss` equals that of the exact expectation.

The mean over a batch of ten one-token answers, with frequencies in tenths, is an exact expectation.
"""

import math
from dataclasses import replace

import pytest
import torch

from configs.terms import TermConfig
from objectives.credit import credit
from objectives.divergence.estimators import sampled_value, slope
from objectives.divergence.wiring.explore_loss import token_loss as explore_loss
from objectives.divergence.wiring.rehearse import token_loss as rehearse_loss
from tests.objectives.divergence_settings import (
    ALPHA,
    COEFFICIENT,
    EXACT,
    FAMILIES,
    NAMES,
    OLD,
    POLICY,
    REFERENCE,
    anchor_of,
    estimated_gradient,
    exact_gradient,
    in_tenths,
    label,
    settings,
)
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, state_of


def test_every_divergence_has_an_exact_value_to_compare_with() -> None:
    assert set(EXACT) == set(NAMES)


def test_the_exact_gradient_of_the_reverse_kl_has_the_numbers_computed_by_hand() -> None:
    assert exact_gradient("reverse_kl").tolist() == pytest.approx([0.17594, -0.09812, -0.07783], abs=1e-5)


@pytest.mark.parametrize(
    "cfg",
    [cfg for cfg in settings(every_alpha=True) if cfg.estimator != ("k2" if cfg.rehearses else "k3")],
    ids=label,
)
def test_every_estimator_but_k3_on_policy_and_k2_on_stored_answers_has_the_exact_gradient(cfg: TermConfig) -> None:
    sampled_from = REFERENCE if cfg.rehearses else POLICY
    got = estimated_gradient(cfg, sampled_from)
    expected = exact_gradient(cfg.name, POLICY, anchor_of(cfg, sampled_from), cfg.alpha)
    torch.testing.assert_close(got, COEFFICIENT * expected, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("cfg", settings(), ids=label)
def test_where_policy_and_reference_agree_the_gradient_is_0(cfg: TermConfig) -> None:
    gradient = estimated_gradient(cfg, REFERENCE, policy=REFERENCE)
    assert gradient.tolist() == pytest.approx([0, 0, 0], abs=1e-7)


@pytest.mark.parametrize(
    "cfg",
    [c for c in settings() if not c.normalised and (c.wiring != "loss" or c.estimator != "k1")],
    ids=label,
)
def test_estimators_minus_their_tangent_are_0_at_each_token_where_policy_and_reference_agree(cfg: TermConfig) -> None:
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


def test_the_reported_divergence_is_the_exact_value() -> None:
    tokens = in_tenths(POLICY)
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


def test_each_wiring_of_the_reverse_kl_has_the_gradient_of_the_table() -> None:
    reverse, forward = exact_gradient("reverse_kl"), exact_gradient("forward_kl")
    for choices, sampled_from, expected in (
        ({"wiring": "reward", "estimator": "k1"}, POLICY, reverse),
        ({"estimator": "k2"}, POLICY, reverse),
        ({"estimator": "k3"}, POLICY, forward),
        ({"estimator": "ratio_weighted"}, POLICY, reverse),
        ({"estimator": "ratio_weighted"}, OLD, reverse),
        ({"wiring": "joint", "estimator": "k1"}, OLD, reverse),
    ):
        got = estimated_gradient(divergence("reverse_kl", **choices), sampled_from) / COEFFICIENT
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=5e-7)


LOG_RATIOS = torch.cat([torch.linspace(-1e4, 1e4, 2001), torch.linspace(-120, 120, 4801), torch.zeros(1)])


@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_are_finite_in_float32_at_every_ratio(name: str) -> None:
    extremes = [0.001, 0.2, 0.999] if name in FAMILIES else [0.2]
    for alpha in [*extremes, 2.0] if name == "tsallis" else extremes:
        for cfg in settings():
            if cfg.name == name:
                check_finite(replace(cfg, alpha=alpha))


def check_finite(cfg: TermConfig) -> None:
    """Assert that values and squares of gradients are finite at every log-ratio."""
    logp = LOG_RATIOS.clone().requires_grad_()
    reference = torch.zeros(len(LOG_RATIOS))
    if cfg.wiring != "loss":
        assert slope(cfg, logp, reference).square().isfinite().all(), label(cfg)
        return
    if cfg.route == "rehearse":
        term = rehearse_loss(cfg, logp, reference)
    else:
        term = explore_loss(cfg, logp, reference, logp.detach())
        assert sampled_value(cfg, logp, reference).isfinite().all(), label(cfg)
    (gradient,) = torch.autograd.grad(term.sum(), logp)
    assert term.isfinite().all(), label(cfg)
    assert gradient.square().isfinite().all(), label(cfg)
