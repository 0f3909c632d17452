"""Terms on stored reference answers (DPH-RL): how they are weighed, the definition form, and what they leave alone."""

import math
from dataclasses import replace

import pytest
import torch

from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.divergence.estimators import sampled_value
from objectives.divergence.wiring.explore_loss import token_loss as explore_loss
from objectives.divergence.wiring.rehearse import rehearsal_factor
from objectives.divergence.wiring.rehearse import token_loss as rehearse_loss
from objectives.objective import loss
from objectives.wording import describe
from tests.objectives.divergence_settings import POLICY, REFERENCE, estimated_gradient, exact_gradient
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, scores
from tests.objectives.random_answers import credited, of, random_batch, run, scores_of, weights
from tests.objectives.test_method_numbers import RATIOS, SAMPLER, U, batch
from trajectories.batch import Batch, Totals, with_own_totals
from trajectories.split import partition

RATIO = "objective.terms.divergence.weighting=by_answer_ratio"
GENERATORS = ["dph_f", "dph_js", "dph_alpha"]
DPH = [*GENERATORS, "dph_js_definition"]
STORED = divergence("skew_kl", alpha=0.5, route="rehearse")
OWN = divergence("skew_reverse_kl", alpha=0.5, estimator="straight_through")


def equal_lengths(explored: int, stored: int) -> Batch:
    """Answers of two tokens, in groups of two with one right answer each."""
    answers = [("explore", i // 2, float(i % 2), [i % 11, (3 * i + 1) % 11]) for i in range(explored)]
    answers += [("rehearse", -1, None, [(2 * i + 5) % 11, i % 7]) for i in range(stored)]
    whole = make_batch(answers, prompt_length=1)
    logp = scores_of(weights(), whole, objective()).logp.detach()
    noise = torch.randn(2, len(logp), generator=torch.Generator().manual_seed(5)).mul(0.2)
    sampler, reference = torch.where(whole.mask, logp + noise, 0.0)
    return replace(whole, logp_sampler=sampler, logp_reference=reference)


# The two weightings.


def test_by_answer_ratio_multiplies_by_stored_over_explored_answers() -> None:
    # As in test_method_numbers: policy gradient 0.109697, mean of u - 1 - ln u 1/6; two stored beside three explored.
    cfg = of("dph_f", RATIO)
    logp = torch.cat([SAMPLER + RATIOS.log(), U.log() - 5])
    state = initial_state(cfg, 100)
    value, stats = loss(scores(logp), credit(batch(rehearsed=True), cfg, state), cfg, state.coefficients)
    assert value.item() == pytest.approx(0.109697 + 2 / 3 / 6, abs=2e-6)
    assert means({name: tuple(pair.tolist()) for name, pair in stats.items()})[
        "terms/divergence/value"
    ] == pytest.approx(1 / 6)


def test_the_official_numbers_make_an_eighth() -> None:
    totals = {
        "explore": Totals(tokens=9 * 10**6, trajectories=2048),
        "rehearse": Totals(tokens=10**6, trajectories=256),
    }
    part = replace(random_batch(), totals=totals)
    assert rehearsal_factor(part, of("dph_f", RATIO).terms["divergence"]) == 1 / 8
    assert rehearsal_factor(part, of("dph_f").terms["divergence"]) == 1


def test_by_answer_ratio_is_the_mean_over_microbatches_of_the_official_code() -> None:
    # Microbatches of two answers, each the mean of its own tokens and all of one weight: 4 explored and 3 rehearsed.
    # Divided by the share of explored ones, (4 / 7), it is the policy gradient's own mean plus the weighed term.
    cfg, eta = of("dph_f", RATIO), 0.7
    whole = credited(equal_lengths(8, 6), cfg, eta)
    micro = [with_own_totals(whole.select([i, i + 1])) for i in range(0, 14, 2)]
    logp = [scores_of(weights(), part, cfg).logp for part in micro]
    official = sum(loss_of(logp, part, cfg, eta)[0] for logp, part in zip(logp, micro, strict=True)) / 7
    value, _, _ = run(weights(), [whole], cfg, eta)
    assert value == pytest.approx(float(official.detach()) * 7 / 4, abs=1e-6)
    assert value != pytest.approx(run(weights(), [whole], of("dph_f"), eta)[0], abs=1e-3)


def test_answers_whose_grader_failed_are_not_explored_and_no_split_changes_the_share() -> None:
    cfg = of("dph_js", RATIO)
    whole = credited(random_batch(), cfg)
    assert rehearsal_factor(whole, cfg.terms["divergence"]) == 6 / 15
    expected = run(weights(), [whole], of("dph_js"), 0.7 * 6 / 15)
    for ranks, budget in ((1, 1000), (2, 16), (3, 25)):
        parts = [part for rank in partition(whole, ranks, budget) for part in rank]
        value, gradient, _ = run(weights(), parts, cfg, 0.7)
        assert value == pytest.approx(expected[0], abs=1e-6)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-6)


def test_without_explored_answers_a_share_has_nothing_to_be_of() -> None:
    stored = make_batch([("rehearse", -1, None, [1, 2])])
    assert rehearsal_factor(stored, of("dph_f", RATIO).terms["divergence"]) == 1


def test_the_weighting_is_told_and_refused_on_own_answers() -> None:
    assert (
        describe(of("dph_f", RATIO).terms["divergence"])
        == f"{describe(of('dph_f').terms['divergence'])}; times rehearsed over explored answers"
    )
    with pytest.raises(ValueError, match=r"^weighting: must be 'separate' on the policy's own"):
        divergence("reverse_kl", weighting="by_answer_ratio")


@pytest.mark.parametrize("preset", DPH)
@pytest.mark.parametrize("ranks", [2, 3])
def test_answers_of_one_length_may_be_dealt_to_any_ranks(preset: str, ranks: int) -> None:
    cfg = of(preset)
    whole = credited(equal_lengths(10, 6), cfg)
    expected = run(weights(), [whole], cfg)
    parts = [part for rank in partition(whole, ranks, token_budget=9) for part in rank]
    value, gradient, _ = run(weights(), parts, cfg)
    assert value == pytest.approx(expected[0], abs=1e-6)
    torch.testing.assert_close(gradient, expected[1], rtol=1e-5, atol=1e-6)


# The definition form of DPH-JS.


def test_the_definition_form_is_both_halves_by_their_estimates() -> None:
    # Policy gradient 0.109697 (test_method_numbers). Stored, (u - 1) / 2 - ln((u + 1) / 2) at u = 2, 1/2, 1:
    # .5 - ln 1.5 = .0945349, -.25 - ln .75 = .0376821, 0; mean .0440723. Explored u = 1, 2, 1/2, 1, 1, 1, with 1/u in
    # the place of u: .0376821 and .0945349; over 6 tokens .0220362, a tenth of it.
    cfg = of("dph_js_definition")
    logp = torch.cat([SAMPLER + RATIOS.log(), U.log() - 5])
    log_u = torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0, 1.0]).log()
    whole = replace(batch(rehearsed=True), logp_reference=torch.cat([logp[:6] - log_u, torch.full((3,), -5.0)]))
    state = initial_state(cfg, 100)
    value, stats = loss(scores(logp), credit(whole, cfg, state), cfg, state.coefficients)
    assert value.item() == pytest.approx(0.109697 + 0.0440723 + 0.0022036, abs=2e-6)
    assert float(stats["terms/explored/value"][0]) == pytest.approx(0.132217, abs=1e-6)


