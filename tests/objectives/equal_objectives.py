"""Compare two objectives by loss and gradient: with its distinguishing part turned off, a method is another method."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from tests.objectives.ragged_batch import divergence, objective
from tests.objectives.random_answers import COEFFICIENT, batch_for, credited, run, scores_of, weights
from trajectories.batch import Batch

K3 = divergence("reverse_kl", estimator="k3")
K2 = divergence("reverse_kl", estimator="k2")
MEANS = {"reduction": "sequence_mean_token_mean"}


def on_policy(batch: Batch) -> Batch:
    """Return the batch as if the policy of these tests had sampled it: every ratio is 1."""
    return replace(batch, logp_sampler=scores_of(weights(), batch, objective()).logp.detach())


def assert_equal_objectives(
    one: ObjectiveConfig, other: ObjectiveConfig, coefficient: float = COEFFICIENT, batch: Batch | None = None
) -> None:
    """Assert that two objectives have the same loss and gradient, and that the gradient is not 0."""
    whole = batch_for(one) if batch is None else batch
    first, second = (run(weights(), [credited(whole, cfg, coefficient)], cfg, coefficient) for cfg in (one, other))
    assert first[0] == pytest.approx(second[0], abs=1e-6)
    torch.testing.assert_close(first[1], second[1], rtol=1e-5, atol=1e-6)
    assert first[1].abs().max() > 1e-3


def loss_gradient(cfg: ObjectiveConfig, batch: Batch) -> Tensor:
    """Return the gradient of a batch's loss by the logits of the policy [V, V]."""
    return run(weights(), [credited(batch, cfg)], cfg)[1]
