"""Supervised training by an f-divergence to data that is certain of its token."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.divergences import DIVERGENCES
from configs.load import load
from configs.warm_start import WarmStartConfig
from objectives.divergence.f_divergences import F_DIVERGENCES
from objectives.divergence.wiring.rehearse import above_asymptote
from objectives.divergence.wiring.rehearse import token_loss as rehearse_loss
from tests.objectives.divergence_settings import EXACT, REFERENCE, estimated_gradient, exact_gradient
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective

ALPHAS = {"alpha": 0.7, "tsallis": 0.3}
"""Of the families, where the smoothed data below converges fast."""
P = torch.tensor([0.25, 0.5], dtype=torch.float64)

# f(p) + (1 - p) f'(inf) at p = 1/4 and 1/2, worked out by hand:
GOLDEN = {
    ("forward_kl", 0.2): (1.3862944, 0.6931472),  # ln 4, ln 2
    ("total_variation", 0.2): (0.75, 0.5),  # 1 - p
    ("hellinger", 0.2): (1.0, 0.5857864),  # 2 - 2 * 0.5, 2 - 2 * 0.7071068
    ("alpha", 0.5): (2.0, 1.1715729),  # (1 - 0.5) / 0.25, (1 - 0.7071068) / 0.25
    ("alpha", 0.2): (4.1882689, 2.6603176),  # (1 - 0.25^0.8) / 0.16 = 0.67012302 / 0.16, 0.42565082 / 0.16
    ("tsallis", 0.5): (1.0, 0.5857864),  # (1 - sqrt p) / 0.5
    ("neyman", 0.2): (3.0, 1.0),  # 1 / p - 1
    ("skew_kl", 0.2): (0.9162907, 0.5108256),  # -ln(0.2 + 0.8 * 0.25) = -ln 0.4, -ln 0.6
    # (.25 ln .25 - 1.25 ln .625 + .75 ln 2) / 2 = (-.3465736 + .5875045 + .5198604) / 2; (1.5 ln (4/3)) / 2
    ("jensen_shannon", 0.2): (0.3803956, 0.2157616),
    # m = .4: .2 ln .25 - .4 ln .4 - .6 ln .8 = -.2772589 + .3665163 + .1338861; m = .6: -.2772589 + .3064954 + .0892574
    ("generalised_jensen_shannon", 0.2): (0.2231435, 0.1184939),
    # .25 ln .4 + .75 ln 2 = -.2290727 + .5198604; .5 ln (2/3) + .5 ln 2 = -.2027326 + .3465736
    ("skew_reverse_kl", 0.5): (0.2907877, 0.1438410),
}
BOUNDS = {
    ("jensen_shannon", 0.2): math.log(2),
    ("generalised_jensen_shannon", 0.5): math.log(2),
    ("alpha", 0.2): 6.25,  # 1 / (0.2 * 0.8)
    ("total_variation", 0.2): 1,
    ("hellinger", 0.2): 2,
    ("tsallis", 0.5): 2,  # 1 / (1 - 0.5)
    ("skew_kl", 0.1): math.log(10),
    ("skew_reverse_kl", 0.1): math.log(10),
}


SUPERVISED = [
    name
    for name, row in DIVERGENCES.items()
    if row.is_f_divergence and row.slope_at_infinity(ALPHAS.get(name, 0.2)) < math.inf
]
"""Divergences with a finite f'(inf)."""


def loss_at(name: str, alpha: float, p: Tensor) -> Tensor:
    """The term as the objective takes it, on stored answers of a reference that is certain of them."""
    cfg = divergence(name, alpha=alpha, route="rehearse", estimator="supervised")
    return rehearse_loss(cfg, p.log(), torch.zeros_like(p))


@pytest.mark.parametrize(("name", "alpha"), GOLDEN)
def test_each_loss_has_the_numbers_worked_out_by_hand(name: str, alpha: float) -> None:
    assert loss_at(name, alpha, P).tolist() == pytest.approx(GOLDEN[name, alpha], abs=1e-7)


def test_no_divergence_is_left_out() -> None:
    assert set(SUPERVISED) == {name for name, _ in GOLDEN}


@pytest.mark.parametrize("name", list(F_DIVERGENCES))
def test_the_cost_elsewhere_is_the_limit_of_f_over_u_and_what_has_none_is_refused(name: str) -> None:
    log_u = torch.tensor([300.0], dtype=torch.float64)
    alpha = ALPHAS.get(name, 0.2)
    per_unit = float(F_DIVERGENCES[name](log_u, alpha).value * (-log_u).exp())
    if name in SUPERVISED:
        assert DIVERGENCES[name].slope_at_infinity(alpha) == pytest.approx(per_unit, abs=1e-9)
        return
    assert per_unit > 200, "it grows with u, without a bound"
    with pytest.raises(ValueError, match=r"^divergence: must be an f-divergence with a finite f'\(inf\)"):
        WarmStartConfig(divergence=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SUPERVISED)
