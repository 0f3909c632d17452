"""Gates: GTPO's conflict tokens, entropy penalty and filter; APO's long failures."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.objective import ClipConfig, GatesConfig, ObjectiveConfig
from objectives.credit import credit
from objectives.diagnostics import means, to_stats
from objectives.objective import loss
from objectives.policy_gradient.gates import conflict_weights, long_failure_scale
from tests.objectives.ragged_batch import Answer, make_batch, objective, scores, state_of
from trajectories.batch import Batch


def conflicts(answers: list[tuple[float, list[int]]], prompt_length: int = 0) -> list[list[float]]:
    """GTPO's lambda of each answer, given with its advantage."""
    batch = make_batch([("explore", 0, 1.0, tokens) for _, tokens in answers], prompt_length=prompt_length)
    found = conflict_weights(batch, torch.tensor([advantage for advantage, _ in answers]))
    rows = found.split(batch.lengths.tolist())
    assert all(row[:prompt_length].tolist() == [1.0] * prompt_length for row in rows)
    return [row[prompt_length:].tolist() for row in rows]


def test_a_shared_start_counts_double_in_winners_and_not_in_losers() -> None:
    found = conflicts([(0.5, [1, 2, 3, 4]), (-0.5, [1, 2, 7, 8, 9])])
    assert found == [[2, 2, 1, 1], [0, 0, 1, 1, 1]]


def test_a_shared_end_is_found_from_the_true_end_whatever_the_lengths() -> None:
    found = conflicts([(0.5, [1, 2, 3, 9]), (-0.5, [4, 5, 6, 7, 3, 9])])
    assert found == [[1, 1, 2, 2], [0 if place > 3 else 1 for place in range(6)]]


def test_the_run_stops_at_the_first_token_without_a_counterpart() -> None:
    # Token 5 at place 2 is shared again, behind place 1, which is not.
    found = conflicts([(0.5, [1, 2, 5, 6]), (-0.5, [1, 3, 5, 7])])
    assert found == [[2, 1, 1, 1], [0, 1, 1, 1]]


def test_a_place_may_be_shared_with_different_answers() -> None:
    # The winner's first token is the first loser's, its second the second loser's: both are in conflict.
    found = conflicts([(1.0, [1, 2, 3]), (-0.5, [1, 9, 9]), (-0.5, [8, 2, 7])])
    assert found == [[2, 2, 1], [0, 1, 1], [1, 1, 1]]


def test_one_answer_as_winner_and_as_loser_is_counted_four_times_and_not_at_all() -> None:
    assert conflicts([(0.5, [1, 2]), (-0.5, [1, 2])]) == [[4, 4], [0, 0]]


def test_nothing_shared_or_nothing_to_choose_between_leaves_every_token_alone() -> None:
    assert conflicts([(0.5, [1, 2]), (-0.5, [2, 1])]) == [[1, 1], [1, 1]]
    assert conflicts([(0.0, [1, 2]), (0.0, [1, 2])]) == [[1, 1], [1, 1]]
    assert conflicts([(0.5, [1, 2]), (0.5, [1, 2])]) == [[1, 1], [1, 1]]


def test_a_neutral_answer_neither_causes_nor_feels_a_conflict() -> None:
    assert conflicts([(0.5, [1, 2]), (0.0, [1, 2]), (-0.5, [3, 4])]) == [[1, 1], [1, 1], [1, 1]]
    assert conflicts([(0.5, [1, 2]), (0.0, [1, 5]), (-0.5, [1, 4])])[1] == [1, 1]


def test_a_prompt_is_no_part_of_the_answer() -> None:
    assert conflicts([(0.5, [1, 2, 3]), (-0.5, [1, 5, 6])], prompt_length=3) == [[2, 1, 1], [0, 1, 1]]


def test_conflicts_stay_within_a_group_and_ungraded_and_rehearsed_answers_cause_none() -> None:
    answers: list[Answer] = [
        ("explore", 0, 1.0, [1, 2, 3]),
        ("explore", 1, 0.0, [1, 2, 4]),
        ("explore", 0, None, [1, 2, 5]),
        ("rehearse", -1, None, [1, 2, 6]),
    ]
    found = conflict_weights(make_batch(answers), torch.tensor([0.5, -0.5, -0.5, 0.0]))
    assert found.tolist() == [1.0] * 12


# GTPO's objective: (A - gamma H) lambda rho, and nothing of answers whose mean entropy is above the limit.

GTPO = {"advantage": "mean_only", "clip": ClipConfig(kind="none"), "reduction": "sequence_mean_token_mean"}
ENTROPY = torch.tensor([0.2, 0.4, 0.9, 0.7, 0.5])
"""Means 0.3 and 0.7 of two answers of two and three tokens."""
LOGP = torch.tensor([-1.0, -2.0, -0.5, -3.0, -0.7])


