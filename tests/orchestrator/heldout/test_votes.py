"""maj@k against all draws of k answers, and against votes counted by hand."""

import math
from itertools import combinations

import numpy as np
import pytest

from orchestrator.heldout.votes import majorities, majority_at, voting
from orchestrator.watch.measurement import Measurement, PromptResult


def result(
    prompt_id: str, total: int, votes: tuple[int, ...], right: tuple[int, ...], verifier: str = "math"
) -> PromptResult:
    return PromptResult(
        prompt_id=prompt_id,
        prompt_text="",
        total=total,
        correct=sum(right),
        ungraded=0,
        distinct_correct=1,
        verifier=verifier,
        votes=votes,
        right_votes=right,
        tokens=total,
        negative_logp=0.0,
        log_probs=(),
        kl_to_base=None,
        correct_answers=(),
        wrong_answers=(),
    )


def by_enumeration(prompt: PromptResult, k: int) -> float:
    """Mean over all sets of k answers of the fraction of right ones among the final answers with most votes."""
    classes = [c for c, count in enumerate(prompt.votes) for _ in range(count)]
    classes += [-1] * (prompt.total - len(classes))
    won = []
    for draw in combinations(classes, k):
        counts = {c: draw.count(c) for c in set(draw) - {-1}}
        best = [c for c in counts if counts[c] == max(counts.values())]
        won.append(sum(prompt.right_votes[c] / prompt.votes[c] for c in best) / max(len(best), 1))
    return float(np.mean(won))


def test_maj_at_k_has_the_values_counted_by_hand() -> None:
    # 5 votes for a wrong answer, 3 for the right one, 1 for another, and one answer without a vote.
    prompt = result("p", 10, (5, 3, 1), (0, 3, 0))
    assert majority_at(prompt, [1, 10, 11]) == {1: 0.3, 10: 0.0, 11: pytest.approx(math.nan, nan_ok=True)}
    # Two final answers with 4 votes each: one of them is drawn, and one of them is right.
    assert majority_at(result("p", 8, (4, 4), (4, 0)), [8]) == {8: 0.5}
    # Right answers that are different solutions are different votes: 2 + 2 right ones lose against 3 equal wrong ones.
    assert majority_at(result("p", 7, (3, 2, 2), (0, 2, 2)), [7]) == {7: 0.0}
    assert majority_at(result("p", 4, (), ()), [1, 2, 4]) == {1: 0.0, 2: 0.0, 4: 0.0}, "nobody votes"


@pytest.mark.parametrize("votes", [(5, 3, 1), (4, 4), (1,) * 9, (6, 2)])
@pytest.mark.parametrize("k", [2, 3, 4, 7])
def test_maj_at_k_is_the_mean_over_all_draws_of_k_answers(votes: tuple[int, ...], k: int) -> None:
    right = tuple(count if i == 1 else 0 for i, count in enumerate(votes))
    prompt = result("p", 10, votes, right)
    # 256 draws: a standard error of at most 0.031.
    assert majority_at(prompt, [k])[k] == pytest.approx(by_enumeration(prompt, k), abs=0.1)
    assert majority_at(prompt, [5, k])[k] == majority_at(prompt, [k])[k], "the same draws whatever else is measured"


@pytest.mark.parametrize("votes", [(4, 4), (3, 3, 3), (5, 3, 1), (1,) * 25])
def test_the_errors_of_maj_at_k_average_out_over_prompts(votes: tuple[int, ...]) -> None:
    right = tuple(count if i == 1 else 0 for i, count in enumerate(votes))
    total = sum(votes) + 1
    values = [majority_at(result(f"p{i}", total, votes, right), [3])[3] for i in range(100)]
    exact = by_enumeration(result("p", total, votes, right), 3)
    assert np.mean(values) == pytest.approx(exact, abs=4 * 0.031 / 10), "100 prompts: a tenth of the error of one"
    assert np.std(values) > 0, "each prompt has its own draws"


def test_a_large_majority_wins_almost_surely_among_many_of_a_thousand_answers() -> None:
    values = majority_at(result("p", 1024, (500, 400) + (1,) * 100, (0, 400) + (0,) * 100), [1, 64, 512, 1024])
    assert values[1] == pytest.approx(400 / 1024)
    assert values[1] > values[64] > values[512] >= values[1024] == 0.0


def test_prompts_whose_verifier_notes_no_final_answers_are_left_out() -> None:
    prompts = (
        result("a", 4, (4,), (4,)),
        result("b", 4, (), ()),  # no answer in any of them: the vote is wrong
        result("c", 4, (), (), verifier="code"),
        result("d", 0, (), ()),
    )
    measurement = Measurement(name="m", step=0, temperature=1.0, answers=4, prompts=prompts)
    assert voting(measurement).tolist() == [True, True, False, False]
    found = majorities(measurement, [1, 2, 4])
    assert list(found) == ["maj@2", "maj@4"]
    assert (found["maj@4"].value, found["maj@4"].prompts) == (0.5, 2)
    only_code = Measurement(name="m", step=0, temperature=1.0, answers=4, prompts=prompts[2:3])
    assert majorities(only_code, [1, 4]) == {}