def test_both_halves_at_equal_weight_are_twice_the_jensen_shannon() -> None:
    stored = REFERENCE @ rehearse_loss(STORED, POLICY.log(), REFERENCE.log())
    own = POLICY @ sampled_value(OWN, POLICY.log(), REFERENCE.log())
    assert (float(stored), float(own)) == pytest.approx((0.0210721, 0.0227303), abs=1e-7)
    assert float(stored + own) == pytest.approx(2 * 0.0219012, abs=1e-7)
    halves = estimated_gradient(STORED, REFERENCE) + estimated_gradient(OWN, POLICY)
    torch.testing.assert_close(halves, 2 * 0.5 * exact_gradient("jensen_shannon"), rtol=1e-6, atol=1e-7)


def test_the_definition_form_adds_a_tenth_of_its_second_half() -> None:
    cfg = of("dph_js_definition")
    assert {name: (term.name, term.alpha, term.route) for name, term in cfg.terms.items()} == {
        "divergence": ("skew_kl", 0.5, "rehearse"),
        "explored": ("skew_reverse_kl", 0.5, "explore"),
    }
    assert cfg.terms["explored"].coefficient.value == pytest.approx(cfg.terms["divergence"].coefficient.value / 10)


def test_the_official_estimate_differentiated_as_it_stands_is_not_the_gradient_of_the_second_half() -> None:
    log_u = torch.tensor([0.1, 0.999, 1.001, 10.0], dtype=torch.float64).log().requires_grad_()
    naive, own = (
        torch.autograd.grad(explore_loss(cfg, log_u, torch.zeros(4), log_u.detach()).sum(), log_u)[0]
        for cfg in (replace(OWN, estimator="naive"), OWN)
    )
    u = log_u.detach().exp()
    torch.testing.assert_close(naive, (u - 1) / (2 * u * (u + 1)))
    torch.testing.assert_close(own, (2 * u / (u + 1)).log() + (1 - u) / (2 * (1 + u)))
    torch.testing.assert_close(naive[1:3], own[1:3], rtol=5e-3, atol=0)
    estimated = estimated_gradient(replace(OWN, estimator="naive"), POLICY)
    assert (estimated - estimated_gradient(OWN, POLICY)).abs().max() > 2e-3


