"""ExGRPO: right answers of earlier steps join new groups, weighted by their importance."""

from dataclasses import replace

import pytest
import torch

from configs.load import load
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from objectives.diagnostics import means, to_stats
from objectives.objective import loss
from objectives.policy_gradient.experience import experience_loss
from tests.objectives.equal_objectives import assert_equal_objectives
from tests.objectives.presets.golden_batch import LOGP, RATIOS, SAMPLER
from tests.objectives.ragged_batch import Answer, make_batch, objective, scores
from tests.objectives.random_answers import batch_for, credited, of, run, scores_of, weights
from trajectories.batch import Batch, with_own_totals
from trajectories.split import deal, partition
from trajectories.trajectory import ROUTES

PAPERS = {"exgrpo": "2510.02245"}
STATE = ObjectiveState(coefficients={})
ANSWERS: list[Answer] = [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("experience", 0, 1.0, [4, 5, 6])]
"""A group of a right and a wrong new answer and an old right one."""


def with_experience(batch: Batch) -> Batch:
    """Return the batch in which the last answer of each group is an old one."""
    last = torch.tensor([(batch.group == g).nonzero()[-1, 0] for g in range(4)])
    route = batch.route.index_fill(0, last, ROUTES.index("experience"))
    return with_own_totals(replace(batch, route=route))


def test_exgrpo_weighs_the_tokens_of_an_old_answer_by_w_over_w_plus_beta_in_the_mean_of_its_group() -> None:
    # Rewards 1, 0 and 1 of the old answer: A = 1/3, -2/3, 1/3. New tokens: (1 + 1.5) / 3 - .5 x 2/3 = .5. Old tokens,
    # w = 1, .9, 4: (1 / 1.1 + .9 / 1 + 4 / 4.1) / 3 = .928234. 1.428234 over 3 answers of at most 16 tokens
    cfg = of("exgrpo")
    batch = credit(make_batch(ANSWERS, logp_sampler=SAMPLER), cfg, STATE)
    value, stats = loss(scores(LOGP), batch, cfg, {})
    assert value.item() == pytest.approx(-1.428234 / 48, abs=1e-7)
    measured = means(to_stats(stats))
    assert measured["experience_ratio"] == pytest.approx((1 + 0.9 + 4) / 3)
    assert measured["experience_weight"] == pytest.approx(3 * 0.928234 / 3, abs=1e-6)
    # With a token mean over the 6 tokens of both, and z-scores: (1 + 1.5 - .5 x 2 + 3 x .928234) x .577350 / 6
    other = of("exgrpo", "objective.reduction=token_mean", "objective.advantage=group_zscore")
    batch = credit(make_batch(ANSWERS, logp_sampler=SAMPLER), other, STATE)
    expected = -(1.5 + 3 * 0.928234) * 0.577350 / 6
    assert loss(scores(LOGP), batch, other, {})[0].item() == pytest.approx(expected, abs=2e-6)


def test_metrics_of_ratio_rewards_and_mismatch_are_those_of_new_answers_alone() -> None:
    cfg = of("exgrpo", "objective.reduction=token_mean")
    whole = credit(make_batch(ANSWERS, logp_sampler=SAMPLER), cfg, STATE)
    measured = means(to_stats(loss(scores(LOGP), whole, cfg, {})[1]))
    assert measured["ratio"] == pytest.approx(float(RATIOS[:3].mean()))
    assert (measured["reward"], measured["answer_length"]) == (0.5, 1.5)
    assert measured["mismatch_abs_log_ratio"] == pytest.approx(float(RATIOS[:3].log().abs().mean()))


