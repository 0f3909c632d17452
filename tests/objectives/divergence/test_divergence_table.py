"""Every row of the table of f-divergences: values, slopes, estimators from each source of answers, limits, and the
gradient that each wiring really has."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from objectives.divergence.distributions import vocabulary_values
from objectives.divergence.estimators import sampled_value, slope
from objectives.divergence.f_divergences import F_DIVERGENCES, AtRatio
from objectives.divergence.wiring.rehearse import token_loss as rehearse_loss
from tests.objectives.divergence_settings import (
    COEFFICIENT,
    EXACT,
    FAMILIES,
    NAMES,
    OLD,
    POLICY,
    REFERENCE,
    alphas,
    estimated_gradient,
    exact_gradient,
)
from tests.objectives.ragged_batch import divergence

U = torch.tensor([0.01, 0.5, 0.9, 1.0, 1.1, 2.0, 50.0], dtype=torch.float64)
CASES = [(name, alpha) for name in NAMES for alpha in alphas(name)]
Row = Callable[[Tensor, float], Tensor]

# Worked out by hand on policy (.7, .2, .1) and reference (.5, .3, .2):
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


def at(name: str, alpha: float, u: Tensor = U) -> AtRatio:
    return F_DIVERGENCES[name](u.log(), alpha)


def value_of(name: str, alpha: float, p: Tensor = POLICY, q: Tensor = REFERENCE) -> float:
    return float((q * F_DIVERGENCES[name]((p / q).log(), alpha).value).sum())


@pytest.mark.parametrize(("name", "alpha"), GOLDEN)
def test_each_row_has_the_value_worked_out_by_hand(name: str, alpha: float) -> None:
    assert value_of(name, alpha) == pytest.approx(GOLDEN[name, alpha], abs=1e-7)


@pytest.mark.parametrize(("name", "alpha"), CASES)
def test_all_three_sources_of_answers_give_the_value_over_the_vocabulary(name: str, alpha: float) -> None:
    expected = float(EXACT[name](POLICY, REFERENCE, alpha))
    own = divergence(name, alpha=alpha, estimator="straight_through")
    stored = divergence(name, alpha=alpha, route="rehearse")
    drawn = sampled_value(own, POLICY.log(), REFERENCE.log())
    kept = rehearse_loss(stored, POLICY.log(), REFERENCE.log())
    assert (drawn >= 0).all() and (kept >= 0).all()
    assert float((POLICY * drawn).sum()) == pytest.approx(expected, abs=1e-12)
    assert float((OLD * (POLICY / OLD) * drawn).sum()) == pytest.approx(expected, abs=1e-12)
    assert float((REFERENCE * kept).sum()) == pytest.approx(expected, abs=1e-12)


# The columns of the table, written as they stand there.

ON_POLICY: dict[str, Row] = {
    "reverse_kl": lambda u, a: u.log() - 1 + 1 / u,
    "forward_kl": lambda u, a: 1 - (1 + u.log()) / u,
    "jensen_shannon": lambda u, a: (u.log() - (1 + 1 / u) * ((u + 1) / 2).log()) / 2,
    "generalised_jensen_shannon": lambda u, b: (
        -(b / u) * (b + (1 - b) * u).log() + (1 - b) * (u / (b + (1 - b) * u)).log()
    ),
    "total_variation": lambda u, a: (1 - 1 / u).abs() / 2,
    "chi_squared": lambda u, a: u - 2 + 1 / u,
    "neyman": lambda u, a: (1 - 1 / u) ** 2,
    "hellinger": lambda u, a: (1 - u**-0.5) ** 2,
    "alpha": lambda u, a: (u**-a - (1 - a) - a / u) / (a * (a - 1)),
    "jeffreys": lambda u, a: (1 - 1 / u) * u.log(),
    "tsallis": lambda u, q: (u ** (q - 1) - q + (q - 1) / u) / (q - 1) if q != 1 else u.log() - 1 + 1 / u,
    "skew_kl": lambda u, a: (-(a + (1 - a) * u).log() + (1 - a) * (u - 1)) / u,
    "skew_reverse_kl": lambda u, a: (u / ((1 - a) + a * u)).log() - (1 - a) * (1 - 1 / u),
}
SLOPE: dict[str, Row] = {
    "reverse_kl": lambda u, a: u.log() + 1,
    "forward_kl": lambda u, a: -1 / u,
    "jensen_shannon": lambda u, a: (2 * u / (u + 1)).log() / 2,
    "generalised_jensen_shannon": lambda u, b: (1 - b) * (u / (b + (1 - b) * u)).log(),
    "total_variation": lambda u, a: (u - 1).sign() / 2,
    "chi_squared": lambda u, a: 2 * (u - 1),
    "neyman": lambda u, a: 1 - 1 / u**2,
    "hellinger": lambda u, a: 1 - u**-0.5,
    "alpha": lambda u, a: (1 - u**-a) / a,
    "jeffreys": lambda u, a: u.log() + 1 - 1 / u,
    "tsallis": lambda u, q: (q * u ** (q - 1) - 1) / (q - 1) if q != 1 else u.log() + 1,
    "skew_kl": lambda u, a: -(1 - a) / (a + (1 - a) * u),
    "skew_reverse_kl": lambda u, a: (u / ((1 - a) + a * u)).log() + (1 - a) / ((1 - a) + a * u),
}
STRENGTH: dict[str, Callable[[float], float]] = {
    "reverse_kl": lambda a: 1,
    "forward_kl": lambda a: 1,
    "jensen_shannon": lambda a: 1 / 4,
    "generalised_jensen_shannon": lambda b: b * (1 - b),
    "chi_squared": lambda a: 2,
    "neyman": lambda a: 2,
    "hellinger": lambda a: 1 / 2,
    "alpha": lambda a: 1,
    "jeffreys": lambda a: 2,
    "tsallis": lambda q: q,
    "skew_kl": lambda a: (1 - a) ** 2,
    "skew_reverse_kl": lambda a: (1 - a) ** 2,
}
"""f''(1); total variation has none."""


def test_the_table_has_a_row_for_every_divergence() -> None:
    assert set(ON_POLICY) == set(SLOPE) == {*STRENGTH, "total_variation"} == set(NAMES)
    assert {name for name, _ in GOLDEN} == set(NAMES)


@pytest.mark.parametrize(("name", "alpha"), CASES)
def test_the_estimators_and_the_slope_are_those_of_the_table_at_every_ratio(name: str, alpha: float) -> None:
    own = divergence(name, alpha=alpha, estimator="straight_through")
    reward = divergence(name, alpha=alpha, wiring="reward", estimator="k1")
    stored = divergence(name, alpha=alpha, route="rehearse")
    zero = torch.zeros_like(U)
    per_draw, tangent = ON_POLICY[name](U, alpha), SLOPE[name](U, alpha)
    at_one = SLOPE[name](torch.ones(1, dtype=torch.float64), alpha)
    torch.testing.assert_close(sampled_value(own, U.log(), zero), per_draw)
    torch.testing.assert_close(rehearse_loss(stored, U.log(), zero), U * per_draw)
    torch.testing.assert_close(slope(reward, U.log(), zero), tangent - at_one)
    torch.testing.assert_close(slope(replace(reward, normalised=True), U.log(), zero), tangent)


@pytest.mark.parametrize(("name", "alpha"), [case for case in CASES if case[0] != "total_variation"])
def test_near_one_a_divergence_is_half_its_strength_times_the_squared_distance(name: str, alpha: float) -> None:
    near = REFERENCE + 1e-4 * torch.tensor([1.0, -0.4, -0.6], dtype=torch.float64)
    distance = float(((near - REFERENCE).square() / REFERENCE).sum())
    assert value_of(name, alpha, near) == pytest.approx(STRENGTH[name](alpha) / 2 * distance, rel=2e-3)


# Limits and identities between the rows.


def test_the_generalised_jensen_shannon_tends_to_the_forward_and_to_the_reverse_kl_over_its_weight() -> None:
    b = 1e-5
    name = "generalised_jensen_shannon"
    assert value_of(name, b) / b == pytest.approx(value_of("forward_kl", 0), rel=1e-4)
    assert value_of(name, 1 - b) / b == pytest.approx(value_of("reverse_kl", 0), rel=1e-4)


def test_skewing_tends_to_the_plain_kls_at_0_and_to_nothing_at_1() -> None:
    assert value_of("skew_kl", 1e-6) == pytest.approx(value_of("forward_kl", 0), rel=1e-5)
    assert value_of("skew_reverse_kl", 1e-6) == pytest.approx(value_of("reverse_kl", 0), rel=1e-5)
    assert value_of("skew_kl", 1 - 1e-6) == pytest.approx(0, abs=1e-9)
    assert value_of("skew_reverse_kl", 1 - 1e-6) == pytest.approx(0, abs=1e-9)


def test_tsallis_passes_through_the_reverse_kl_without_a_jump() -> None:
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
def test_rows_that_are_one_and_the_same_agree_at_every_ratio(
    one: tuple[str, float], other: tuple[str, float], factor: float
) -> None:
    torch.testing.assert_close(at(*one).above_tangent, factor * at(*other).above_tangent)
    torch.testing.assert_close(at(*one).slope, factor * at(*other).slope)


def test_jeffreys_is_both_kls_and_jensen_shannon_half_of_both_skewed_ones() -> None:
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
def test_bounded_rows_reach_their_bound_between_strangers_and_no_further(name: str, alpha: float, bound: float) -> None:
    tiny = 1e-8
    one = torch.tensor([1 - tiny, tiny], dtype=torch.float64)
    assert value_of(name, alpha, one, one.flip(0)) == pytest.approx(bound, rel=1e-3)
    assert value_of(name, alpha, one, one.flip(0)) <= bound


def test_the_parameter_of_a_family_matters_and_that_of_the_others_does_not() -> None:
    for name in NAMES:
        moved = abs(value_of(name, 0.3) - value_of(name, 0.6)) > 1e-4
        assert moved == (name in FAMILIES), name


# What gradient each wiring has, on answers of the policy itself.


@pytest.mark.parametrize(("name", "alpha"), CASES)
def test_differentiating_the_value_as_it_stands_misses_the_score(name: str, alpha: float) -> None:
    # E[(f'(u) - f(u)/u + f'(1)(1 - 1/u) - f'(1)) grad log pi], by the logits: pi (c - E[c]) with c the bracket.
    cfg = divergence(name, alpha=alpha, estimator="naive")
    u = POLICY / REFERENCE
    bracket = SLOPE[name](u, alpha) - ON_POLICY[name](u, alpha)
    expected = POLICY * (bracket - (POLICY * bracket).sum())
    got = estimated_gradient(cfg, POLICY) / COEFFICIENT
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=5e-7)
    exact = exact_gradient(name, alpha=alpha)
    assert (got - exact).norm() > 0.05 * exact.norm(), "were it the gradient, it would need no refusal"


def test_the_wirings_of_the_reverse_kl_have_the_gradients_of_the_table() -> None:
    reverse, forward = exact_gradient("reverse_kl"), exact_gradient("forward_kl")
    for choices, drawn_from, expected in (
        ({"wiring": "reward", "estimator": "k1"}, POLICY, reverse),
        ({"estimator": "k2"}, POLICY, reverse),
        ({"estimator": "k3"}, POLICY, forward),
        ({"estimator": "ratio_weighted"}, POLICY, reverse),
        ({"estimator": "ratio_weighted"}, OLD, reverse),
        ({"wiring": "joint", "estimator": "k1"}, OLD, reverse),
    ):
        got = estimated_gradient(divergence("reverse_kl", **choices), drawn_from) / COEFFICIENT
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=5e-7)


@pytest.mark.parametrize(("name", "alpha"), CASES)
def test_over_the_whole_vocabulary_value_and_gradient_are_exact(name: str, alpha: float) -> None:
    cfg = divergence(name, alpha=alpha, wiring="vocabulary", estimator="exact")
    logits = POLICY.log().requires_grad_()
    # Logits have a free constant; the anchor's carry no gradient.
    value = vocabulary_values(cfg, logits[None] + 3, REFERENCE.log()[None] - 2, torch.tensor([0]))
    assert value.item() == pytest.approx(float(EXACT[name](POLICY, REFERENCE, alpha)), abs=1e-12)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), logits)[0], exact_gradient(name, alpha=alpha))


def test_reward_less_tsallis_is_at_rest_at_its_closed_form_optimum() -> None:
    # u = [(1 + (q - 1)(r - c) / beta) / q]^(1 / (q - 1)); for q = 2 the mean of u is 1 at c = E_ref[r] - beta
    reward, beta = torch.tensor([1.0, 0.3, -0.5], dtype=torch.float64), 0.8
    best = REFERENCE * (1 + (reward - (REFERENCE * reward).sum()) / (2 * beta))
    assert float(best.sum()) == pytest.approx(1)
    logits = best.log().requires_grad_()
    (climb,) = torch.autograd.grad((logits.softmax(0) * reward).sum(), logits)
    torch.testing.assert_close(climb, beta * exact_gradient("tsallis", best, alpha=2.0))
    assert climb.abs().max() > 0.1
