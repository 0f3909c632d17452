"""Importance ratios and clipping of the policy gradient, per token and per sequence."""

import math

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig
from objectives.policy_gradient.clip_range import kl3_bounds
from objectives.policy_gradient.ratios import clipped, policy_gradient, ratio_of, sequence_ratio
from tests.objectives.ragged_batch import objective


def run(ratio: float, advantage: float, clip: ClipConfig) -> tuple[float, float, bool]:
    """Return the loss, its derivative by the log-prob, and whether the clip removed the gradient."""
    logp = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    current = ratio_of(logp, torch.zeros(1, dtype=torch.float64))
    value, removed = clipped(current, torch.tensor([advantage]).double(), clip)
    (gradient,) = torch.autograd.grad(value.sum(), logp)
    return value.item(), gradient.item(), bool(removed)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "gradient", "clipped"),
    [
        (1.0, 1.0, -1.0, -1.0, False),
        (1.25, 1.0, -1.25, -1.25, False),  # below the upper bound
        (1.5, 1.0, -1.28, 0.0, True),
        (0.5, 1.0, -0.5, -0.5, False),  # below the range, but the gradient points back into it
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
        value, _ = policy_gradient(logp, logp.detach(), advantage, torch.zeros(3).long(), objective(ratio=ratio))
        gradients.append(torch.autograd.grad(value.sum(), logp)[0])
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("distance", [-1e4, 1e4])
def test_the_loss_and_gradient_of_a_very_stale_token_are_finite(distance: float) -> None:
    logp = torch.tensor([distance], requires_grad=True)
    value, _ = clipped(ratio_of(logp, torch.zeros(1)), torch.tensor([-1.0]), ClipConfig())
    value.sum().backward()
    assert value.isfinite().all()
    assert logp.grad is not None and logp.grad.isfinite().all()


# ATR-GRPO, arXiv:2602.05494: the clip where rho - 1 - log rho reaches delta.


@pytest.mark.parametrize(
    ("delta", "low", "high"),
    [
        (0.005, 0.90331, 1.10336),
        (0.01, 0.86517, 1.14817),
        (0.02, 0.81311, 1.21355),
        (0.023144, 0.80000, 1.23084),
        (0.03, 0.77463, 1.26534),
        (0.033140, 0.76415, 1.28000),
        (0.05, 0.71619, 1.35040),
        (0.1, 0.61682, 1.51622),
    ],
)
def test_the_bounds_of_kl3_have_the_numbers_of_the_table(delta: float, low: float, high: float) -> None:
    assert kl3_bounds(delta) == pytest.approx((low, high), abs=6e-6)
    found = kl3_bounds(delta)
    assert [rho - 1 - math.log(rho) for rho in found] == pytest.approx([delta] * 2, abs=1e-14)
    assert found[1] - 1 > 1 - found[0]


def test_the_bounds_of_kl3_at_small_delta_follow_their_expansion() -> None:
    assert kl3_bounds(1e-6) == pytest.approx((1 - math.sqrt(2e-6) + 2e-6 / 3, 1 + math.sqrt(2e-6) + 2e-6 / 3), abs=1e-9)


@pytest.mark.parametrize("delta", [1e-3, 0.03, 0.7, 5.0])
def test_the_bounds_of_kl3_mask_the_same_tokens_as_its_condition(delta: float) -> None:
    generator = torch.Generator().manual_seed(0)
    ratio = torch.randn(4000, generator=generator).mul(1.5).exp().double()
    advantage = torch.randn(4000, generator=generator).double()
    feasible = ratio - 1 - ratio.log() <= delta
    away = (ratio - 1) * advantage > 0
    _, removed = clipped(ratio, advantage, ClipConfig(kind="kl3", delta=delta))
    assert torch.equal(removed, ~feasible & away)
    assert removed.any() and (~feasible & ~removed).any()


def test_kl3_clips_like_ppo_between_its_own_bounds() -> None:
    clip = ClipConfig(kind="kl3", delta=0.03)
    low, high = kl3_bounds(0.03)
    assert run(1.3, 1.0, clip) == (pytest.approx(-high), 0.0, True)
    assert run(0.5, 1.0, clip) == (pytest.approx(-0.5), pytest.approx(-0.5), False)
    assert run(0.5, -1.0, clip) == (pytest.approx(low), 0.0, True)
    assert run(1.3, -1.0, clip) == (pytest.approx(1.3), pytest.approx(1.3), False)
    assert run(1e3, 1.0, ClipConfig(kind="kl3", delta=1e4))[1] == pytest.approx(-1e3), "bounds far from 1 never clip"


# GSPO, arXiv:2507.18071, and CISPO, arXiv:2506.13585.

SEQ = torch.tensor([0, 0, 0, 1])
RATIOS = torch.tensor([1.2, 0.9, 1.5, 0.7])


def gradient(cfg: ObjectiveConfig, advantage: Tensor, ratios: Tensor = RATIOS, seq: Tensor = SEQ) -> Tensor:
    old = torch.tensor([-0.3, -2.0, -1.0, -0.5])
    logp = (old + ratios.log()).requires_grad_()
    value, _ = policy_gradient(logp, old, advantage, seq, cfg)
    return torch.autograd.grad(value.sum(), logp)[0]


def test_the_sequence_ratio_is_the_geometric_mean_of_the_token_ratios() -> None:
    found = sequence_ratio(RATIOS.log(), torch.zeros(4), SEQ)
    assert found.tolist() == pytest.approx([1.62 ** (1 / 3)] * 3 + [0.7])
    assert sequence_ratio(torch.full((3,), 1.3).log(), torch.zeros(3), SEQ[:3]).tolist() == pytest.approx([1.3] * 3)
    assert sequence_ratio(RATIOS[:0], RATIOS[:0], SEQ[:0]).tolist() == []


def test_gspo_has_the_value_and_gradient_of_the_sequence_ratio() -> None:
    cfg = objective(ratio="sequence", clip=ClipConfig(low=0.0003, high=0.2))
    old, advantage = torch.zeros(4), torch.tensor([2.0, 2.0, 2.0, -1.0])
    logp = RATIOS.log().requires_grad_()
    value, removed = policy_gradient(logp, old, advantage, SEQ, cfg)
    means = torch.stack([value[:3].mean(), value[3]])
    # s = 1.174460 inside [0.9997, 1.2]; 0.7 is clipped, as its advantage is negative
    assert means.tolist() == pytest.approx([-2 * 1.174460, 0.9997], abs=1e-5)
    assert removed.tolist() == [False, False, False, True]
    # d s / d log pi_t = s / |y|
    (found,) = torch.autograd.grad(means.sum(), logp)
    assert found.tolist() == pytest.approx([-2 * 1.174460 / 3] * 3 + [0.0], abs=1e-5)


def test_on_answers_of_one_token_gspo_is_the_token_ratio() -> None:
    advantage, alone = torch.tensor([1.0, -1.0, 0.5, -0.5]), torch.arange(4)
    sequence = gradient(objective(ratio="sequence"), advantage, seq=alone)
    torch.testing.assert_close(sequence, gradient(objective(), advantage, seq=alone))


def test_cispo_clips_the_weight_and_keeps_the_gradient_of_every_token() -> None:
    cfg = objective(clip=ClipConfig(kind="cispo", low=0.2, high=0.28))
    advantage = torch.tensor([1.0, -1.0, 2.0, 3.0])
    got = gradient(cfg, advantage)
    assert got.tolist() == pytest.approx([-1.2, 0.9, -2 * 1.28, -3 * 0.8])
    _, weight_clipped = policy_gradient(RATIOS.log(), torch.zeros(4), advantage, SEQ, cfg)
    assert weight_clipped.tolist() == [False, False, True, True]
    no_lower_bound = objective(clip=ClipConfig(kind="cispo", low=1.0, high=0.2))
    assert gradient(no_lower_bound, torch.ones(4), torch.tensor([1e-6, 0.5, 1.1, 9.0])).tolist() == pytest.approx(
        [-1e-6, -0.5, -1.1, -1.2], rel=1e-4
    )


def test_the_detached_ratio_under_the_mask_of_ppos_clip_has_ppos_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    ratio, advantage = torch.randn(999, generator=generator).exp(), torch.randn(999, generator=generator)
    mask = ~(((advantage > 0) & (ratio > 1.28)) | ((advantage < 0) & (ratio < 0.8)))
    logp = ratio.log().requires_grad_()
    masked = -(ratio * advantage * mask) * logp
    ppo, _ = policy_gradient(
        logp, torch.zeros(999), advantage, torch.arange(999), objective(clip=ClipConfig(high=0.28))
    )
    expected = torch.autograd.grad(ppo.sum(), logp)[0]
    torch.testing.assert_close(torch.autograd.grad(masked.sum(), logp)[0], expected)
    assert 0 < int((~mask).sum()) < 999


def test_without_a_clip_the_gradient_has_the_full_ratio() -> None:
    advantage = torch.tensor([1.0, -1.0, 2.0, 3.0])
    got = gradient(objective(clip=ClipConfig(kind="none")), advantage, torch.tensor([9.0, 0.01, 1.0, 3.0]))
    assert got.tolist() == pytest.approx([-9.0, 0.01, -2.0, -9.0])
