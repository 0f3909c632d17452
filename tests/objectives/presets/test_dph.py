"""DPH-RL: DAPO's policy gradient with dual clip, and an f-divergence to the reference on rehearsed answers.

The policy gradient of the golden batch with dual clip 3 is the same for every preset:
2.28 * 1.154701 - (0.8 + 1 + 0.9 + 3) * 0.577350 = -0.658179, over 6 tokens: loss 0.109697.
"""

import math
from dataclasses import replace

import pytest
import torch

from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.divergence.estimators import sampled_value
from objectives.divergence.wiring.explore_loss import token_loss as explore_loss
from objectives.divergence.wiring.rehearse import token_loss as rehearse_loss
from objectives.objective import loss
from tests.objectives.divergence_settings import POLICY, REFERENCE, estimated_gradient, exact_gradient
from tests.objectives.presets.golden_batch import RATIOS, SAMPLER, U, golden_batch, preset_loss
from tests.objectives.ragged_batch import divergence, scores
from tests.objectives.random_answers import credited, equal_lengths, of, random_batch, run, weights
from trajectories.batch import with_own_totals
from trajectories.split import partition

PAPERS = {
    "dph_f": "2509.07430",
    "dph_js": "2509.07430",
    "dph_alpha": "2509.07430",
    "dph_js_definition": "2509.07430",
}
GENERATOR_FORMS = ["dph_f", "dph_js", "dph_alpha"]
DPH = list(PAPERS)
REHEARSED_HALF = divergence("skew_kl", alpha=0.5, route="rehearse")
EXPLORED_HALF = divergence("skew_reverse_kl", alpha=0.5, estimator="straight_through")
"""The two terms of `dph_js_definition`."""


def test_dph_f_adds_the_forward_kl_on_rehearsed_tokens() -> None:
    # u - 1 - ln u: 0.306853, 0.193147, 0; mean 1/6
    assert preset_loss("dph_f", rehearsed=True) == pytest.approx(0.109697 + 1.0 / 6, abs=2e-6)


def test_dph_js_adds_the_jensen_shannon_on_rehearsed_tokens() -> None:
    # f(2) = (2 ln 2 - 3 ln 1.5) / 2 = 0.0849495; f(0.5) = (0.5 ln 0.5 - 1.5 ln 0.75) / 2 = 0.0424748; coefficient 2
    assert preset_loss("dph_js", rehearsed=True) == pytest.approx(0.109697 + 2 * (0.0849495 + 0.0424748) / 3, abs=2e-6)


def test_dph_alpha_adds_the_alpha_divergence_on_rehearsed_tokens() -> None:
    # a = 0.2: f(2) = (2^0.8 - 1.8) / -0.16 = 0.368118; f(0.5) = (0.5^0.8 - 0.6) / -0.16 = 0.160318
    assert preset_loss("dph_alpha", rehearsed=True) == pytest.approx(0.109697 + (0.368118 + 0.160318) / 3, abs=2e-6)


@pytest.mark.parametrize(
    ("preset", "name", "coefficient"),
    [("dph_f", "forward_kl", 1.0), ("dph_js", "jensen_shannon", 2.0), ("dph_alpha", "alpha", 1.0)],
)
def test_dph_is_dapo_with_dual_clip_and_one_divergence_on_rehearsed_answers(
    preset: str, name: str, coefficient: float
) -> None:
    cfg = of(preset)
    assert (cfg.advantage, cfg.reduction) == ("group_zscore", "token_mean")
    assert (cfg.clip.low, cfg.clip.high, cfg.clip.dual) == (0.2, 0.28, 3.0)
    kl = cfg.terms["divergence"]
    assert (kl.name, kl.route, kl.wiring, kl.estimator) == (name, "rehearse", "loss", "k3")
    assert kl.coefficient.value == coefficient
    assert kl.alpha == 0.2


