from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.terms import TermConfig
from objectives.divergence.estimators import sampled_value, slope
from objectives.divergence.f_divergences import F_DIVERGENCES
from objectives.divergence.wiring.explore_loss import token_loss as explore_loss
from objectives.divergence.wiring.rehearse import token_loss as rehearse_loss
from tests.objectives.divergence_settings import FAMILIES, NAMES, POLICY, REFERENCE, label, settings
from tests.objectives.ragged_batch import divergence

LOG_U = (POLICY / REFERENCE).log()


def value_of(name: str, alpha: float = 0.2) -> float:
    """E_reference[f(u)] by enumeration."""
    return float((REFERENCE * F_DIVERGENCES[name](LOG_U, alpha).value).sum())


def test_reverse_kl_has_the_value_of_the_test_vector() -> None:
    assert value_of("reverse_kl") == pytest.approx(0.0851228, abs=1e-7)


def test_forward_kl_has_the_value_of_the_test_vector() -> None:
    assert value_of("forward_kl") == pytest.approx(0.0920328, abs=1e-7)


def test_jensen_shannon_has_the_value_of_the_test_vector() -> None:
    assert value_of("jensen_shannon") == pytest.approx(0.0219012, abs=1e-7)


@pytest.mark.parametrize(("alpha", "value"), [(0.2, 0.0861994), (0.5, 0.0880868), (0.8, 0.0903270)])
def test_alpha_has_the_value_of_the_test_vector(alpha: float, value: float) -> None:
    assert value_of("alpha", alpha) == pytest.approx(value, abs=1e-7)


def test_alpha_tends_to_the_reverse_kl_at_0_and_to_the_forward_kl_at_1() -> None:
    assert value_of("alpha", 1e-3) == pytest.approx(value_of("reverse_kl"), abs=1e-5)
    assert value_of("alpha", 1 - 1e-3) == pytest.approx(value_of("forward_kl"), abs=1e-5)


def test_dph_rls_generator_is_twice_the_jensen_shannon() -> None:
    u = LOG_U.exp()
    generator = u * u.log() - (u + 1) * ((u + 1) / 2).log()
    torch.testing.assert_close(F_DIVERGENCES["jensen_shannon"](LOG_U, 0.2).value * 2, generator)


@pytest.mark.parametrize("name", NAMES)
def test_f_vanishes_at_one_and_lies_above_its_tangent(name: str) -> None:
    at_one = F_DIVERGENCES[name](torch.zeros(1, dtype=torch.float64), 0.2)
    assert at_one.value.item() == at_one.slope.item() == at_one.above_tangent.item() == 0
    away = F_DIVERGENCES[name](torch.tensor([-5.0, -0.1, 0.1, 5.0], dtype=torch.float64), 0.2)
    assert (away.above_tangent > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_slope_is_the_derivative_of_f(name: str) -> None:
    u = torch.tensor([0.01, 0.5, 1.0, 2.0, 50.0], dtype=torch.float64, requires_grad=True)
    at = F_DIVERGENCES[name](u.log(), 0.2)
    (derivative,) = torch.autograd.grad(at.value.sum(), u)
    torch.testing.assert_close(at.slope + at.slope_at_one, derivative)


EVERYWHERE = torch.cat([torch.linspace(-1e4, 1e4, 2001), torch.linspace(-120, 120, 4801), torch.zeros(1)])


@pytest.mark.parametrize("name", NAMES)
def test_no_ratio_overflows_float32(name: str) -> None:
    extremes = [0.001, 0.2, 0.999] if name in FAMILIES else [0.2]
    for alpha in [*extremes, 2.0] if name == "tsallis" else extremes:
        for cfg in settings():
            if cfg.name == name:
                check_finite(replace(cfg, alpha=alpha))


def check_finite(cfg: TermConfig) -> None:
    """Values, and squares of gradients, wherever the log-ratio may lie."""
    logp = EVERYWHERE.clone().requires_grad_()
    reference = torch.zeros(len(EVERYWHERE))
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


@pytest.mark.parametrize("estimator", ["k1", "k3"])
@pytest.mark.parametrize("log_u", [-10.0, -60.0, -1000.0])
def test_forward_kl_pulls_a_lost_answer_at_full_strength_however_lost(estimator: str, log_u: float) -> None:
    logp = torch.tensor([log_u], requires_grad=True)
    cfg = divergence("forward_kl", route="rehearse", estimator=estimator)
    (gradient,) = torch.autograd.grad(rehearse_loss(cfg, logp, torch.zeros(1)).sum(), logp)
    assert gradient.item() == pytest.approx(-1.0, abs=1e-4)


def test_jensen_shannon_lets_a_lost_answer_go() -> None:
    logp = torch.tensor([0.1, 0.01]).log().requires_grad_()
    cfg = divergence("jensen_shannon", route="rehearse")
    (gradient,) = torch.autograd.grad(rehearse_loss(cfg, logp, torch.zeros(2)).sum(), logp)
    assert (2 * gradient).tolist() == pytest.approx([-0.1705, -0.0392], abs=1e-4)  # u log(2u / (u + 1))


def test_a_token_far_above_the_reference_is_still_pushed_down() -> None:
    logp = torch.tensor([0.0], requires_grad=True)
    cfg = divergence("forward_kl", route="rehearse")
    (gradient,) = torch.autograd.grad(rehearse_loss(cfg, logp, torch.tensor([-90.0])).sum(), logp)
    assert gradient.item() > 1


def test_forward_kl_from_stored_answers_without_a_reference_is_cross_entropy() -> None:
    logp = torch.tensor([-0.01, -3.0, -77.0, -500.0], requires_grad=True)
    cfg = divergence("forward_kl", route="rehearse", estimator="k1")
    term = rehearse_loss(cfg, logp, torch.zeros(4))
    assert torch.equal(term, -logp)
    assert torch.autograd.grad(term.sum(), logp)[0].tolist() == [-1.0] * 4


@pytest.mark.parametrize("name", NAMES)
def test_the_value_reported_for_the_policys_own_answers_is_unbiased_and_never_negative(name: str) -> None:
    value = sampled_value(divergence(name, estimator="straight_through"), POLICY.log(), REFERENCE.log())
    assert (value >= 0).all()
    assert float((POLICY * value).sum()) == pytest.approx(value_of(name), abs=1e-12)


def test_the_reward_penalty_of_the_reverse_kl_is_k1() -> None:
    cfg = divergence("reverse_kl", wiring="reward", estimator="k1")
    penalty: Tensor = slope(cfg, POLICY.log().requires_grad_(), REFERENCE.log())
    torch.testing.assert_close(penalty, LOG_U)
    assert not penalty.requires_grad
