"""Weights of the loss aggregation, per token of a route."""

import pytest
import torch

from objectives.reduce import reduction_weights
from tests.objectives.ragged_batch import make_batch
from trajectories.split import partition

BATCH = make_batch(
    [
        ("explore", 0, 1.0, [1, 2, 3]),
        ("explore", 0, 0.0, [4]),
        ("explore", 0, None, [5, 6]),  # no reward: not trained on and not counted
        ("rehearse", -1, None, [7, 8]),
    ]
)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("token_mean", [1 / 4, 1 / 4, 1 / 4, 1 / 4]),
        ("sequence_mean_token_mean", [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        ("sequence_mean_token_sum", [1 / 2, 1 / 2, 1 / 2, 1 / 2]),
        ("constant", [1 / 20, 1 / 20, 1 / 20, 1 / 20]),
    ],
)
def test_each_reduction_has_the_weights_of_its_paper(reduction: str, expected: list[float]) -> None:
    weights = reduction_weights(BATCH, "explore", reduction, constant_length=10)
    assert weights.tolist() == pytest.approx([*expected, 0, 0, 0, 0])


def test_the_rehearsed_route_has_its_own_denominator() -> None:
    assert reduction_weights(BATCH, "rehearse", "token_mean").tolist() == pytest.approx([0] * 6 + [1 / 2, 1 / 2])


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant"])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_weights_of_microbatches_are_those_of_the_whole_batch(reduction: str, ranks: int) -> None:
    token_loss = torch.arange(1.0, 9.0)  # found by the token id, which is the position plus one
    for route in ("explore", "rehearse"):
        whole = (reduction_weights(BATCH, route, reduction, 10) * token_loss).sum()
        parts = [part for rank in partition(BATCH, ranks, token_budget=3) for part in rank]
        assert len(parts) > 1
        summed = sum((reduction_weights(p, route, reduction, 10) * token_loss[p.tokens - 1]).sum() for p in parts)
        torch.testing.assert_close(summed, whole)


def test_a_route_without_tokens_has_weights_of_0() -> None:
    batch = make_batch([("explore", 0, 1.0, [1, 2])])
    assert reduction_weights(batch, "rehearse", "token_mean").tolist() == [0.0, 0.0]
