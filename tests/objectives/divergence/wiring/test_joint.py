"""Joint wiring: the detached slope under the current policy is subtracted from the advantage.

The clip of reward and divergence together is tested in `tests/objectives/presets/test_rpg.py`.
"""

import pytest
import torch

from configs.terms import TermConfig
from tests.objectives.divergence_settings import (
    COEFFICIENT,
    OLD,
    POLICY,
    anchor_of,
    estimated_gradient,
    exact_gradient,
    label,
    settings,
)


@pytest.mark.parametrize("cfg", [c for c in settings(every_alpha=True) if c.wiring == "joint"], ids=label)
def test_the_joint_wiring_has_the_exact_gradient_on_answers_of_an_older_policy(cfg: TermConfig) -> None:
    expected = exact_gradient(cfg.name, POLICY, anchor_of(cfg, OLD), cfg.alpha)
    torch.testing.assert_close(estimated_gradient(cfg, OLD), COEFFICIENT * expected, rtol=1e-5, atol=2e-7)
