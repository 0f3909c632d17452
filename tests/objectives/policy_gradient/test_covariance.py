"""Tokens chosen by the covariance of log-prob and advantage (Clip-Cov and KL-Cov, arXiv:2505.22617)."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig, CovarianceConfig
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from objectives.diagnostics import means, to_stats
from objectives.objective import loss
from objectives.policy_gradient.covariance import hashes, high_covariance, token_covariance
from tests.objectives.ragged_batch import Answer, make_batch, objective, scores, state_of
from tests.objectives.random_answers import credited, random_batch, run, weights
from trajectories.batch import Batch
from trajectories.split import partition

LOGP = torch.tensor([-1.0, -3.0, -0.5, -1.5])
ADVANTAGE = torch.tensor([1.0, 1.0, -1.0, -1.0])


def cov(kind: str, fraction: float = 0.3, **choices: Any) -> ObjectiveConfig:
    """Return an objective that chooses this fraction of the tokens."""
    covariance = CovarianceConfig(kind=kind, fraction=fraction, **choices)  # type: ignore[arg-type]
    return objective(clip=ClipConfig(kind="none"), covariance=covariance)


def chosen(batch: Batch, cfg: ObjectiveConfig) -> Tensor:
    found = credited(batch, cfg).high_covariance
    assert found is not None
    return found


def test_the_covariance_of_a_token_is_the_product_of_its_deviations_from_the_means() -> None:
    # mean log pi -1.5, mean A 0: deviations .5, -1.5, 1, 0
    assert token_covariance(LOGP, ADVANTAGE).tolist() == [0.5, -1.5, -1.0, 0.0]
    # mean A 2: deviations 3, -1, -1, -1
    assert token_covariance(LOGP, torch.tensor([5.0, 1.0, 1.0, 1.0])).tolist() == [1.5, 1.5, -1.0, 0.0]


def four_tokens() -> Batch:
    return make_batch([("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3, 4])], logp_sampler=LOGP)


@pytest.mark.parametrize(
    ("fraction", "expected"),
    [(0.0, []), (0.001, [0]), (0.49, [0]), (0.5, [0, 3]), (0.75, [0, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_kl_chooses_the_tokens_of_highest_covariance_rounded_down_but_at_least_one(
    fraction: float, expected: list[int]
) -> None:
    found = high_covariance(four_tokens(), LOGP, ADVANTAGE, cov("kl", fraction).covariance)
    assert found.nonzero().flatten().tolist() == expected


def test_clip_chooses_only_tokens_of_a_covariance_between_the_bounds() -> None:
    def found(low: float, high: float) -> list[int]:
        between = cov("clip", 1.0, low=low, high=high).covariance
        return high_covariance(four_tokens(), LOGP, ADVANTAGE, between).nonzero().flatten().tolist()

    assert found(-0.1, 5.0) == [0, 3]
    assert found(-1.2, 0.4) == [2, 3]
    assert found(0.0, 0.5) == found(1.0, 5.0) == []  # the bounds themselves are outside


def test_the_choice_covers_explored_tokens_alone_and_uses_the_learners_log_probs_where_they_exist() -> None:
    answers: list[Answer] = [("explore", 0, 1.0, [1]), ("explore", 0, 0.0, [2]), ("rehearse", -1, None, [3])]
    batch = make_batch(answers, logp_sampler=torch.tensor([-2.0, -1.0, -9.0]), prompt_length=0)
    # A = (1, -1) / sqrt 2, so the covariance is that of the deviation -.5, +.5: negative on both tokens.
    assert chosen(batch, cov("kl", 1.0)).tolist() == [True, True, False]
    inside = cov("clip", 1.0, low=0.0)
    assert chosen(batch, inside).tolist() == [False, False, False]
    swapped = replace(batch, logp_old=torch.tensor([-1.0, -2.0, -9.0]))
    assert chosen(swapped, inside).tolist() == [True, True, False]


@pytest.mark.parametrize("kind", ["clip", "kl"])
def test_order_split_and_ranks_do_not_change_the_choice(kind: str) -> None:
    batch = random_batch()
    cfg = cov(kind, 0.25 if kind == "kl" else 0.1)
    whole = chosen(batch, cfg)
    # 55 explored tokens, of which 10 have a covariance between 1 and 5
    assert int(whole.sum()) == (13 if kind == "kl" else 5)
    order = torch.randperm(len(batch.route), generator=torch.Generator().manual_seed(5)).tolist()
    assert torch.equal(chosen(batch.select(order), cfg), whole[batch.token_rows(order)])
    loss_, gradient, _ = run(weights(), [credited(batch, cfg)], cfg)
    for ranks, budget in ((1, 8), (3, 25)):
        parts = [part for rank in partition(credited(batch, cfg), ranks, budget) for part in rank]
        found = run(weights(), parts, cfg)
        assert found[0] == pytest.approx(loss_, abs=1e-6)
        torch.testing.assert_close(found[1], gradient, rtol=1e-5, atol=1e-6)


def test_tokens_of_equal_covariance_are_chosen_by_their_content_and_not_by_their_place() -> None:
    answers: list[Answer] = [("explore", 0, float(i % 2), [i, i + 1, 7]) for i in range(6)]
    batch = make_batch(answers, logp_sampler=torch.full((18,), -1.0))
    cfg = cov("kl", 0.3)
    whole = chosen(batch, cfg)
    assert int(whole.sum()) == 5, "all covariances are 0"
    order = [3, 0, 5, 1, 4, 2]
    assert torch.equal(chosen(batch.select(order), cfg), whole[batch.token_rows(order)])


def test_the_hashes_depend_on_the_whole_answer_the_position_and_the_weight_version() -> None:
    answers: list[Answer] = [("explore", 0, 1.0, row) for row in ([1, 1, 2], [1, 1, 3], [1, 1, 2], [2, 1, 1])]
    batch = make_batch(answers)
    first, other, equal, turned = hashes(batch).split(3)
    assert torch.equal(first, equal)
    assert len(set(torch.cat([first, other, turned]).tolist())) == 9
    later = hashes(replace(batch, version=batch.version + 1))
    assert not set(later.tolist()) & set(hashes(batch).tolist())


def test_the_random_choice_is_uniform() -> None:
    # 2,000 answers of 4 tokens with ordered content; a fair draw of 800 of 8,000 has 200 +- 13 at each position and
    # 400 +- 19 in the first half.
    answers: list[Answer] = [("explore", 0, 1.0, [i, i, i + 1, 5]) for i in range(2000)]
    batch = make_batch(answers)
    drawn = hashes(batch).argsort()[:800]
    assert (torch.bincount(drawn % 4, minlength=4) - 200).abs().max() < 60
    assert abs(int((drawn < 4000).sum()) - 400) < 90


def gradient(cfg: ObjectiveConfig, batch: Batch, logp: Tensor) -> tuple[Tensor, dict[str, float]]:
    leaf = logp.clone().requires_grad_()
    value, stats = loss(scores(leaf), credit(batch, cfg, state_of()), cfg, {})
    return torch.autograd.grad(value, leaf)[0], means(to_stats(stats))


RATIOS = torch.tensor([2.0, 0.5, 1.0, 0.25])
"""Of the tokens with covariances sqrt(1/2) times .5, -1.5, -1, 0, of which the first and last are the highest two."""


def test_a_token_that_clip_has_chosen_has_no_gradient_and_still_counts() -> None:
    cfg = cov("clip", 0.5, low=-0.1)
    found, stats = gradient(cfg, four_tokens(), LOGP + RATIOS.log())
    # -rho A / 4 with A = sqrt(1/2), -sqrt(1/2)
    assert found.tolist() == pytest.approx([0.0, -0.5 * 0.5**0.5 / 4, 0.5**0.5 / 4, 0.0], abs=1e-6)
    assert stats["covariance_tokens"] == 0.5 and stats["clip_fraction"] == 0


def test_a_token_that_kl_has_chosen_is_pulled_back_to_ratio_1() -> None:
    plain, _ = gradient(objective(clip=ClipConfig(kind="none")), four_tokens(), LOGP + RATIOS.log())
    found, stats = gradient(cov("kl", 0.5, penalty=0.2), four_tokens(), LOGP + RATIOS.log())
    # 0.2 sign(log rho) / 4 on the first and last token: ratios 2 and 1/4
    assert (found - plain).tolist() == pytest.approx([0.05, 0.0, 0.0, -0.05], abs=1e-6)
    assert stats["covariance_tokens"] == 0.5


def test_at_ratio_1_the_penalty_has_no_gradient() -> None:
    plain, _ = gradient(objective(clip=ClipConfig(kind="none")), four_tokens(), LOGP)
    assert torch.equal(gradient(cov("kl", 1.0), four_tokens(), LOGP)[0], plain)


def test_a_penalised_token_of_advantage_0_keeps_its_answer_in_the_loss() -> None:
    # A group of equal rewards has advantage 0 and covariance 0; its tokens are among the highest three of four.
    answers: list[Answer] = [("explore", 0, 1.0, [1]), ("explore", 0, 0.0, [2]), ("explore", 1, 1.0, [3])]
    answers.append(("explore", 1, 1.0, [4]))
    batch = make_batch(answers, logp_sampler=torch.tensor([-3.0, -0.5, -1.0, -1.0]))

    def in_loss(cfg: ObjectiveConfig) -> list[bool]:
        found = credit(batch, cfg, ObjectiveState(coefficients={})).in_loss
        assert found is not None
        return found.tolist()

    assert in_loss(cov("kl", 0.5)) == [True] * 4
    assert in_loss(cov("clip", 0.5, low=-1.0)) == in_loss(objective()) == [True, True, False, False]
