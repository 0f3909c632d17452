"""SAFE: PPO with a KL whose coefficient follows the smoothed KL, entropy and reward, with and without a critic."""

import pytest

from configs.load import load
from objectives.wording import describe_policy_gradient
from tests.objectives.presets.golden_batch import golden_loss
from tests.objectives.random_answers import of

PAPERS = {
    "safe": "2602.04651",
    "safe_critic": "2602.04651",
}


def test_safe_is_ppo_plus_k2_minus_an_entropy_bonus() -> None:
    # The entropies sum to 2.9.
    expected = 0.221317 + 0.5 * 0.211667 - 0.01 * 2.9 / 6
    assert golden_loss(of("safe"), 0.5) == pytest.approx(expected, abs=2e-6)


def test_the_description_of_safe_critic_names_its_value_heads_and_where_they_are_computed() -> None:
    words = describe_policy_gradient(load(["method=safe_critic"]).objective)
    assert (
        "2 value heads computed at an answer's end: the part of the reward that it predicts is no longer trained on"
        in words
    )