@pytest.mark.parametrize("preset", ["dph_f", "dph_js", "dph_alpha"])
def test_dph_with_coefficient_0_is_dapo_where_explored_tokens_have_no_reference(preset: str) -> None:
    batch = random_batch(reference_everywhere=False)
    dapo = of("dapo", "objective.clip.dual=3.0")
    dph = of(preset, "objective.terms.divergence.coefficient.value=0")
    expected = run(weights(), [credited(batch, dapo)], dapo)
    got = run(weights(), [credited(batch, dph, 0.0)], dph, 0.0)
    assert got[0] == expected[0]
    assert torch.equal(got[1], expected[1])


def test_dph_f_without_rehearsed_answers_is_dapo_and_reports_no_divergence() -> None:
    batch = random_batch(reference_everywhere=False)
    explored = [i for i, group in enumerate(batch.group.tolist()) if group >= 0]
    batch = with_own_totals(batch.select(explored))
    dapo, dph = of("dapo", "objective.clip.dual=3.0"), of("dph_f")
    expected = run(weights(), [credited(batch, dapo)], dapo)
    got = run(weights(), [credited(batch, dph)], dph, 1.0)
    assert got[0] == expected[0]
    assert torch.equal(got[1], expected[1])
    assert "terms/divergence/value" not in means(got[2])


def test_missing_reference_log_probs_of_explored_tokens_do_not_reach_the_loss_or_gradient() -> None:
    cfg = of("dph_f")
    batch = random_batch(reference_everywhere=False)
    assert batch.logp_reference is not None
    assert batch.logp_reference[batch.on_route("explore")].isnan().all()
    value, gradient, stats = run(weights(), [credited(batch, cfg)], cfg, 1.0)
    assert math.isfinite(value)
    assert gradient.isfinite().all()
    measured = means(stats)
    assert all(math.isfinite(mean) for mean in measured.values())
    assert "kl_reference_per_trajectory" not in measured


@pytest.mark.parametrize("preset", DPH)
@pytest.mark.parametrize("ranks", [2, 3])
def test_splitting_answers_of_one_length_over_ranks_changes_nothing(preset: str, ranks: int) -> None:
    cfg = of(preset)
    whole = credited(equal_lengths(10, 6), cfg)
    expected = run(weights(), [whole], cfg)
    parts = [part for rank in partition(whole, ranks, token_budget=9) for part in rank]
    value, gradient, _ = run(weights(), parts, cfg)
    assert value == pytest.approx(expected[0], abs=1e-6)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_dph_js_definition_adds_the_estimates_of_both_halves() -> None:
    # Policy gradient 0.109697. Rehearsed, (u - 1) / 2 - ln((u + 1) / 2) at u = 2, 1/2, 1:
    # .5 - ln 1.5 = .0945349, -.25 - ln .75 = .0376821, 0; mean .0440723. Explored u = 1, 2, 1/2, 1, 1, 1, with 1/u for
    # u: .0376821 and .0945349; over 6 tokens .0220362, of which a tenth is added.
    cfg = of("dph_js_definition")
    logp = torch.cat([SAMPLER + RATIOS.log(), U.log() - 5])
    log_u = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 1.0]).log()
    whole = replace(golden_batch(rehearsed=True), logp_reference=torch.cat([logp[:6] - log_u, torch.full((3,), -5.0)]))
    state = initial_state(cfg, 100)
    value, stats = loss(scores(logp), credit(whole, cfg, state), cfg, state.coefficients)
    assert value.item() == pytest.approx(0.109697 + 0.0440723 + 0.0022036, abs=2e-6)
    assert float(stats["terms/explored/value"][0]) == pytest.approx(0.132217, abs=1e-6)


def test_both_halves_at_equal_weight_sum_to_twice_the_jensen_shannon_divergence() -> None:
    rehearsed = REFERENCE @ rehearse_loss(REHEARSED_HALF, POLICY.log(), REFERENCE.log())
    explored = POLICY @ sampled_value(EXPLORED_HALF, POLICY.log(), REFERENCE.log())
    assert (float(rehearsed), float(explored)) == pytest.approx((0.0210721, 0.0227303), abs=1e-7)
    assert float(rehearsed + explored) == pytest.approx(2 * 0.0219012, abs=1e-7)
    halves = estimated_gradient(REHEARSED_HALF, REFERENCE) + estimated_gradient(EXPLORED_HALF, POLICY)
    torch.testing.assert_close(halves, 2 * 0.5 * exact_gradient("jensen_shannon"), rtol=1e-6, atol=1e-7)


