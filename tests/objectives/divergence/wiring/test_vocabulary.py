"""Vocabulary wiring: value and gradient are exact over the whole vocabulary."""

import pytest
import torch

from objectives.divergence.distributions import vocabulary_values
from tests.objectives.divergence.formulas import CASES
from tests.objectives.divergence_settings import EXACT, POLICY, REFERENCE, exact_gradient
from tests.objectives.ragged_batch import divergence


@pytest.mark.parametrize(("name", "alpha"), CASES)
def test_value_and_gradient_are_exact_for_every_divergence(name: str, alpha: float) -> None:
    cfg = divergence(name, alpha=alpha, wiring="vocabulary", estimator="exact")
    logits = POLICY.log().requires_grad_()
    # A constant added to all logits of a row changes nothing.
    value = vocabulary_values(cfg, logits[None] + 3, REFERENCE.log()[None] - 2, torch.tensor([0]))
    assert value.item() == pytest.approx(float(EXACT[name](POLICY, REFERENCE, alpha)), abs=1e-12)
    torch.testing.assert_close(torch.autograd.grad(value.sum(), logits)[0], exact_gradient(name, alpha=alpha))
