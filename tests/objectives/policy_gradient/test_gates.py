"""Weights on the policy gradient: GTPO's conflict tokens, entropy penalty and filter; APO's long failures."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig, GatesConfig
from objectives.credit import credit
from objectives.diagnostics import means, to_stats
from objectives.objective import loss
from objectives.policy_gradient.gates import conflict_weights, long_failure_scale
from tests.objectives.ragged_batch import Answer, make_batch, objective, scores, state_of
from trajectories.batch import Batch


def conflicts(answers: list[tuple[float, list[int]]], prompt_length: int = 0) -> list[list[float]]:
    """Return GTPO's lambda of the tokens of each answer, which is given as (advantage, tokens)."""
    batch = make_batch([("explore", 0, 1.0, tokens) for _, tokens in answers], prompt_length=prompt_length)
    found = conflict_weights(batch, torch.tensor([advantage for advantage, _ in answers]))
    rows = found.split(batch.lengths.tolist())
    assert all(row[:prompt_length].tolist() == [1.0] * prompt_length for row in rows)
    return [row[prompt_length:].tolist() for row in rows]


def test_a_common_prefix_has_weight_2_in_winners_and_0_in_losers() -> None:
    found = conflicts([(0.5, [1, 2, 3, 4]), (-0.5, [1, 2, 7, 8, 9])])
    assert found == [[2, 2, 1, 1], [0, 0, 1, 1, 1]]


def test_a_common_suffix_is_aligned_at_the_ends_of_answers_of_different_lengths() -> None:
    found = conflicts([(0.5, [1, 2, 3, 9]), (-0.5, [4, 5, 6, 7, 3, 9])])
    assert found == [[1, 1, 2, 2], [1, 1, 1, 1, 0, 0]]


def test_a_common_prefix_ends_at_the_first_different_token() -> None:
    # The answers have token 5 at position 2 in common, but not the token before it.
    found = conflicts([(0.5, [1, 2, 5, 6]), (-0.5, [1, 3, 5, 7])])
    assert found == [[2, 1, 1, 1], [0, 1, 1, 1]]


def test_the_conflict_tokens_of_a_prefix_may_come_from_different_answers() -> None:
    # The winner's first token is the first loser's, its second the second loser's: both are in conflict.
    found = conflicts([(1.0, [1, 2, 3]), (-0.5, [1, 9, 9]), (-0.5, [8, 2, 7])])
    assert found == [[2, 2, 1], [0, 1, 1], [1, 1, 1]]


def test_equal_answers_have_weight_4_as_winner_and_0_as_loser() -> None:
    assert conflicts([(0.5, [1, 2]), (-0.5, [1, 2])]) == [[4, 4], [0, 0]]


def test_without_common_tokens_or_without_a_winner_and_a_loser_all_weights_are_1() -> None:
    assert conflicts([(0.5, [1, 2]), (-0.5, [2, 1])]) == [[1, 1], [1, 1]]
    assert conflicts([(0.0, [1, 2]), (0.0, [1, 2])]) == [[1, 1], [1, 1]]
    assert conflicts([(0.5, [1, 2]), (0.5, [1, 2])]) == [[1, 1], [1, 1]]


def test_an_answer_of_advantage_0_has_no_conflict_tokens_and_causes_none() -> None:
    assert conflicts([(0.5, [1, 2]), (0.0, [1, 2]), (-0.5, [3, 4])]) == [[1, 1], [1, 1], [1, 1]]
    assert conflicts([(0.5, [1, 2]), (0.0, [1, 5]), (-0.5, [1, 4])])[1] == [1, 1]


def test_prompt_tokens_are_not_compared() -> None:
    assert conflicts([(0.5, [1, 2, 3]), (-0.5, [1, 5, 6])], prompt_length=3) == [[2, 1, 1], [0, 1, 1]]


def test_conflicts_are_found_within_a_group_among_graded_explored_answers_only() -> None:
    answers: list[Answer] = [
        ("explore", 0, 1.0, [1, 2, 3]),
        ("explore", 1, 0.0, [1, 2, 4]),
        ("explore", 0, None, [1, 2, 5]),
        ("rehearse", -1, None, [1, 2, 6]),
    ]
    found = conflict_weights(make_batch(answers), torch.tensor([0.5, -0.5, -0.5, 0.0]))
    assert found.tolist() == [1.0] * 12


# GTPO's objective: (A - gamma H) lambda rho, without the answers whose mean entropy is above the limit.

GTPO = {"advantage": "mean_only", "clip": ClipConfig(kind="none"), "reduction": "sequence_mean_token_mean"}
ENTROPY = torch.tensor([0.2, 0.4, 0.9, 0.7, 0.5])
"""Two answers of two and three tokens; the mean entropies are 0.3 and 0.7."""
LOGP = torch.tensor([-1.0, -2.0, -0.5, -3.0, -0.7])


