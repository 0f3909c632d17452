"""Every f-divergence: value, slope, curvature at 1, limits and identities."""

import math

import pytest
import torch
from torch import Tensor

from objectives.divergence.f_divergences import F_DIVERGENCES, AtRatio
from objectives.divergence.number import Number
from tests.objectives.divergence.formulas import CASES, CURVATURE, ON_POLICY, SLOPE, U
from tests.objectives.divergence_settings import FAMILIES, NAMES, POLICY, REFERENCE, exact_gradient

# Computed by hand on policy (.7, .2, .1) and reference (.5, .3, .2):
GOLDEN = {
    ("reverse_kl", 0.2): 0.0851228,  # .7 ln 1.4 + .2 ln(2/3) + .1 ln .5
    ("forward_kl", 0.2): 0.0920328,
    ("jensen_shannon", 0.2): 0.0219012,
    ("alpha", 0.2): 0.0861994,
    ("total_variation", 0.2): 0.2,  # (.2 + .1 + .1) / 2
    ("chi_squared", 0.2): 0.1633333,  # .04/.5 + .01/.3 + .01/.2
    ("neyman", 0.2): 0.2071429,  # .04/.7 + .01/.2 + .01/.1
    ("hellinger", 0.2): 0.0440434,  # 2 - 2 (sqrt .35 + sqrt .06 + sqrt .02)
    ("jeffreys", 0.2): 0.1771556,  # .0851228 + .0920328
    ("tsallis", 2.0): 0.1633333,  # chi-squared
    ("tsallis", 1.0): 0.0851228,  # the reverse KL
    ("tsallis", 0.5): 0.0440434,  # the squared Hellinger distance
    ("generalised_jensen_shannon", 0.5): 0.0219012,  # Jensen-Shannon
    ("skew_kl", 0.5): 0.0210721,  # .5 ln(5/6) + .3 ln 1.2 + .2 ln(4/3) = -.0911608 + .0546965 + .0575364
    ("skew_reverse_kl", 0.5): 0.0227303,  # .7 ln(7/6) + .2 ln .8 + .1 ln(2/3) = .1079055 - .0446287 - .0405465
}


LOG_RATIOS = (POLICY / REFERENCE).log()


def at(name: str, alpha: float, u: Tensor = U) -> AtRatio:
    return F_DIVERGENCES[name](u.log(), alpha)


def value_of(name: str, alpha: float = 0.2, p: Tensor = POLICY, q: Tensor = REFERENCE) -> float:
    """Return E_q[f(p / q)] by enumeration."""
    return float((q * F_DIVERGENCES[name]((p / q).log(), alpha).value).sum())


@pytest.mark.parametrize(("name", "alpha"), GOLDEN)
def test_each_divergence_has_the_value_computed_by_hand(name: str, alpha: float) -> None:
    assert value_of(name, alpha) == pytest.approx(GOLDEN[name, alpha], abs=1e-7)


def test_the_thirteen_published_divergences_have_formulas_and_a_value_computed_by_hand() -> None:
    published = {name for name, _ in GOLDEN}
    assert set(ON_POLICY) == set(SLOPE) == {*CURVATURE, "total_variation"} == published
    assert len(published) >= 13 and published <= set(NAMES)


@pytest.mark.parametrize(("name", "alpha"), [case for case in CASES if case[0] != "total_variation"])
def test_near_the_reference_a_divergence_is_half_its_curvature_times_chi_squared(name: str, alpha: float) -> None:
    near = REFERENCE + 1e-4 * torch.tensor([1.0, -0.4, -0.6], dtype=torch.float64)
    chi_squared = float(((near - REFERENCE).square() / REFERENCE).sum())
    assert value_of(name, alpha, near) == pytest.approx(CURVATURE[name](alpha) / 2 * chi_squared, rel=2e-3)


# Limits and identities.


def test_the_generalised_jensen_shannon_over_its_weight_tends_to_both_kls() -> None:
    b = 1e-5
    name = "generalised_jensen_shannon"
    assert value_of(name, b) / b == pytest.approx(value_of("forward_kl", 0), rel=1e-4)
    assert value_of(name, 1 - b) / b == pytest.approx(value_of("reverse_kl", 0), rel=1e-4)


def test_the_skewed_kls_tend_to_the_plain_kls_at_0_and_to_0_at_1() -> None:
    assert value_of("skew_kl", 1e-6) == pytest.approx(value_of("forward_kl", 0), rel=1e-5)
    assert value_of("skew_reverse_kl", 1e-6) == pytest.approx(value_of("reverse_kl", 0), rel=1e-5)
    assert value_of("skew_kl", 1 - 1e-6) == pytest.approx(0, abs=1e-9)
    assert value_of("skew_reverse_kl", 1 - 1e-6) == pytest.approx(0, abs=1e-9)


def test_tsallis_is_continuous_at_the_reverse_kl() -> None:
    for q in (1 - 1e-6, 1 + 1e-6):
        torch.testing.assert_close(at("tsallis", q).above_tangent, at("reverse_kl", 0).above_tangent, rtol=1e-4, atol=0)
        torch.testing.assert_close(at("tsallis", q).slope, at("reverse_kl", 0).slope, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [
        (("tsallis", 2.0), ("chi_squared", 0), 1),
        (("tsallis", 0.5), ("hellinger", 0), 1),
        (("alpha", 0.5), ("hellinger", 0), 2),
        (("generalised_jensen_shannon", 0.5), ("jensen_shannon", 0), 1),
    ],
)
def test_divergences_that_are_equal_agree_at_every_ratio(
    one: tuple[str, float], other: tuple[str, float], factor: float
) -> None:
    torch.testing.assert_close(at(*one).above_tangent, factor * at(*other).above_tangent)
    torch.testing.assert_close(at(*one).slope, factor * at(*other).slope)


