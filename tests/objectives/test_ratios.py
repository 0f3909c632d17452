import math

import pytest
import torch

from configs.objective_schema import ClipConfig
from objectives.ratios import clipped_ratio, policy_gradient


def run(ratio: float, advantage: float, clip: ClipConfig) -> tuple[float, float, bool]:
    """Loss, its derivative by the log-prob, and whether it was clipped."""
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    value, clipped = clipped_ratio(logp, torch.zeros(1, dtype=torch.float64), torch.tensor([advantage]).double(), clip)
    (gradient,) = torch.autograd.grad(value.sum(), logp)
    return value.item(), gradient.item(), bool(clipped)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient", "clipped"),
    [
        (1.0, 1.0, -1.0, -1.0, False),
        (1.25, 1.0, -1.25, -1.25, False),  # inside the wider upper bound
        (1.5, 1.0, -1.28, 0.0, True),
        (0.5, 1.0, -0.5, -0.5, False),  # a move back towards the range keeps its gradient
        (0.5, -1.0, 0.8, 0.0, True),
        (1.5, -1.0, 1.5, 1.5, False),
        (4.0, -1.0, 3.0, 0.0, True),  # dual clip
        (4.0, 1.0, -1.28, 0.0, True),
    ],
)
def test_the_clipped_surrogate_has_ppos_value_and_gradient(
    ratio: float, advantage: float, value: float, gradient: float, clipped: bool
) -> None:
    got = run(ratio, advantage, ClipConfig(low=0.2, high=0.28, dual=3.0))
    assert got == (pytest.approx(value), pytest.approx(gradient), clipped)


def test_without_dual_clip_a_negative_advantage_is_not_bounded() -> None:
    assert run(4.0, -1.0, ClipConfig()) == (pytest.approx(4.0), pytest.approx(4.0), False)


def test_at_ratio_one_the_clipped_ratio_has_the_gradient_of_the_plain_policy_gradient() -> None:
    logp = torch.tensor([-0.3, -2.0, -1.0], requires_grad=True)
    advantage = torch.tensor([1.5, -0.5, 0.0])
    gradients = []
    for ratio in ("token", "none"):
        value, _ = policy_gradient(logp, logp.detach(), advantage, ratio, ClipConfig())
        gradients.append(torch.autograd.grad(value.sum(), logp)[0])
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("distance", [-1e4, 1e4])
def test_a_hopelessly_stale_token_stays_finite(distance: float) -> None:
    logp = torch.tensor([distance], requires_grad=True)
    value, _ = clipped_ratio(logp, torch.zeros(1), torch.tensor([-1.0]), ClipConfig())
    value.sum().backward()
    assert value.isfinite().all()
    assert logp.grad is not None and logp.grad.isfinite().all()
