"""Clips other than PPO's: the soft gate of SAPO, the geometric mean of GMPO, the trust region of DPPO."""

import math

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig
from objectives.policy_gradient.ratios import policy_gradient
from tests.objectives.ragged_batch import objective

SAPO = objective(clip=ClipConfig(kind="sapo"))
GMPO = objective(ratio="sequence", clip=ClipConfig(kind="gmpo", low=0.4, high=0.4))
DPPO = objective(clip=ClipConfig(kind="dppo", delta=0.15, high=19.0))
SEQ = torch.tensor([0, 0, 0, 1, 1])
OLD = torch.tensor([-0.3, -2.0, -1.0, -0.5, -6.0])


def run(cfg: ObjectiveConfig, ratios: list[float], advantage: list[float]) -> tuple[Tensor, Tensor, list[bool]]:
    """Return the token losses of two answers of 3 and 2 tokens, the gradient of the sum of their means by the
    log-probs, and where the clip acted."""
    logp = (OLD + torch.tensor(ratios).log()).requires_grad_()
    value, removed = policy_gradient(logp, OLD, torch.tensor(advantage), SEQ, cfg)
    (gradient,) = torch.autograd.grad(value[:3].mean() + value[3:].mean(), logp)
    return value.detach(), gradient, removed.tolist()


# SAPO, arXiv:2511.20347.


def test_the_soft_gate_has_the_value_and_gradient_of_the_sigmoid() -> None:
    value, gradient, removed = run(SAPO, [1.0, 1.5, 0.2, 0.5, 3.0], [2.0, 2.0, 2.0, -1.0, -1.0])
    # 4 sigmoid(rho - 1): 2, 4 * .622459, 4 * .310026; 4 / 1.05 sigmoid(1.05 (rho - 1)): 3.809524 * (.371684, .890903)
    assert value.tolist() == pytest.approx([-4.0, -4.979675, -2.480204, 1.415938, 3.393916], abs=1e-5)
    # 4 p (1 - p) rho A / |y|: p = .5, .622459, .310026 for A = 2; .371684, .890903 for A = -1
    expected = [-2 / 3, -0.940015 * 1.5 * 2 / 3, -0.855640 * 0.2 * 2 / 3, 0.934140 * 0.5 / 2, 0.388779 * 3 / 2]
    assert gradient.tolist() == pytest.approx(expected, abs=1e-5)
    assert removed == [False] * 5


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_slope_of_the_soft_gate_is_1_at_ratio_1_and_falls_on_both_sides(advantage: float) -> None:
    ratio = torch.linspace(0.0, 8.0, 801, dtype=torch.float64).clamp(min=1e-9)
    logp = ratio.log().requires_grad_()
    zeros = torch.zeros(801, dtype=torch.float64)
    value, _ = policy_gradient(logp, zeros, torch.full_like(zeros, advantage), torch.arange(801), SAPO)
    slope = torch.autograd.grad(value.sum(), logp)[0] / (-advantage * ratio)
    assert slope[100].item() == pytest.approx(1.0)
    assert (slope[:101].diff() > 0).all() and (slope[100:].diff() < 0).all()
    assert slope[-1] < 0.004


def test_the_larger_temperature_has_the_smaller_gradient_far_from_ratio_1() -> None:
    soft, hard = (objective(clip=ClipConfig(kind="sapo", temperature_positive=tau)) for tau in (1.0, 2.0))
    ratios, advantage = [1.0, 2.0, 4.0, 0.1, 0.5], [1.0] * 5
    first, second = run(soft, ratios, advantage)[1], run(hard, ratios, advantage)[1]
    assert second[0] == first[0]
    assert (second[1:].abs() < first[1:].abs()).all()


# GMPO, arXiv:2507.20673.


def test_the_geometric_mean_is_of_token_ratios_clipped_by_the_sign_of_the_advantage() -> None:
    value, gradient, removed = run(GMPO, [2.0, 0.5, 1.1, 0.5, 1.8], [3.0, 3.0, 3.0, -2.0, -2.0])
    # (.4 - .693147 + .095310) / 3 = -.065946 -> .936182; (-.4 + .587787) / 2 = .093893 -> 1.098443
    first, second = 0.936182, 1.098443
    assert value.tolist() == pytest.approx([-3 * first] * 3 + [2 * second] * 2, abs=1e-5)
    # d s / d log pi = s / |y|, and 0 for the clipped tokens
    assert gradient.tolist() == pytest.approx([0, -first, -first, 0, second], abs=1e-5)
    assert removed == [True, False, False, True, False]