# What holds for every form.


@pytest.mark.parametrize("preset", DPH)
def test_stored_answers_pull_nothing_where_the_policy_is_the_reference(preset: str) -> None:
    cfg = of(preset)
    whole = credited(random_batch(), cfg)
    stored = whole.on_route("rehearse")
    assert whole.logp_reference is not None
    logp = torch.where(stored, whole.logp_reference, whole.logp_sampler).requires_grad_()
    value, stats = loss(scores(logp), whole, cfg, dict.fromkeys(cfg.terms, 1.0))
    assert float(stats["terms/divergence/value"][0]) == pytest.approx(0, abs=1e-6)
    (gradient,) = torch.autograd.grad(value, logp)
    assert gradient[stored].abs().max() < 1e-7
    assert gradient[whole.on_route("explore")].abs().max() > 1e-3


@pytest.mark.parametrize("preset", DPH)
def test_without_rehearsed_answers_or_with_a_coefficient_of_0_it_is_dapo_bit_for_bit(preset: str) -> None:
    cfg, dapo = of(preset), of("dapo", "objective.clip.dual=3.0")
    whole = random_batch()
    explored = with_own_totals(whole.select([i for i, group in enumerate(whole.group.tolist()) if group >= 0]))
    alone = replace(cfg, terms={"divergence": cfg.terms["divergence"]})  # without the explored half of the definition
    for part, row, coefficient in ((whole, cfg, 0.0), (explored, alone, 1.0)):
        expected = run(weights(), [credited(part, dapo)], dapo)
        got = run(weights(), [credited(part, row, coefficient)], row, coefficient)
        assert got[0] == expected[0]
        assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("preset", DPH)
def test_a_reference_runs_during_training_only_for_what_is_compared_on_explored_answers(preset: str) -> None:
    cfg = of(preset)
    assert cfg.anchors == ([] if preset in GENERATORS else ["reference"])
    assert cfg.hidden_anchors == []
    unknown = random_batch(reference_everywhere=False)
    if preset in GENERATORS:
        assert math.isfinite(run(weights(), [credited(unknown, cfg)], cfg)[0])
    else:
        with pytest.raises(AssertionError, match="where it is missing"):
            credited(unknown, cfg)
