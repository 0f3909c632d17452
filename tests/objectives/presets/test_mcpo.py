"""MCPO: a hinge on the KL to the sampling policy in groups of right answers only, and one weight for every majority."""

from dataclasses import replace
from math import comb, sqrt

import pytest
import torch

from configs.load import load
from objectives.advantage.estimators import group_zscore
from objectives.advantage.pass_k import majority_zscore
from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.diagnostics import means, to_stats
from objectives.objective import loss
from tests.objectives.equal_objectives import MEANS, assert_equal_objectives
from tests.objectives.presets.golden_batch import LOGP, RATIOS, SAMPLER
from tests.objectives.ragged_batch import Answer, divergence, make_batch, objective, scores
from tests.objectives.random_answers import batch_for, credited, of, run, weights
from trajectories.split import partition

PAPERS = {"mcpo": "2604.16972"}
ANSWERS: list[Answer] = [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("explore", 1, 1.0, [4, 5, 6])]
"""A group of a right and a wrong answer, and one that is mastered."""
NO_TERM = "objective.terms.divergence=null"


def test_mcpo_is_a_clip_on_undecided_groups_and_a_hinge_kl_on_mastered_ones() -> None:
    # A = +-.707107 (p = 1/2: scale 1), 0. Surrogates: mean (1, 1.28) x .707107 = .806102, -.8 x .707107 = -.565685, 0:
    # loss -.240416 / 3 = -.080139. Tokens with ratios 1, .9, 4: phi(0) = 0, phi(-.105361) = (.9 + .105361 - 1)
    # - (.990050 + .01 - 1) = .005311, phi(1.386294) = (4 - 1.386294 - 1) - (1.010050 - .01 - 1) = 1.613656;
    # their mean is .539656
    cfg = of("mcpo")
    state = initial_state(cfg, 100)
    batch = credit(make_batch(ANSWERS, logp_sampler=SAMPLER), cfg, state)
    value, stats = loss(scores(LOGP), batch, cfg, state.coefficients)
    assert value.item() == pytest.approx(0.539656 - 0.080139, abs=3e-6)
    assert means(to_stats(stats))["terms/divergence/kept"] == 0.5
    without = of("mcpo", NO_TERM)
    assert loss(scores(LOGP), credit(batch, without, state), without, {})[0].item() == pytest.approx(
        -0.080139, abs=1e-6
    )


def test_the_hinge_has_the_slope_of_the_kl_beyond_its_distance_and_none_within() -> None:
    cfg = of("mcpo", "objective.advantage=none")
    log_u = torch.tensor([0.0, 0.0099, -0.0099, 0.0101, -0.0101, 0.7])
    batch = make_batch([("explore", 0, 1.0, [1] * 6)], logp_sampler=torch.full((6,), -2.0))
    logp = (log_u - 2).requires_grad_()
    state = initial_state(cfg, 100)
    value, _ = loss(scores(logp), credit(batch, cfg, state), cfg, state.coefficients)
    (gradient,) = torch.autograd.grad(value, logp)
    # phi'(d) = e^d - 1 beyond .01
    expected = torch.where(log_u.abs() > 0.01, log_u.expm1(), 0.0) / 6
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-7)
    assert value.item() > 0


def test_without_a_hinge_it_is_the_kl_from_the_sampling_policy_on_mastered_groups() -> None:
    cfg = of("mcpo", "objective.terms.divergence.hinge=0", "objective.advantage=none")
    batch = make_batch(ANSWERS, logp_sampler=SAMPLER)
    state = initial_state(cfg, 100)
    value, _ = loss(scores(LOGP), credit(batch, cfg, state), cfg, state.coefficients)
    ratio = RATIOS[3:]
    assert value.item() == pytest.approx(float((ratio - 1 - ratio.log()).mean()), rel=1e-5)


def test_a_majority_of_right_answers_has_the_weight_of_a_half() -> None:
    # Rewards 1, 1, 0: z-scores .577350, -1.154701; scale 2 sqrt(2/9) = .942809
    got = majority_zscore(torch.tensor([1.0, 1.0, 0.0]))
    assert got.tolist() == pytest.approx([0.612372, 0.612372, -1.224745], abs=3e-6)
    for rewards in ([1.0, 0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0]):
        reward = torch.tensor(rewards)
        assert majority_zscore(reward).tolist() == group_zscore(reward).tolist(), rewards
    for right in range(5, 10):  # of 10: mean |A| is that of z-scores of 5 right answers, sqrt(.9) with n - 1
        mean = majority_zscore(torch.tensor([1.0] * right + [0.0] * (10 - right))).abs().mean()
        assert float(mean) == pytest.approx(sqrt(0.9), rel=1e-4)


