"""RECAP: weights of several objectives, computed from the history of their rewards and losses."""

import math

import numpy as np
import pytest

from configs.recap import RecapConfig
from objectives.coefficient.recap import RecapState, observed, recap_weights, score, softmax

CFG = RecapConfig(window=2)
# Means of the two windows 1 and 1, 1 and 1.2, 1 and 1; deviations of the recent one 0, 0.3 (1 + 1.2) = 0.66, 0.1 * 2.
HISTORY = RecapState(values={"flat": (1.0, 1.0, 1.0, 1.0), "rises": (1.0, 1.0, 0.54, 1.86), "varies": (1, 1, 0.8, 1.2)})


@pytest.mark.parametrize(
    ("temperature", "expected"), [(5.0, (0.9599, 1.0608, 0.9793)), (0.5, (0.6073, 1.6509, 0.7418))]
)
def test_weights_are_the_softmax_of_convergence_and_instability(
    temperature: float, expected: tuple[float, ...]
) -> None:
    # c = (1, 1.2, 1), i = (0, 0.3, 0.1): 3 e^(s / T) / sum e^(s / T) for s = (1, 1.5, 1.1); at T = 5 the powers are
    # 1.22140, 1.34986 and 1.24608, their sum 3.81734.
    found = recap_weights(HISTORY, RecapConfig(window=2, temperature=temperature))
    assert list(found.values()) == pytest.approx(expected, abs=6e-5)
    assert list(softmax({"a": 1.0, "b": 1.5, "c": 1.1}, temperature).values()) == pytest.approx(expected, abs=6e-5)


def test_at_high_temperature_or_with_equal_histories_all_weights_are_1() -> None:
    hot = recap_weights(HISTORY, RecapConfig(window=2, temperature=1e9))
    assert list(hot.values()) == pytest.approx([1.0] * 3, abs=1e-8)
    equal = RecapState(values=dict.fromkeys("abc", (0.1, 0.5, 0.3, 0.9)))
    assert list(recap_weights(equal, CFG).values()) == pytest.approx([1.0] * 3, abs=1e-15)


@pytest.mark.parametrize("orientation", ["improving", "literal"])
def test_weights_sum_to_their_number_and_do_not_depend_on_the_scale_of_an_objective(orientation: str) -> None:
    cfg = RecapConfig(window=3, temperature=0.2, orientation=orientation)  # type: ignore[arg-type]
    for seed in range(20):
        sampled = np.random.default_rng(seed).uniform(0, 2, (4, 6)).tolist()
        values = {name: tuple(row) for name, row in zip(("a", "b", "c", "replay"), sampled, strict=True)}
        found = recap_weights(RecapState(values=values), cfg)
        assert sum(found.values()) == pytest.approx(4, abs=1e-12)
        assert max(found.values()) > 1.05, "weights that are all 1 would prove nothing"
        for name in values:
            scaled = values | {name: tuple(1000 * value for value in values[name])}
            assert recap_weights(RecapState(values=scaled), cfg) == pytest.approx(found, rel=1e-9)


def test_the_score_is_above_1_for_a_rising_reward_and_for_a_falling_loss() -> None:
    rising, falling = (1.0, 1.0, 2.0, 2.0), (2.0, 2.0, 1.0, 1.0)
    literal = RecapConfig(window=2, orientation="literal")
    assert (score("words", rising, CFG), score("words", falling, CFG)) == (2.0, 0.5)
    assert (score("replay", rising, CFG), score("replay", falling, CFG)) == (0.5, 2.0)
    assert (score("replay", rising, literal), score("words", rising, literal)) == (2.0, 2.0)


def test_scores_are_bounded_where_means_are_0_or_negative() -> None:
    assert score("words", (0.0, 0.0, 0.0, 0.0), CFG) == 0.0
    assert score("words", (0.0, 0.0, 1.0, 1.0), CFG) == 10.0
    assert score("words", (1e-9, -1e-9, 5.0, -5.0), CFG) == 10.0  # both means are 0, the deviation is 5
    assert score("words", (-1.0, -1.0, -2.0, -2.0), CFG) == 2.0


def test_weights_stay_1_until_every_objective_has_both_windows() -> None:
    state = RecapState()
    assert recap_weights(state, CFG) == {}
    for step in range(4):
        assert set(recap_weights(state, CFG).values()) <= {1.0}
        state = observed(state, {"words": float(step), "replay": 1.0}, CFG.window)
    assert recap_weights(state, CFG)["words"] > 1.1
    late = observed(state, {"sums": 1.0}, CFG.window)
    assert set(recap_weights(late, CFG).values()) == {1.0}, "a new objective has no earlier window"


def test_only_the_last_two_windows_are_kept_and_missing_values_are_left_out() -> None:
    state = RecapState()
    for step in range(9):
        state = observed(state, {"words": float(step), "replay": math.nan if step % 2 else step}, CFG.window)
    assert state.values == {"words": (5.0, 6.0, 7.0, 8.0), "replay": (2, 4, 6, 8)}
