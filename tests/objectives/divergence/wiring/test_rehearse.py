"""Loss wiring on rehearsed tokens: the estimators k1, k3 and supervised, and the weighting by answer ratio."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.divergences import DIVERGENCES
from configs.load import load
from configs.warm_start import WarmStartConfig
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.divergence.f_divergences import F_DIVERGENCES
from objectives.divergence.wiring.rehearse import above_asymptote, rehearsal_factor
from objectives.divergence.wiring.rehearse import token_loss as rehearse_loss
from objectives.objective import loss
from objectives.wording import describe
from tests.objectives.divergence_settings import EXACT, REFERENCE, estimated_gradient, exact_gradient
from tests.objectives.presets.golden_batch import RATIOS, SAMPLER, U, golden_batch
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, scores
from tests.objectives.random_answers import credited, equal_lengths, of, random_batch, run, scores_of, weights
from trajectories.batch import Totals, with_own_totals
from trajectories.split import partition

ALPHAS = {"alpha": 0.7, "tsallis": 0.3}
"""Parameters at which the smoothed data below converge fast."""
P = torch.tensor([0.25, 0.5], dtype=torch.float64)

# f(p) + (1 - p) f'(inf) at p = 1/4 and 1/2, computed by hand:
SUPERVISED_LOSSES = {
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
    """Return the loss of the supervised estimator on tokens of policy probability p and reference probability 1."""
    cfg = divergence(name, alpha=alpha, route="rehearse", estimator="supervised")
    return rehearse_loss(cfg, p.log(), torch.zeros_like(p))


@pytest.mark.parametrize(("name", "alpha"), SUPERVISED_LOSSES)
def test_each_supervised_loss_has_the_numbers_computed_by_hand(name: str, alpha: float) -> None:
    assert loss_at(name, alpha, P).tolist() == pytest.approx(SUPERVISED_LOSSES[name, alpha], abs=1e-7)


def test_the_ten_published_divergences_with_a_finite_slope_at_infinity_have_numbers_computed_by_hand() -> None:
    published = {name for name, _ in SUPERVISED_LOSSES}
    assert len(published) >= 10 and published <= set(SUPERVISED)


@pytest.mark.parametrize("name", list(F_DIVERGENCES))
def test_the_slope_at_infinity_is_the_limit_of_f_over_u_and_a_divergence_without_one_is_refused(name: str) -> None:
    log_u = torch.tensor([300.0], dtype=torch.float64)
    alpha = ALPHAS.get(name, 0.2)
    per_unit = float(F_DIVERGENCES[name](log_u, alpha).value * (-log_u).exp())
    if name in SUPERVISED:
        assert DIVERGENCES[name].slope_at_infinity(alpha) == pytest.approx(per_unit, abs=1e-9)
        return
    assert per_unit > 200, "f(u) / u has no limit"
    with pytest.raises(ValueError, match=r"^divergence: must be an f-divergence with a finite f'\(inf\)"):
        WarmStartConfig(divergence=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SUPERVISED)
def test_supervised_value_and_gradient_are_those_of_the_exact_divergence_to_almost_certain_data(name: str) -> None:
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
def test_on_answers_sampled_from_the_reference_supervised_has_the_gradient_of_the_divergence(name: str) -> None:
    cfg = divergence(name, alpha=ALPHAS.get(name, 0.2), route="rehearse", estimator="supervised")
    expected = 0.5 * exact_gradient(name, alpha=cfg.alpha)
    torch.testing.assert_close(estimated_gradient(cfg, REFERENCE), expected, atol=1e-6, rtol=1e-6)


def test_the_supervised_forward_kl_is_the_negative_log_likelihood_bit_for_bit() -> None:
    logp = torch.tensor([-1e-7, -0.3, -69.0, -500.0], requires_grad=True)
    cfg = divergence("forward_kl", route="rehearse", estimator="supervised")
    term = rehearse_loss(cfg, logp, torch.zeros(4))
    assert torch.equal(term, -logp)
    assert torch.autograd.grad(term.sum(), logp)[0].tolist() == [-1.0] * 4
    assert WarmStartConfig().divergence == "forward_kl"


def test_families_tend_to_the_negative_log_likelihood() -> None:
    torch.testing.assert_close(loss_at("alpha", 1 - 1e-6, P), -P.log(), rtol=1e-5, atol=0)
    torch.testing.assert_close(loss_at("skew_kl", 1e-6, P), -P.log(), rtol=1e-5, atol=0)
    b = 1e-6
    torch.testing.assert_close(loss_at("generalised_jensen_shannon", b, P) / b, -P.log(), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("name", "alpha"), BOUNDS)
def test_a_token_of_probability_0_has_the_bound_as_loss_and_no_gradient(name: str, alpha: float) -> None:
    logp = torch.tensor([1e-30]).log().requires_grad_()
    cfg = divergence(name, alpha=alpha, route="rehearse", estimator="supervised")
    term = rehearse_loss(cfg, logp, torch.zeros(1))
    assert term.item() == pytest.approx(BOUNDS[name, alpha], rel=1e-5)
    assert abs(torch.autograd.grad(term.sum(), logp)[0].item()) < 1e-10


@pytest.mark.parametrize("name", SUPERVISED)
def test_in_float32_every_supervised_loss_is_finite_and_pushes_no_token_down(name: str) -> None:
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
def test_a_warm_start_divergence_with_an_infinite_loss_is_refused_with_the_reason(
    settings: list[str], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        load([f"warm_start.{setting}" for setting in settings])


def test_supervised_is_refused_on_explored_answers_and_for_an_infinite_slope() -> None:
    good = divergence("skew_kl", route="rehearse", estimator="supervised")
    with pytest.raises(ValueError, match=r"^estimator: must not be 'supervised' on explored answers"):
        divergence("reverse_kl", estimator="supervised")
    with pytest.raises(ValueError, match=r"^name: must be an f-divergence with a finite f'\(inf\)"):
        replace(good, name="jeffreys")


@pytest.mark.parametrize("estimator", ["k1", "k3"])
@pytest.mark.parametrize("log_u", [-10.0, -60.0, -1000.0])
def test_the_gradient_of_the_forward_kl_stays_minus_1_however_unlikely_a_rehearsed_token_is(
    estimator: str, log_u: float
) -> None:
    logp = torch.tensor([log_u], requires_grad=True)
    cfg = divergence("forward_kl", route="rehearse", estimator=estimator)
    (gradient,) = torch.autograd.grad(rehearse_loss(cfg, logp, torch.zeros(1)).sum(), logp)
    assert gradient.item() == pytest.approx(-1.0, abs=1e-4)


def test_the_gradient_of_jensen_shannon_vanishes_on_an_unlikely_rehearsed_token() -> None:
    logp = torch.tensor([0.1, 0.01]).log().requires_grad_()
    cfg = divergence("jensen_shannon", route="rehearse")
    (gradient,) = torch.autograd.grad(rehearse_loss(cfg, logp, torch.zeros(2)).sum(), logp)
    assert (2 * gradient).tolist() == pytest.approx([-0.1705, -0.0392], abs=1e-4)  # u log(2u / (u + 1))


def test_a_token_far_likelier_than_under_the_reference_has_a_positive_gradient() -> None:
    logp = torch.tensor([0.0], requires_grad=True)
    cfg = divergence("forward_kl", route="rehearse")
    (gradient,) = torch.autograd.grad(rehearse_loss(cfg, logp, torch.tensor([-90.0])).sum(), logp)
    assert gradient.item() > 1


def test_the_k1_forward_kl_with_reference_log_probs_of_0_is_the_cross_entropy() -> None:
    logp = torch.tensor([-0.01, -3.0, -77.0, -500.0], requires_grad=True)
    cfg = divergence("forward_kl", route="rehearse", estimator="k1")
    term = rehearse_loss(cfg, logp, torch.zeros(4))
    assert torch.equal(term, -logp)
    assert torch.autograd.grad(term.sum(), logp)[0].tolist() == [-1.0] * 4


BY_ANSWER_RATIO = "objective.terms.divergence.weighting=by_answer_ratio"


def test_by_answer_ratio_multiplies_the_loss_by_rehearsed_over_explored_answers() -> None:
    # Policy gradient 0.109697 and mean of u - 1 - ln u 1/6, as in test_dph.py; two rehearsed, three explored answers.
    cfg = of("dph_f", BY_ANSWER_RATIO)
    logp = torch.cat([SAMPLER + RATIOS.log(), U.log() - 5])
    state = initial_state(cfg, 100)
    value, stats = loss(scores(logp), credit(golden_batch(rehearsed=True), cfg, state), cfg, state.coefficients)
    assert value.item() == pytest.approx(0.109697 + 2 / 3 / 6, abs=2e-6)
    assert means({name: tuple(pair.tolist()) for name, pair in stats.items()})[
        "terms/divergence/value"
    ] == pytest.approx(1 / 6)


def test_the_batch_of_the_official_code_has_an_answer_ratio_of_an_eighth() -> None:
    totals = {
        "explore": Totals(tokens=9 * 10**6, trajectories=2048),
        "rehearse": Totals(tokens=10**6, trajectories=256),
    }
    part = replace(random_batch(), totals=totals)
    assert rehearsal_factor(part, of("dph_f", BY_ANSWER_RATIO).terms["divergence"]) == 1 / 8
    assert rehearsal_factor(part, of("dph_f").terms["divergence"]) == 1


def test_by_answer_ratio_equals_the_mean_over_microbatches_of_the_official_code() -> None:
    # The official code averages over microbatches of one route: here 4 explored and 3 rehearsed, of two answers.
    # Divided by the fraction of explored ones, 4 / 7, it is the mean policy gradient plus the weighted term.
    cfg, eta = of("dph_f", BY_ANSWER_RATIO), 0.7
    whole = credited(equal_lengths(8, 6), cfg, eta)
    micro = [with_own_totals(whole.select([i, i + 1])) for i in range(0, 14, 2)]
    logp = [scores_of(weights(), part, cfg).logp for part in micro]
    official = sum(loss_of(logp, part, cfg, eta)[0] for logp, part in zip(logp, micro, strict=True)) / 7
    value, _, _ = run(weights(), [whole], cfg, eta)
    assert value == pytest.approx(float(official.detach()) * 7 / 4, abs=1e-6)
    assert value != pytest.approx(run(weights(), [whole], of("dph_f"), eta)[0], abs=1e-3)


def test_the_answer_ratio_counts_graded_answers_only_and_no_split_changes_it() -> None:
    cfg = of("dph_js", BY_ANSWER_RATIO)
    whole = credited(random_batch(), cfg)
    assert rehearsal_factor(whole, cfg.terms["divergence"]) == 6 / 15
    expected = run(weights(), [whole], of("dph_js"), 0.7 * 6 / 15)
    for ranks, budget in ((1, 1000), (2, 16), (3, 25)):
        parts = [part for rank in partition(whole, ranks, budget) for part in rank]
        value, gradient, _ = run(weights(), parts, cfg, 0.7)
        assert value == pytest.approx(expected[0], abs=1e-6)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_without_explored_answers_the_answer_ratio_is_1() -> None:
    rehearsed = make_batch([("rehearse", -1, None, [1, 2])])
    assert rehearsal_factor(rehearsed, of("dph_f", BY_ANSWER_RATIO).terms["divergence"]) == 1


def test_the_weighting_is_described_and_refused_on_explored_answers() -> None:
    assert (
        describe(of("dph_f", BY_ANSWER_RATIO).terms["divergence"])
        == f"{describe(of('dph_f').terms['divergence'])}; times rehearsed over explored answers"
    )
    with pytest.raises(ValueError, match=r"^weighting: must be 'separate' on explored answers"):
        divergence("reverse_kl", weighting="by_answer_ratio")
