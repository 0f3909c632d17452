"""The value and the slope that several estimators of an f-divergence share."""

from dataclasses import replace

import pytest
import torch

from objectives.divergence.estimators import sampled_value, slope
from objectives.divergence.wiring.rehearse import token_loss as rehearse_loss
from tests.objectives.divergence.formulas import CASES, ON_POLICY, SLOPE, U
from tests.objectives.divergence_settings import EXACT, NAMES, OLD, POLICY, REFERENCE
from tests.objectives.ragged_batch import divergence


@pytest.mark.parametrize("name", NAMES)
def test_the_value_reported_on_explored_tokens_is_unbiased_and_never_negative(name: str) -> None:
    value = sampled_value(divergence(name, estimator="straight_through"), POLICY.log(), REFERENCE.log())
    assert (value >= 0).all()
    assert float((POLICY * value).sum()) == pytest.approx(float(EXACT[name](POLICY, REFERENCE, 0.2)), abs=1e-12)


@pytest.mark.parametrize(("name", "alpha"), CASES)
def test_tokens_of_the_policy_an_older_policy_and_the_reference_estimate_one_value(name: str, alpha: float) -> None:
    expected = float(EXACT[name](POLICY, REFERENCE, alpha))
    explore = divergence(name, alpha=alpha, estimator="straight_through")
    rehearse = divergence(name, alpha=alpha, route="rehearse")
    explored = sampled_value(explore, POLICY.log(), REFERENCE.log())
    rehearsed = rehearse_loss(rehearse, POLICY.log(), REFERENCE.log())
    assert (explored >= 0).all() and (rehearsed >= 0).all()
    assert float((POLICY * explored).sum()) == pytest.approx(expected, abs=1e-12)
    assert float((OLD * (POLICY / OLD) * explored).sum()) == pytest.approx(expected, abs=1e-12)
    assert float((REFERENCE * rehearsed).sum()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("name", "alpha"), CASES)
def test_the_estimates_and_the_slope_equal_the_formulas_at_every_ratio(name: str, alpha: float) -> None:
    explore = divergence(name, alpha=alpha, estimator="straight_through")
    reward = divergence(name, alpha=alpha, wiring="reward", estimator="k1")
    rehearse = divergence(name, alpha=alpha, route="rehearse")
    zero = torch.zeros_like(U)
    per_sample, tangent = ON_POLICY[name](U, alpha), SLOPE[name](U, alpha)
    at_one = SLOPE[name](torch.ones(1, dtype=torch.float64), alpha)
    torch.testing.assert_close(sampled_value(explore, U.log(), zero), per_sample)
    torch.testing.assert_close(rehearse_loss(rehearse, U.log(), zero), U * per_sample)
    torch.testing.assert_close(slope(reward, U.log(), zero), tangent - at_one)
    torch.testing.assert_close(slope(replace(reward, normalised=True), U.log(), zero), tangent)