def test_jeffreys_is_the_sum_of_both_kls_and_jensen_shannon_is_the_mean_of_the_skewed_kls() -> None:
    both = at("reverse_kl", 0).above_tangent + at("forward_kl", 0).above_tangent
    torch.testing.assert_close(at("jeffreys", 0).above_tangent, both)
    skewed = (at("skew_kl", 0.5).above_tangent + at("skew_reverse_kl", 0.5).above_tangent) / 2
    torch.testing.assert_close(at("jensen_shannon", 0).above_tangent, skewed)


@pytest.mark.parametrize(
    ("name", "alpha", "bound"),
    [
        ("jensen_shannon", 0.2, math.log(2)),
        ("total_variation", 0.2, 1),
        ("hellinger", 0.2, 2),
        ("skew_kl", 0.1, math.log(10)),
        ("skew_reverse_kl", 0.1, math.log(10)),
    ],
)
def test_bounded_divergences_reach_their_bound_between_disjoint_distributions(
    name: str, alpha: float, bound: float
) -> None:
    small = 1e-8
    one = torch.tensor([1 - small, small], dtype=torch.float64)
    assert value_of(name, alpha, one, one.flip(0)) == pytest.approx(bound, rel=1e-3)
    assert value_of(name, alpha, one, one.flip(0)) <= bound


def test_alpha_changes_the_families_and_no_other_divergence() -> None:
    for name in NAMES:
        changed = abs(value_of(name, 0.3) - value_of(name, 0.6)) > 1e-4
        assert changed == (name in FAMILIES), name


def test_the_gradient_of_reward_minus_tsallis_is_0_at_its_closed_form_optimum() -> None:
    # u = [(1 + (q - 1)(r - c) / beta) / q]^(1 / (q - 1)); for q = 2 the mean of u is 1 at c = E_ref[r] - beta
    reward, beta = torch.tensor([1.0, 0.3, -0.5], dtype=torch.float64), 0.8
    optimum = REFERENCE * (1 + (reward - (REFERENCE * reward).sum()) / (2 * beta))
    assert float(optimum.sum()) == pytest.approx(1)
    logits = optimum.log().requires_grad_()
    (of_reward,) = torch.autograd.grad((logits.softmax(0) * reward).sum(), logits)
    torch.testing.assert_close(of_reward, beta * exact_gradient("tsallis", optimum, alpha=2.0))
    assert of_reward.abs().max() > 0.1


def test_reverse_kl_has_the_value_computed_by_hand() -> None:
    assert value_of("reverse_kl") == pytest.approx(0.0851228, abs=1e-7)


def test_forward_kl_has_the_value_computed_by_hand() -> None:
    assert value_of("forward_kl") == pytest.approx(0.0920328, abs=1e-7)


def test_jensen_shannon_has_the_value_computed_by_hand() -> None:
    assert value_of("jensen_shannon") == pytest.approx(0.0219012, abs=1e-7)


@pytest.mark.parametrize(("alpha", "value"), [(0.2, 0.0861994), (0.5, 0.0880868), (0.8, 0.0903270)])
def test_alpha_has_the_value_computed_by_hand(alpha: float, value: float) -> None:
    assert value_of("alpha", alpha) == pytest.approx(value, abs=1e-7)


def test_alpha_tends_to_the_reverse_kl_at_0_and_to_the_forward_kl_at_1() -> None:
    assert value_of("alpha", 1e-3) == pytest.approx(value_of("reverse_kl"), abs=1e-5)
    assert value_of("alpha", 1 - 1e-3) == pytest.approx(value_of("forward_kl"), abs=1e-5)


def test_the_generator_of_dph_js_is_twice_the_jensen_shannon() -> None:
    u = LOG_RATIOS.exp()
    generator = u * u.log() - (u + 1) * ((u + 1) / 2).log()
    torch.testing.assert_close(F_DIVERGENCES["jensen_shannon"](LOG_RATIOS, 0.2).value * 2, generator)


@pytest.mark.parametrize("name", NAMES)
def test_f_is_0_at_1_and_lies_above_its_tangent(name: str) -> None:
    at_one = F_DIVERGENCES[name](torch.zeros(1, dtype=torch.float64), 0.2)
    assert at_one.value.item() == at_one.slope.item() == at_one.above_tangent.item() == 0
    away = F_DIVERGENCES[name](torch.tensor([-5.0, -0.1, 0.1, 5.0], dtype=torch.float64), 0.2)
    assert (away.above_tangent > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_slope_is_the_derivative_of_f(name: str) -> None:
    u = torch.tensor([0.01, 0.5, 1.0, 2.0, 50.0], dtype=torch.float64, requires_grad=True)
    found = F_DIVERGENCES[name](u.log(), 0.2)
    (derivative,) = torch.autograd.grad(found.value.sum(), u)
    torch.testing.assert_close(found.slope + found.slope_at_one, derivative)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("log_u", [-25.0, -10.0, -0.3, 0.0, 0.7, 3.0])
def test_a_number_in_the_place_of_a_tensor_gives_the_same_value_and_slope(name: str, log_u: float) -> None:
    tensor = F_DIVERGENCES[name](torch.tensor(log_u, dtype=torch.float64), 0.2)
    number = F_DIVERGENCES[name](Number(log_u), 0.2)  # type: ignore[arg-type]
    for field in ("value", "slope", "above_tangent"):
        assert float(getattr(number, field)) == pytest.approx(float(getattr(tensor, field)), rel=1e-12, abs=1e-15)
