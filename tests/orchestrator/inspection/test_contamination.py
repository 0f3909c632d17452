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
    ones, others = np.array([3.0] * 4 + [1.0] * 4 + [2.0] * 4 + [math.nan]), np.array([2.0, 0.0] * 5)
    # 3 > 2, 3 > 0, 1 < 2, 1 > 0, 2 = 2, 2 > 0: (4 + .5) / 6
    found = separation(ones, others)
    assert found is not None and found.value == pytest.approx(4.5 / 6)
    assert found.low < found.value < found.high < 1
    back = separation(others, ones)
    assert back is not None and back.value == pytest.approx(1.5 / 6)
    assert (back.low, back.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_fewer_than_ten_scores_of_a_set_measure_nothing() -> None:
    few, enough = np.append(np.arange(9.0), math.nan), np.arange(10.0)
    assert separation(few, enough) is None and separation(enough, few) is None
    assert separation(enough, enough) is not None


@pytest.mark.parametrize(("size", "low"), [(10, 0.800207), (100, 0.980448)])
def test_completely_separated_scores_have_an_interval_with_a_width(size: int, low: float) -> None:
    found = separation(np.arange(size) + 1000.0, np.arange(size))
    assert found is not None and (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(low, abs=2e-6)
    # The bound A solves (1 - A)^2 = 1.96^2 SE(A)^2.
    spread = 1 + (size - 1) * ((1 - low) / (2 - low) + low / (1 + low))
    assert (1 - low) ** 2 == pytest.approx(1.96**2 * low * (1 - low) * spread / size**2, rel=1e-4)


def test_one_half_is_outside_the_interval_exactly_where_the_mann_whitney_test_finds_a_difference() -> None:
    random, found = np.random.default_rng(1), []
    for _ in range(100):
        ones, others = random.standard_normal(12) + 0.8, random.standard_normal(17)
        apart = separation(ones, others)
        assert apart is not None
        # Without a difference U = A m n has the variance m n (m + n + 1) / 12.
        z = (apart.value - 0.5) * 12 * 17 / math.sqrt(12 * 17 * 30 / 12)
        found.append(apart.low > 0.5)
        assert found[-1] == (z > 1.96) and (apart.high < 0.5) == (z < -1.96)
    assert 20 < sum(found) < 80


@pytest.mark.parametrize(("n", "m", "shift"), [(60, 40, 1.0), (10, 10, 1.0), (10, 10, 2.5), (12, 200, 2.0)])
def test_the_interval_of_the_separation_holds_the_true_value_in_95_of_100_cases(n: int, m: int, shift: float) -> None:
    random = np.random.default_rng(0)
    # P(x > y) of normal x with mean `shift` and y with mean 0, both of variance 1, is Phi(shift / sqrt 2).
    true = (1 + math.erf(shift / 2)) / 2
    found = [separation(random.standard_normal(n) + shift, random.standard_normal(m)) for _ in range(400)]
    inside = np.mean([one.low <= true <= one.high for one in found if one])
    # Of 400 cases the standard deviation is .011.
    assert inside == pytest.approx(0.95, abs=0.035)
