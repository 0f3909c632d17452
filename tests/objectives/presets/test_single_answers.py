"""Presets whose advantage is the slope of a preference loss of single answers: KTO."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.load import load
from objectives.advantage.words import describe_no_terms
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from objectives.reduce import sum_by_trajectory
from objectives.wording import describe_policy_gradient
from tests.objectives.equal_objectives import assert_equal_objectives, on_policy
from tests.objectives.presets.golden_batch import OLD_LOG_U, SAMPLER, explored_batch, golden_advantage
from tests.objectives.ragged_batch import make_batch
from tests.objectives.random_answers import batch_for, credited, of, run, scores_of, weights
from trajectories.batch import with_own_totals

PAPERS = {"kto": "2402.01306", "tr_kto": "2404.09656"}

# The golden batch has rewards 1, 0, 0, lengths 2, 1, 3, and log u of whole answers 1, -1, 2 under the sampling policy:
# z0 = 2/3. A = beta s (1 - s) with s = sigmoid(beta (log u - z0)), and minus that on wrong answers.


def test_kto_pushes_right_answers_up_and_wrong_ones_down_the_most_at_the_mean_log_ratio() -> None:
    # x = .1 (log u - 2/3) = .033333, -.166667, .133333;
    # s (1 - s) = (1 - tanh(x / 2)^2) / 4 = .2499306, .2482719, .2488922
    first, second, third = 0.02499306, -0.02482719, -0.02488922
    expected = [first] * 2 + [second] + [third] * 3
    assert golden_advantage(of("kto")) == pytest.approx(expected, abs=1e-7)
    weighted = golden_advantage(of("kto", "objective.pairs.right_weight=0.5"))
    assert weighted == pytest.approx([first / 2] * 2 + expected[2:], abs=1e-7)


def test_tr_kto_compares_with_the_moving_reference_and_not_with_the_fixed_one() -> None:
    cfg = of("tr_kto")
    batch = explored_batch(torch.full((6,), torch.nan))
    batch.anchors["moving"] = SAMPLER - OLD_LOG_U
    advantage = credit(batch, cfg, ObjectiveState(coefficients={})).advantage
    assert advantage is not None and cfg.anchors == ["moving"]
    # x = .05 (log u - 2/3) = .016667, -.083333, .066667; s (1 - s) = .2499826, .2495665, .2497224
    expected = [0.05 * 0.2499826, -0.05 * 0.2495665, -0.05 * 0.2497224]
    assert advantage[[0, 2, 3]].tolist() == pytest.approx(expected, abs=1e-7)


def test_z0_is_at_least_0() -> None:
    # log u = -1, 1, -2: their mean is negative, so x = .1 log u, and sigmoid's slope is even
    batch = explored_batch(SAMPLER + OLD_LOG_U)
    advantage = credit(batch, of("kto"), ObjectiveState(coefficients={})).advantage
    assert advantage is not None
    slopes = [0.1 * (s := torch.sigmoid(torch.tensor(0.1 * u)).item()) * (1 - s) for u in (1.0, 1.0, 2.0)]
    assert advantage[[0, 2, 3]].tolist() == pytest.approx([slopes[0], -slopes[1], -slopes[2]], abs=1e-7)


def test_answers_without_a_grade_or_without_a_trained_token_do_not_move_z0() -> None:
    cfg, rows = of("kto"), [("explore", 0, 1.0, [1]), ("explore", 0, 0.0, [2])]
    others = [("explore", 0, None, [3]), ("explore", 0, 1.0, [4])]
    log_u = torch.tensor([1.0, 3.0, 50.0, 70.0])
    batch = make_batch([*rows, *others], logp_sampler=torch.zeros(4), logp_reference=-log_u)  # type: ignore[list-item]
    batch.mask[3] = False  # as overlong.mask does with an answer that was cut off
    alone = make_batch(rows, logp_sampler=torch.zeros(2), logp_reference=-log_u[:2])  # type: ignore[arg-type]
    found, expected = (
        credit(with_own_totals(one), cfg, ObjectiveState(coefficients={})).advantage for one in (batch, alone)
    )
    assert found is not None and expected is not None
    assert found.tolist() == [*expected.tolist(), 0.0, 0.0] and expected[0] > 0 > expected[1]


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_groups_of_equal_rewards_train_and_at_the_reference_every_advantage_is_a_quarter_of_beta(right: float) -> None:
    batch = replace(explored_batch(SAMPLER), reward=torch.full((3,), right))
    advantage = credit(batch, of("kto"), ObjectiveState(coefficients={})).advantage
    assert advantage is not None
    assert advantage.tolist() == pytest.approx([0.025 if right else -0.025] * 6)


@pytest.mark.parametrize(("preset", "weight"), [("kto", 1.0), ("kto", 0.5), ("tr_kto", 1.0)])
def test_the_gradient_is_that_of_the_papers_loss(preset: str, weight: float) -> None:
    cfg = of(preset, f"objective.pairs.right_weight={weight}")
    batch, policy, beta = on_policy(batch_for(cfg)), weights(), cfg.pairs.beta
    anchor = batch.logp_reference if cfg.pairs.anchor == "reference" else batch.anchors[cfg.pairs.anchor]
    assert anchor is not None
    explored = batch.on_route("explore")
    per_token = (scores_of(policy, batch, cfg).logp - anchor)[explored]
    log_u = sum_by_trajectory(per_token, batch.seq[explored], len(batch.route))
    graded = [i for i, reward in enumerate(batch.reward.tolist()) if reward == reward]
    assert len(graded) == 15
    z0 = log_u[graded].mean().detach().clamp(min=0)

    def loss_of(i: int) -> Tensor:
        if batch.reward[i] == 1:
            return weight * (1 - torch.sigmoid(beta * (log_u[i] - z0)))
        return 1 - torch.sigmoid(beta * (z0 - log_u[i]))

    (expected,) = torch.autograd.grad(torch.stack([loss_of(i) for i in graded]).mean(), policy)
    torch.testing.assert_close(run(policy, [credited(batch, cfg)], cfg)[1], expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 1e-3


def test_an_answer_of_a_reward_below_1_is_wrong_whatever_its_group() -> None:
    batch = explored_batch(SAMPLER - OLD_LOG_U)
    partly = replace(batch, reward=torch.tensor([1.0, 0.9, -1.0]))
    found = [credit(one, of("kto"), ObjectiveState(coefficients={})).advantage for one in (batch, partly)]
    torch.testing.assert_close(*found)


def test_tr_kto_without_its_moving_reference_is_kto() -> None:
    cfg = of("tr_kto", "objective.pairs.anchor=reference", "objective.pairs.beta=0.1", "references.moving=null")
    assert_equal_objectives(cfg, of("kto"), batch=batch_for(of("kto")))


def test_a_group_may_have_one_answer() -> None:
    assert load(["method=kto", "sampling.group_size=1"]).sampling.group_size == 1


def test_the_loss_of_single_answers_is_described() -> None:
    words = describe_policy_gradient(of("kto"))
    assert "of (1 - sigmoid(x)) on answers of reward 1 or more and of 1 - sigmoid(-x) on the others" in words
    assert "x = 0.1 (log u - z0), u = policy / reference, z0 = max(0, mean log u of the batch)" in words
    assert "of 0.5 x (1 - sigmoid(x))" in describe_policy_gradient(of("kto", "objective.pairs.right_weight=0.5"))
    assert describe_no_terms(of("tr_kto")).endswith("the loss of an answer has its log-ratio to moving")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("pairs.lengths=shorter", "pairs.lengths: must be 'own' for loss=kto, which is a loss of single answers"),
        ("pairs.winners=together", "pairs.winners: must be 'each' for loss=kto"),
        ("pairs.term=kl", "pairs.term: must be '' for loss=kto"),
        ("pairs.divergence=jensen_shannon", "pairs.divergence: must be 'reverse_kl' for loss=kto, whose z0"),
        ("pairs.mixed_with=reference", "pairs.mixed_with: must be '' for"),
        ("pairs.right_weight=0", "pairs.right_weight: must be positive"),
        ("overlong.limit=9", "overlong.limit: must be 0 for advantage=pairs with pairs.loss=kto"),
        (
            "rewards={short: {verifier: countdown, weight: 0.5}}",
            "rewards: must be gates of weight 0 for advantage=pairs with pairs.loss=kto",
        ),
    ],
)
def test_what_single_answers_do_not_have_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"objective.({message})"):
        of("tr_kto", f"objective.{setting}")