@pytest.mark.parametrize(("p", "slope"), [(0.8, 1 / (2 * 0.8 * 0.2)), (0.65, 1 / (2 * 0.65 * 0.35)), (0.2, 2.5)])
def test_in_large_groups_a_prompt_has_the_gradient_of_log_odds_above_a_half_and_of_the_arcsine_below(
    p: float, slope: float
) -> None:
    # d/dp of log(p / (1 - p)) / 2, and 1 / sqrt(p (1 - p)) of 2 arcsin sqrt(p). The weight of grad p is E[A+] - E[A-].
    n, weight = 300, 0.0
    for others in range(n):
        chance = comb(n - 1, others) * p**others * (1 - p) ** (n - 1 - others)
        group = [1.0] * others + [0.0] * (n - 1 - others)
        right, wrong = (float(majority_zscore(torch.tensor([own, *group]))[0]) for own in (1.0, 0.0))
        weight += chance * (right - wrong)
    assert weight == pytest.approx(slope, rel=0.02)


def test_without_mastered_groups_and_majorities_it_is_grpo_with_a_higher_clip() -> None:
    cfg = of("mcpo", "objective.advantage=group_zscore")
    plain = objective(clip=of("dapo").clip, **MEANS)
    batch = batch_for(cfg)
    first = torch.tensor([0, 4, 8, 12])
    assert_equal_objectives(cfg, plain, batch=replace(batch, reward=batch.reward.index_fill(0, first, 0.0)))
    assert_equal_objectives(of("mcpo", NO_TERM, "objective.advantage=group_zscore"), plain)


def test_loss_and_gradient_depend_neither_on_the_split_nor_on_the_order_of_the_answers() -> None:
    cfg = of("mcpo")
    whole = credited(batch_for(cfg), cfg)
    value, gradient, stats = run(weights(), [whole], cfg)
    assert 0 < means(stats)["terms/divergence/kept"] < 1
    for ranks in (1, 2, 3):
        parts = [part for rank in partition(whole, ranks, token_budget=20) for part in rank]
        got = run(weights(), parts, cfg)
        assert got[0] == pytest.approx(value, abs=1e-6)
        torch.testing.assert_close(got[1], gradient, rtol=1e-4, atol=1e-6)
    backwards = credited(batch_for(cfg).select(range(21, -1, -1)), cfg)
    torch.testing.assert_close(run(weights(), [backwards], cfg)[1], gradient, rtol=1e-4, atol=1e-6)


def test_a_hinge_to_the_policy_that_sampled_the_answers_needs_updates_that_leave_it() -> None:
    with pytest.raises(ValueError, match=r"^learner\.updates_per_batch: must be above 1 at lag 0 for objective\."):
        load(["method=mcpo", "learner.updates_per_batch=1"])
    assert load(["method=mcpo", "learner.updates_per_batch=1", "lag=1"]).objective.terms["divergence"].hinge == 0.01


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("hinge=-1",), r"^objective\.terms\.divergence\.hinge: must not be negative"),
        (("wiring=joint", "estimator=k1"), r"^objective\.terms\.divergence\.hinge: must be 0 outside the loss wiring"),
        (("anchor=reference",), r"^objective\.terms\.divergence\.hinge: must be 0 for ratio_weighted with another"),
    ],
)
def test_a_hinge_that_has_no_loss_to_cut_off_is_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(["method=mcpo", *(f"objective.terms.divergence.{setting}" for setting in settings)])


@pytest.mark.parametrize("estimator", ["k2", "k3", "straight_through"])
def test_a_hinge_cuts_off_every_estimator_of_the_loss_wiring(estimator: str) -> None:
    terms = [divergence("reverse_kl", estimator=estimator, hinge=hinge) for hinge in (0.0, 0.4)]
    log_u = torch.tensor([0.1, -0.39, 0.5, -1.0])
    batch = make_batch([("explore", 0, 1.0, [1] * 4)], logp_reference=torch.full((4,), -3.0))
    gradients = []
    for term in terms:
        cfg, logp = objective(advantage="none", terms={"kl": term}), (log_u - 3).requires_grad_()
        value, _ = loss(scores(logp), credit(batch, cfg, initial_state(cfg, 9)), cfg, {"kl": 1.0})
        gradients.append(torch.autograd.grad(value, logp)[0])
    torch.testing.assert_close(gradients[1], torch.where(log_u.abs() > 0.4, gradients[0], 0.0))
    assert gradients[0].abs().min() > 1e-3