def test_dph_js_definition_adds_a_tenth_of_its_explored_half() -> None:
    cfg = of("dph_js_definition")
    assert {name: (term.name, term.alpha, term.route) for name, term in cfg.terms.items()} == {
        "divergence": ("skew_kl", 0.5, "rehearse"),
        "explored": ("skew_reverse_kl", 0.5, "explore"),
    }
    assert cfg.terms["explored"].coefficient.value == pytest.approx(cfg.terms["divergence"].coefficient.value / 10)


def test_the_differentiated_estimate_of_the_official_code_is_not_the_gradient_of_the_explored_half() -> None:
    log_u = torch.tensor([0.1, 0.999, 1.001, 10.0], dtype=torch.float64).log().requires_grad_()
    naive, straight_through = (
        torch.autograd.grad(explore_loss(cfg, log_u, torch.zeros(4), log_u.detach()).sum(), log_u)[0]
        for cfg in (replace(EXPLORED_HALF, estimator="naive"), EXPLORED_HALF)
    )
    u = log_u.detach().exp()
    torch.testing.assert_close(naive, (u - 1) / (2 * u * (u + 1)))
    torch.testing.assert_close(straight_through, (2 * u / (u + 1)).log() + (1 - u) / (2 * (1 + u)))
    torch.testing.assert_close(naive[1:3], straight_through[1:3], rtol=5e-3, atol=0)
    estimated = estimated_gradient(replace(EXPLORED_HALF, estimator="naive"), POLICY)
    assert (estimated - estimated_gradient(EXPLORED_HALF, POLICY)).abs().max() > 2e-3


@pytest.mark.parametrize("preset", DPH)
def test_rehearsed_tokens_have_no_gradient_where_the_policy_equals_the_reference(preset: str) -> None:
    cfg = of(preset)
    whole = credited(random_batch(), cfg)
    rehearsed = whole.on_route("rehearse")
    assert whole.logp_reference is not None
    logp = torch.where(rehearsed, whole.logp_reference, whole.logp_sampler).requires_grad_()
    value, stats = loss(scores(logp), whole, cfg, dict.fromkeys(cfg.terms, 1.0))
    assert float(stats["terms/divergence/value"][0]) == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(value, logp)
    assert gradient[rehearsed].abs().max() < 1e-7
    assert gradient[whole.on_route("explore")].abs().max() > 1e-3


@pytest.mark.parametrize("preset", DPH)
def test_dph_without_rehearsed_answers_or_with_coefficient_0_is_dapo_bit_for_bit(preset: str) -> None:
    cfg, dapo = of(preset), of("dapo", "objective.clip.dual=3.0")
    whole = random_batch()
    explored = with_own_totals(whole.select([i for i, group in enumerate(whole.group.tolist()) if group >= 0]))
    alone = replace(cfg, terms={"divergence": cfg.terms["divergence"]})  # without the explored half of the definition
    for batch, dph, coefficient in ((whole, cfg, 0.0), (explored, alone, 1.0)):
        expected = run(weights(), [credited(batch, dapo)], dapo)
        got = run(weights(), [credited(batch, dph, coefficient)], dph, coefficient)
        assert got[0] == expected[0]
        assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("preset", DPH)
def test_a_reference_runs_during_training_only_for_a_term_on_explored_answers(preset: str) -> None:
    cfg = of(preset)
    assert cfg.anchors == ([] if preset in GENERATOR_FORMS else ["reference"])
    assert cfg.hidden_anchors == []
    unknown = random_batch(reference_everywhere=False)
    if preset in GENERATOR_FORMS:
        assert math.isfinite(run(weights(), [credited(unknown, cfg)], cfg)[0])
    else:
        with pytest.raises(AssertionError, match="where it is missing"):
            credited(unknown, cfg)