def test_the_gradient_of_an_old_token_is_greatest_where_its_ratio_is_beta() -> None:
    ratio = torch.tensor([1e-6, 0.01, 0.05, 0.1, 0.2, 1.0, 10.0])
    batch = make_batch([("experience", 0, 1.0, [1] * 7)], logp_sampler=torch.full((7,), -2.0))
    cfg = of("exgrpo", "objective.reduction=token_mean")
    logp = (ratio.log() - 2).requires_grad_()
    value, _ = experience_loss(logp, replace(batch, advantage=torch.full((7,), 2.0)), cfg)
    (gradient,) = torch.autograd.grad(value, logp)
    torch.testing.assert_close(gradient, -2 / 7 * 0.1 * ratio / (ratio + 0.1) ** 2)
    assert gradient.argmin() == 3


def test_without_experience_exgrpo_is_dr_grpo_without_a_clip_and_with_an_entropy_bonus() -> None:
    plain = of("dr_grpo", "objective.clip.kind=none", "objective.entropy_bonus=0.001")
    for cfg in (of("exgrpo"), of("exgrpo", "objective.experience.fraction=0")):
        assert_equal_objectives(cfg, plain)
    assert of("exgrpo", "objective.experience.fraction=0") == plain


@pytest.mark.parametrize("reduction", ["constant", "token_mean", "sequence_mean_token_mean"])
def test_loss_and_gradient_depend_neither_on_the_split_nor_on_the_order_of_the_answers(reduction: str) -> None:
    cfg = of("exgrpo", f"objective.reduction={reduction}", "objective.terms.kl.name=reverse_kl")
    whole = credited(with_experience(batch_for(cfg)), cfg)
    expected = run(weights(), [whole], cfg)
    assert with_experience(batch_for(cfg)).totals["experience"].tokens > 4
    for ranks in (1, 2, 3):
        parts = [part for rank in partition(whole, ranks, token_budget=20) for part in rank]
        value, gradient, stats = run(weights(), parts, cfg)
        assert len(parts) > 3 and value == pytest.approx(expected[0], abs=1e-6)
        torch.testing.assert_close(gradient, expected[1], rtol=1e-4, atol=1e-6)
        assert means(stats)["experience_weight"] == pytest.approx(means(expected[2])["experience_weight"], rel=1e-5)
    backwards = credited(with_experience(batch_for(cfg)).select(range(21, -1, -1)), cfg)
    torch.testing.assert_close(run(weights(), [backwards], cfg)[1], expected[1], rtol=1e-4, atol=1e-6)
    for part in deal(whole, 2):
        routes = [part.route[part.group == g].tolist() for g in part.group[part.group >= 0].unique().tolist()]
        assert all(row.count(ROUTES.index("experience")) == 1 for row in routes), "it stays in its group"


def test_old_answers_add_to_the_gradient_only_their_own_part_and_their_rewards() -> None:
    cfg = of("exgrpo", "objective.reduction=token_mean", "objective.entropy_bonus=0")
    whole = credited(with_experience(batch_for(cfg)), cfg)
    policy, explored, old = weights(), whole.on_route("explore"), whole.on_route("experience")
    logp, advantage = scores_of(policy, whole, cfg).logp, whole.advantage
    assert advantage is not None
    ratio = (logp - whole.logp_sampler).exp()
    weight = torch.where(explored, ratio, ratio / (ratio + 0.1))
    expected = -(advantage * weight)[explored | old].sum() / int((explored | old).sum())
    value, gradient, _ = run(policy, [whole], cfg)
    assert value == pytest.approx(expected.item(), abs=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, policy)[0], rtol=1e-5, atol=1e-6)
    assert objective().experience.fraction == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("objective.advantage=global_whiten",), r"^objective\.experience\.fraction: must be 0, except for the advant"),
        (("groups_per_step=1",), r"^objective\.experience\.fraction: must be at least 1 / groups_per_step \(1\)"),
        (("sampling.group_size=1",), r"^sampling\.group_size: must be above 1 with objective\.experience"),
        (("objective.experience.fraction=1.5",), r"^objective\.experience\.fraction: must be between 0 and 1"),
        (("objective.experience.beta=0",), r"^objective\.experience\.beta: must be positive"),
    ],
)
def test_settings_that_experience_cannot_have_are_refused(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(["method=exgrpo", *settings])
