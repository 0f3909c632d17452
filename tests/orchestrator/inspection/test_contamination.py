"""DC-PDD: golden numbers, smoothing, first occurrences, and the area under the ROC curve against all pairs."""

import math

import numpy as np
import pytest

from orchestrator.inspection.contamination import frequencies, score, score_all, separation


def test_frequencies_add_one_occurrence_to_every_token() -> None:
    # Counts 1, 2, 0, 0 over the texts; with one each 2, 3, 1, 1 of 7.
    np.testing.assert_allclose(frequencies([[0, 1], [1]], 4), np.array([2, 3, 1, 1]) / 7)


FREQUENCY = np.array([0.2, 0.05, 0.5, 0.25])


@pytest.mark.parametrize(("clip", "expected", "clipped"), [(10, 0.552148, 0), (0.5, 0.399787, 1 / 2), (0.01, 0.01, 1)])
def test_the_score_is_the_mean_over_first_occurrences(clip: float, expected: float, clipped: float) -> None:
    # Tokens 0, 1, 0 of probability .5, .1, .9: the second 0 does not count.
    # .5 log(1 / .2) = .804719, .1 log(1 / .05) = .299573: mean .552146; with clip .5: (.5 + .299573) / 2 = .399787
    found = score(np.array([0, 1, 0]), np.log([0.5, 0.1, 0.9]), FREQUENCY, clip)
    assert found == pytest.approx((expected, clipped), abs=3e-6)


def test_a_rare_token_counts_more_than_a_frequent_one_of_the_same_probability() -> None:
    rare, frequent = (score(np.array([token]), np.log([0.3]), FREQUENCY, 10)[0] for token in (1, 2))
    assert rare / frequent == pytest.approx(math.log(0.05) / math.log(0.5))


def test_the_first_token_without_a_logp_is_left_out_and_a_text_of_it_alone_has_no_score() -> None:
    texts, logps = [[3, 0, 1], [2], [0, 1]], [np.log([0.5, 0.1]), np.zeros(0), np.log([0.5, 0.1])]
    found, clipped = score_all(texts, logps, FREQUENCY, 10)
    assert found[0] == found[2] == pytest.approx(0.552146, abs=1e-6)
    assert math.isnan(found[1]) and clipped == 0
    nothing, fraction = score_all([[2]], [np.zeros(0)], FREQUENCY, 10)
    assert math.isnan(nothing[0]) and math.isnan(fraction)


def test_the_separation_is_the_fraction_of_pairs_in_which_the_first_is_higher() -> None:
    ones, others = np.array([3.0, 1.0, 2.0, math.nan]), np.array([2.0, 0.0])
    # 3 > 2, 3 > 0, 1 < 2, 1 > 0, 2 = 2, 2 > 0: (4 + .5) / 6
    found = separation(ones, others)
    assert found is not None and found.value == pytest.approx(4.5 / 6)
    assert found.low <= found.value <= found.high <= 1
    back = separation(others, ones)
    assert back is not None and back.value == pytest.approx(1.5 / 6)
    assert separation(np.array([1.0]), others) is None and separation(np.array([math.nan] * 3), others) is None


def test_the_interval_of_the_separation_holds_the_true_value_in_95_of_100_cases() -> None:
    random = np.random.default_rng(0)
    # P(x > y) of normal x with mean 1 and y with mean 0 is Phi(1 / sqrt 2) = .76025.
    found = [separation(random.standard_normal(60) + 1, random.standard_normal(40)) for _ in range(400)]
    inside = np.mean([one.low <= 0.76025 <= one.high for one in found if one])
    # Of 400 cases the standard deviation is .011.
    assert inside == pytest.approx(0.95, abs=0.035)
