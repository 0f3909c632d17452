"""SOD (arXiv:2605.07725): weights of the steps of an answer by their distance to the teacher."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from configs.term_weights import TermWeightsConfig
from objectives.divergence.steps import step_weights, steps_of
from tests.objectives.ragged_batch import divergence, make_batch, objective, three_turns

LOG_U = torch.tensor([0.2, -0.4, 0.6, -0.6, 0.1, 0.3, 0.6, -0.9, 0.2])
"""log policy / teacher of the explored tokens of `three_turns`."""


def test_steps_are_turns_and_a_single_turn_is_split_by_length() -> None:
    assert steps_of(three_turns(), 0).tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 3]
    assert steps_of(three_turns(), 3).tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 4]
    assert steps_of(three_turns(), 1).tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 6], "turns are not split"
    none = replace(three_turns(), mask=torch.zeros(13, dtype=torch.bool))
    assert steps_of(none, 2).tolist() == step_weights(none, LOG_U[:0], 1.2, 2).tolist() == []


def test_adjacent_answers_are_different_steps() -> None:
    batch = make_batch([("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3])])
    assert steps_of(batch, 0).tolist() == [0, 0, 1]


def test_the_weight_of_a_step_is_the_first_distance_over_its_own_up_to_the_limit() -> None:
    # d = .3, .6, .1: 1, 1/2, and 3 clipped to 1.2. The other answer, in steps of 2 tokens: d = .45, .55: 1, .818182
    expected = [1, 1, 0.5, 0.5, 1.2, 1, 1, 9 / 11, 9 / 11]
    assert step_weights(three_turns(), LOG_U, 1.2, 2).tolist() == pytest.approx(expected, abs=1e-5)
    assert step_weights(three_turns(), LOG_U, 5.0, 0).tolist() == pytest.approx(
        [1, 1, 0.5, 0.5, 3, 1, 1, 1, 1], abs=1e-4
    )


def test_the_weight_equals_the_running_product_of_the_paper() -> None:
    d, product = [0.3, 0.6, 0.1], [1.0]
    for before, now in pairwise(d):
        product.append(product[-1] * (before + 1e-6) / (now + 1e-6))
    found = step_weights(three_turns(), LOG_U, 9.0, 0)[[0, 2, 4]]
    assert found.tolist() == pytest.approx(product, rel=1e-5)


def test_steps_of_equal_distance_have_weight_1_and_those_of_distance_0_the_limit() -> None:
    assert step_weights(three_turns(), torch.full((9,), -0.4), 1.2, 2).tolist() == pytest.approx([1] * 9)
    small = torch.tensor([0.3, 0.3, 0, 0, 0, 0, 0, 0, 0])
    assert step_weights(three_turns(), small, 1.5, 0).tolist() == pytest.approx([1, 1, 1.5, 1.5, 1.5, 1, 1, 1, 1])


def test_settings_without_a_meaning_are_refused() -> None:
    with pytest.raises(ValueError, match=r"step_limit: must be at least 1, the weight of the first step, or 0"):
        TermWeightsConfig(step_limit=0.5)
    with pytest.raises(ValueError, match=r"^step_length: must not be negative, and 0 without a step_limit"):
        TermWeightsConfig(step_length=4)
    with pytest.raises(ValueError, match=r"weights\.step_limit: must be 0 for anchor 'old'"):
        chosen = TermWeightsConfig(step_limit=1.2)
        objective(
            terms={"divergence": divergence("reverse_kl", wiring="joint", estimator="k1", anchor="old", weights=chosen)}
        )