def gradient(cfg: ObjectiveConfig, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    logp = LOGP.clone().requires_grad_()
    value, stats = loss(scores(logp, ENTROPY), credit(batch, cfg, state_of()), cfg, {})
    return torch.autograd.grad(value, logp)[0], means(to_stats(stats))


def pair() -> Batch:
    return make_batch([("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [1, 3, 4])], logp_sampler=LOGP)


def test_the_entropy_penalty_subtracts_the_mean_entropy_of_an_answer_detached() -> None:
    got, _ = gradient(objective(**GTPO, gates=GatesConfig(entropy_penalty=0.1)), pair())
    # advantages 1/2 - 0.03 and -1/2 - 0.07, over 2 answers of 2 and 3 tokens
    assert got.tolist() == pytest.approx([-0.47 / 4] * 2 + [0.57 / 6] * 3)


def test_answers_above_the_entropy_limit_have_no_gradient_and_are_reported() -> None:
    limited = objective(**GTPO, gates=GatesConfig(entropy_limit=math.log(2)))
    got, stats = gradient(limited, pair())
    assert got.tolist() == pytest.approx([-0.5 / 4] * 2 + [0.0] * 3)
    assert stats["entropy_filtered"] == pytest.approx(3 / 5)
    higher_limit = objective(**GTPO, gates=GatesConfig(entropy_limit=0.70001))
    assert gradient(higher_limit, pair())[0][2:].tolist() == pytest.approx([0.5 / 6] * 3)


def test_conflict_tokens_scale_the_gradient_and_are_reported() -> None:
    got, stats = gradient(objective(**GTPO, gates=GatesConfig(conflict_tokens=True)), pair())
    assert got.tolist() == pytest.approx([-2 * 0.5 / 4, -0.5 / 4, 0.0, 0.5 / 6, 0.5 / 6])
    assert stats["conflict_tokens"] == pytest.approx(2 / 5)


def test_conflict_tokens_depend_on_the_advantage_before_the_entropy_penalty() -> None:
    # 1/2 - 2 * 0.3 < 0: the winner's gradient changes sign, and its weights stay those of a winner.
    got, _ = gradient(objective(**GTPO, gates=GatesConfig(conflict_tokens=True, entropy_penalty=2.0)), pair())
    assert got.tolist() == pytest.approx([2 * 0.1 / 4, 0.1 / 4, 0.0, 1.9 / 6, 1.9 / 6])


# APO's long failures.


def stcr(answers: list[tuple[float | None, int]], base: float) -> list[float]:
    batch = make_batch([("explore", 0, reward, [1] * length) for reward, length in answers])
    return long_failure_scale(batch, base).tolist()


def test_a_wrong_answer_longer_than_the_mean_correct_one_has_a_larger_weight() -> None:
    # The correct ones have 4 tokens on average; 2 - 1.1^-6 = 1.435526; a reward of 1.5 is correct, 0.5 is not.
    answers = [(1.0, 3), (1.5, 5), (0.0, 10), (0.5, 10), (0.0, 4), (0.0, 2)]
    assert stcr(answers, 1.1) == pytest.approx([1, 1, 1.435526, 1.435526, 1, 1], abs=1e-6)


@pytest.mark.parametrize(("base", "expected"), [(1.00001, 1.00499), (1.001, 1.3933)])
def test_the_scale_of_500_extra_tokens_depends_on_the_base(base: float, expected: float) -> None:
    assert stcr([(1.0, 100), (0.0, 600)], base)[1] == pytest.approx(expected, abs=1e-4)


def test_without_a_correct_or_without_a_wrong_answer_nothing_is_scaled() -> None:
    assert stcr([(0.0, 3), (0.0, 9)], 1.1) == [1, 1]
    assert stcr([(1.0, 3), (1.0, 9)], 1.1) == [1, 1]
    assert stcr([(1.0, 3), (None, 9)], 1.1) == [1, 1]


def test_the_scale_of_long_failures_depends_on_their_length_and_keeps_the_sign() -> None:
    answers: list[Answer] = [("explore", 0, 1.0, [1]), ("explore", 0, 0.0, [2] * 3), ("explore", 0, 0.0, [3] * 5)]
    cfg = objective(gates=GatesConfig(long_failures=1.2))
    credited = credit(make_batch(answers), cfg, state_of())
    plain = credit(make_batch(answers), objective(), state_of())
    assert credited.advantage is not None and plain.advantage is not None
    factor = credited.advantage / plain.advantage
    assert factor.tolist() == pytest.approx([1.0] + [2 - 1.2**-2] * 3 + [2 - 1.2**-4] * 5)
    swapped = make_batch([answers[0], answers[2], answers[1]])
    other = credit(swapped, cfg, state_of()).advantage
    assert other is not None
    assert other.tolist() == credited.advantage[[0, *range(4, 9), *range(1, 4)]].tolist()


def test_long_failures_are_scaled_in_the_target_advantage_too() -> None:
    batch = make_batch([("explore", 0, 1.0, [1]), ("explore", 0, 0.0, [2] * 3)], logp_reference=torch.zeros(4))
    target = objective(advantage="target", ratio="none")
    plain = credit(batch, target, state_of()).advantage
    scaled = credit(batch, replace(target, gates=GatesConfig(long_failures=1.2)), state_of()).advantage
    assert plain is not None and scaled is not None
    assert (scaled / plain).tolist() == pytest.approx([1.0] + [2 - 1.2**-2] * 3)
