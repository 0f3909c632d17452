"""Terms on stored reference answers (DPH-RL): how they are weighed, the definition form, and what they leave alone."""

from dataclasses import replace

import pytest
import torch

from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.divergence.wiring.rehearse import rehearsal_factor
from objectives.objective import loss
from objectives.wording import describe
from tests.objectives.presets.golden_batch import RATIOS, SAMPLER, U, golden_batch
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, scores
from tests.objectives.random_answers import credited, equal_lengths, of, random_batch, run, scores_of, weights
from trajectories.batch import Totals, with_own_totals
from trajectories.split import partition

RATIO = "objective.terms.divergence.weighting=by_answer_ratio"
GENERATORS = ["dph_f", "dph_js", "dph_alpha"]
DPH = [*GENERATORS, "dph_js_definition"]
STORED = divergence("skew_kl", alpha=0.5, route="rehearse")
OWN = divergence("skew_reverse_kl", alpha=0.5, estimator="straight_through")


# The two weightings.


def test_by_answer_ratio_multiplies_by_stored_over_explored_answers() -> None:
    # As in test_method_numbers: policy gradient 0.109697, mean of u - 1 - ln u 1/6; two stored beside three explored.
    cfg = of("dph_f", RATIO)
    logp = torch.cat([SAMPLER + RATIOS.log(), U.log() - 5])
    state = initial_state(cfg, 100)
    value, stats = loss(scores(logp), credit(golden_batch(rehearsed=True), cfg, state), cfg, state.coefficients)
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


# The definition form of DPH-JS.


# What holds for every form.