def test_without_a_clip_in_reach_the_geometric_mean_is_that_of_the_unclipped_sequence_ratio() -> None:
    ratios, advantage = [1.2, 0.9, 1.3, 0.7, 1.1], [1.0, 1.0, 1.0, -1.0, -1.0]
    plain = objective(ratio="sequence", clip=ClipConfig(kind="none"))
    for found, expected in zip(run(GMPO, ratios, advantage)[:2], run(plain, ratios, advantage)[:2], strict=True):
        torch.testing.assert_close(found, expected)


def test_on_answers_of_one_token_gmpo_is_ppos_clip_between_its_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    logp, advantage = torch.randn(2, 500, generator=generator, dtype=torch.float64)
    low, high = 1 - math.exp(-0.4), math.exp(0.4) - 1
    results = []
    for cfg in (GMPO, objective(clip=ClipConfig(low=low, high=high))):
        leaf = logp.clone().requires_grad_()
        value, removed = policy_gradient(leaf, torch.zeros_like(logp), advantage, torch.arange(500), cfg)
        results.append((value.detach(), torch.autograd.grad(value.sum(), leaf)[0], removed))
    torch.testing.assert_close(results[0], results[1])
    assert 0 < int(results[0][2].sum()) < 500


# DPPO, arXiv:2602.04879.


def test_a_token_whose_probability_has_moved_too_far_along_its_advantage_has_no_gradient() -> None:
    # Old probabilities .740818, .135335, .367879, .606531, .002479; moves .148164 and -.148164 are inside .15,
    # .2207 is outside along A and -.2426 against it; .0099 is the rare token of ratio 5.
    value, gradient, removed = run(DPPO, [1.2, 1.2, 1.6, 0.6, 5.0], [1.0, 1.0, 1.0, 1.0, 1.0])
    logp = (OLD + torch.tensor([1.2, 1.2, 1.6, 0.6, 5.0]).log()).tolist()
    assert removed == [False, False, True, False, False]
    assert gradient.tolist() == pytest.approx([-1.2 / 3, -1.2 / 3, 0.0, -0.6 / 2, -5.0 / 2])
    assert value.tolist() == pytest.approx([-1.2 * logp[0], -1.2 * logp[1], 0.0, -0.6 * logp[3], -5.0 * logp[4]])
    _, gradient, removed = run(DPPO, [0.8, 1.2, 1.6, 0.6, 5.0], [-1.0] * 5)
    assert removed == [False, False, False, True, False]
    assert gradient.tolist() == pytest.approx([0.8 / 3, 1.2 / 3, 1.6 / 3, 0.0, 5.0 / 2])


def test_the_weight_of_a_rare_token_is_bounded_and_the_token_keeps_its_gradient() -> None:
    _, gradient, removed = run(DPPO, [1.0, 1.0, 1.0, 1.0, 50.0], [1.0, 1.0, 1.0, 1.0, 1.0])
    assert gradient[4].item() == pytest.approx(-20.0 / 2)  # .002479 * 50 = .123938
    assert removed == [False] * 5


def test_dppo_masks_likely_tokens_that_ppo_keeps_and_keeps_rare_ones_that_ppo_clips() -> None:
    old, new = torch.tensor([0.99, 0.001]).log(), torch.tensor([0.80, 0.0005]).log()
    answers, down = torch.arange(2), torch.full((2,), -1.0)
    _, ppo = policy_gradient(new, old, down, answers, objective())
    _, dppo = policy_gradient(new, old, down, answers, DPPO)
    assert (ppo.tolist(), dppo.tolist()) == ([False, True], [True, False])


@pytest.mark.parametrize("cfg", [SAPO, GMPO, DPPO], ids=["sapo", "gmpo", "dppo"])
@pytest.mark.parametrize("distance", [-1e4, 1e4])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_loss_and_gradient_of_a_very_stale_token_are_finite(
    cfg: ObjectiveConfig, distance: float, advantage: float
) -> None:
    logp = torch.tensor([min(distance, 0.0)], requires_grad=True)
    old = torch.tensor([min(-distance, 0.0)])
    value, _ = policy_gradient(logp, old, torch.tensor([advantage]), torch.zeros(1).long(), cfg)
    value.sum().backward()
    assert value.isfinite().all()
    assert logp.grad is not None and logp.grad.isfinite().all()