def gradient(cfg: ObjectiveConfig, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    logp = LOGP.clone().requires_grad_()
    value, stats = loss(scores(logp, ENTROPY), credit(batch, cfg, state_of()), cfg, {})
    return torch.autograd.grad(value, logp)[0], means(to_stats(stats))


def pair() -> Batch:
    return make_batch([("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [1, 3, 4])], logp_sampler=LOGP)


def test_the_entropy_of_an_answer_is_taken_off_its_advantage_and_carries_no_gradient() -> None:
    got, _ = gradient(objective(**GTPO, gates=GatesConfig(entropy_penalty=0.1)), pair())
    # advantages 1/2 - 0.03 and -1/2 - 0.07, over 2 answers of 2 and 3 tokens
    assert got.tolist() == pytest.approx([-0.47 / 4] * 2 + [0.57 / 6] * 3)


def test_answers_above_the_entropy_limit_are_left_out_and_counted() -> None:
    limited = objective(**GTPO, gates=GatesConfig(entropy_limit=math.log(2)))
    got, stats = gradient(limited, pair())
    assert got.tolist() == pytest.approx([-0.5 / 4] * 2 + [0.0] * 3)
    assert stats["entropy_filtered"] == pytest.approx(3 / 5)
    just_above = objective(**GTPO, gates=GatesConfig(entropy_limit=0.70001))
    assert gradient(just_above, pair())[0][2:].tolist() == pytest.approx([0.5 / 6] * 3)


def test_conflict_tokens_scale_the_gradient_and_are_counted() -> None:
    got, stats = gradient(objective(**GTPO, gates=GatesConfig(conflict_tokens=True)), pair())
    assert got.tolist() == pytest.approx([-2 * 0.5 / 4, -0.5 / 4, 0.0, 0.5 / 6, 0.5 / 6])
    assert stats["conflict_tokens"] == pytest.approx(2 / 5)


def test_conflicts_go_by_the_advantage_before_the_entropy_is_taken_off() -> None:
    # 1/2 - 2 * 0.3 < 0: the winner's gradient turns round, and it is still a winner.
    got, _ = gradient(objective(**GTPO, gates=GatesConfig(conflict_tokens=True, entropy_penalty=2.0)), pair())
    assert got.tolist() == pytest.approx([2 * 0.1 / 4, 0.1 / 4, 0.0, 1.9 / 6, 1.9 / 6])


# APO's long failures.


def stcr(answers: list[tuple[float | None, int]], base: float) -> list[float]:
    batch = make_batch([("explore", 0, reward, [1] * length) for reward, length in answers])
    return long_failure_scale(batch, base).tolist()


def test_a_wrong_answer_longer_than_the_correct_ones_weighs_more() -> None:
    # The correct ones have 4 tokens on average; 2 - 1.1^-6 = 1.435526; 1.5 is correct, a format reward alone is not.
    answers = [(1.0, 3), (1.5, 5), (0.0, 10), (0.5, 10), (0.0, 4), (0.0, 2)]
    assert stcr(answers, 1.1) == pytest.approx([1, 1, 1.435526, 1.435526, 1, 1], abs=1e-6)


@pytest.mark.parametrize(("base", "expected"), [(1.00001, 1.00499), (1.001, 1.3933)])
def test_the_published_base_hardly_weighs_five_hundred_tokens(base: float, expected: float) -> None:
    assert stcr([(1.0, 100), (0.0, 600)], base)[1] == pytest.approx(expected, abs=1e-4)


def test_without_a_correct_or_a_wrong_answer_nothing_is_scaled() -> None:
    assert stcr([(0.0, 3), (0.0, 9)], 1.1) == [1, 1]
    assert stcr([(1.0, 3), (1.0, 9)], 1.1) == [1, 1]
    assert stcr([(1.0, 3), (None, 9)], 1.1) == [1, 1]


def test_scaling_keeps_the_sign_of_the_advantage_and_goes_with_the_length() -> None:
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


def test_long_failures_weigh_more_for_a_target_distribution_too() -> None:
    batch = make_batch([("explore", 0, 1.0, [1]), ("explore", 0, 0.0, [2] * 3)], logp_reference=torch.zeros(4))
    target = objective(advantage="target", ratio="none")
    plain = credit(batch, target, state_of()).advantage
    scaled = credit(batch, replace(target, gates=GatesConfig(long_failures=1.2)), state_of()).advantage
    assert plain is not None and scaled is not None
    assert (scaled / plain).tolist() == pytest.approx([1.0] + [2 - 1.2**-2] * 3)