def test_value_and_gradient_are_those_of_the_enumerated_divergence_to_data_that_is_all_but_certain(name: str) -> None:
    alpha, smoothing, token = ALPHAS.get(name, 0.2), 1e-13, 1
    data = torch.full((4,), smoothing / 3, dtype=torch.float64)
    data[token] = 1 - smoothing
    logits = torch.tensor([0.3, -0.4, 1.1, 0.0], dtype=torch.float64, requires_grad=True)
    exact = EXACT[name](logits.softmax(0), data, alpha)
    batch = make_batch([("rehearse", -1, None, [token])], logp_reference=torch.zeros(1))
    cfg = objective(terms={"divergence": divergence(name, alpha=alpha, route="rehearse", estimator="supervised")})
    value, stats = loss_of(logits.log_softmax(0)[[token]], batch, cfg, 1.0)
    assert value.item() == pytest.approx(exact.item(), abs=1e-5)
    assert float(stats["terms/divergence/value"][0]) == pytest.approx(exact.item(), abs=1e-5)
    got, expected = (torch.autograd.grad(each, logits)[0] for each in (value, exact))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert got[token] < -0.01


@pytest.mark.parametrize("name", SUPERVISED)
def test_on_answers_drawn_from_a_reference_the_gradient_is_the_divergences(name: str) -> None:
    cfg = divergence(name, alpha=ALPHAS.get(name, 0.2), route="rehearse", estimator="supervised")
    expected = 0.5 * exact_gradient(name, alpha=cfg.alpha)
    torch.testing.assert_close(estimated_gradient(cfg, REFERENCE), expected, atol=1e-6, rtol=1e-6)


def test_the_default_is_negative_log_likelihood_to_the_last_bit() -> None:
    logp = torch.tensor([-1e-7, -0.3, -69.0, -500.0], requires_grad=True)
    cfg = divergence("forward_kl", route="rehearse", estimator="supervised")
    term = rehearse_loss(cfg, logp, torch.zeros(4))
    assert torch.equal(term, -logp)
    assert torch.autograd.grad(term.sum(), logp)[0].tolist() == [-1.0] * 4
    assert WarmStartConfig().divergence == "forward_kl"


def test_families_end_in_negative_log_likelihood() -> None:
    torch.testing.assert_close(loss_at("alpha", 1 - 1e-6, P), -P.log(), rtol=1e-5, atol=0)
    torch.testing.assert_close(loss_at("skew_kl", 1e-6, P), -P.log(), rtol=1e-5, atol=0)
    b = 1e-6
    torch.testing.assert_close(loss_at("generalised_jensen_shannon", b, P) / b, -P.log(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("name", "alpha"), BOUNDS)
def test_a_token_the_policy_finds_impossible_costs_the_bound_and_pulls_no_more(name: str, alpha: float) -> None:
    logp = torch.tensor([1e-30]).log().requires_grad_()
    cfg = divergence(name, alpha=alpha, route="rehearse", estimator="supervised")
    term = rehearse_loss(cfg, logp, torch.zeros(1))
    assert term.item() == pytest.approx(BOUNDS[name, alpha], rel=1e-5)
    assert abs(torch.autograd.grad(term.sum(), logp)[0].item()) < 1e-10


@pytest.mark.parametrize("name", SUPERVISED)
def test_in_float32_every_loss_is_finite_and_no_token_is_ever_pushed_down(name: str) -> None:
    logp = torch.tensor([-1e4, -120.0, -69.0, -20.0, -3.0, -1e-3, -1e-7, 0.0, 3.0, 20.0], requires_grad=True)
    for alpha in (0.001, 0.2, 0.999):
        cfg = divergence(name, alpha=alpha, route="rehearse", estimator="supervised")
        term = rehearse_loss(cfg, logp, torch.zeros(len(logp)))
        (gradient,) = torch.autograd.grad(term.sum(), logp)
        assert term.isfinite().all() and gradient.square().isfinite().all()
        of_data = logp <= 0
        assert term[of_data].min() >= 0 and term[logp == 0].item() == 0
        assert (gradient[of_data] <= 0).all()
        wide = logp.detach().double().requires_grad_()
        (exact,) = torch.autograd.grad(above_asymptote(name, wide, alpha).sum(), wide)
        assert (exact <= 1e-14 * wide.exp().clamp(min=1)).all()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["divergence=reverse_kl"], r"^warm_start\.divergence: .*cost is f'\(inf\) = lim f\(u\) / u, got 'reverse_kl'"),
        (["divergence=chi_squared"], r"^warm_start\.divergence: .*got 'chi_squared'"),
        (["divergence=plackett_luce"], r"^warm_start\.divergence: must be an f-divergence"),
        (["divergence=none"], r"^warm_start\.divergence: must be one of reverse_kl, .*got 'none'"),
        (
            ["divergence=tsallis", "alpha=1.5"],
            r"^warm_start\.alpha: must be below 1 for tsallis, from where f'\(inf\)",
        ),
        (["divergence=alpha", "alpha=0"], r"^warm_start\.alpha: must be in \(0, 1\), got 0"),
    ],
)
def test_what_would_be_infinite_is_refused_with_the_reason(settings: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load([f"warm_start.{setting}" for setting in settings])


def test_the_estimator_is_refused_where_it_has_no_meaning() -> None:
    good = divergence("skew_kl", route="rehearse", estimator="supervised")
    with pytest.raises(ValueError, match=r"^estimator: must not be 'supervised' on the policy's own answers"):
        divergence("reverse_kl", estimator="supervised")
    with pytest.raises(ValueError, match=r"^name: must be an f-divergence with a finite f'\(inf\)"):
        replace(good, name="jeffreys")
