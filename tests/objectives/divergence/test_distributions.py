"""Divergences between whole distributions that are not f-divergences: BD-KD's mixed KL and PLD's Plackett-Luce loss."""

import pytest
import torch
from torch import Tensor

from objectives.divergence.distributions import mixed_kl, plackett_luce
from tests.objectives.divergence_settings import POLICY, REFERENCE, kl

TEACHER = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
STUDENT = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
DRAWN = torch.zeros(1, dtype=torch.long)


def mixed(policy: Tensor, teacher: Tensor, sharpness: float) -> float:
    return mixed_kl(policy.log()[None], teacher.log()[None], sharpness).item()


def test_the_mixed_kl_weights_both_kls_by_the_difference_of_the_entropies() -> None:
    # H = .801819 and 1.029653, so g = sigmoid(-.227834 / .5) = .388014 and
    # .611986 * .0920328 + .388014 * .0851228 = .0893516.
    assert mixed(POLICY, REFERENCE, 0.5) == pytest.approx(0.0893516, abs=1e-6)
    # With the roles exchanged g = sigmoid(.455668) = .611986: .388014 * .0851228 + .611986 * .0920328.
    assert mixed(REFERENCE, POLICY, 0.5) == pytest.approx(0.0893516, abs=1e-6)


def test_the_mixed_kl_is_the_forward_kl_of_a_sharper_student_the_reverse_of_a_flatter_one_or_their_mean() -> None:
    assert mixed(POLICY, REFERENCE, 1e-3) == pytest.approx(kl(REFERENCE, POLICY).item())
    assert mixed(REFERENCE, POLICY, 1e-3) == pytest.approx(kl(REFERENCE, POLICY).item())
    jeffreys = kl(POLICY, REFERENCE) + kl(REFERENCE, POLICY)
    assert mixed(POLICY, REFERENCE, 1e6) == pytest.approx(jeffreys.item() / 2, rel=1e-5)


def test_plackett_luce_is_convex_in_the_logits_and_invariant_to_a_constant() -> None:
    torch.testing.assert_close(plackett_luce(STUDENT + 7, TEACHER), plackett_luce(STUDENT, TEACHER))
    hessian = torch.autograd.functional.hessian(lambda s: plackett_luce(s[None], TEACHER).sum(), STUDENT[0])
    assert torch.linalg.eigvalsh(hessian).min() > -1e-12


def test_plackett_luce_is_cross_entropy_for_a_certain_teacher_and_list_likelihood_for_a_uniform_one() -> None:
    certain = torch.tensor([[80.0, 1.0, 0.0]], dtype=torch.float64)
    assert plackett_luce(STUDENT, certain).item() == pytest.approx(-STUDENT.log_softmax(-1)[0, 0].item())
    uniform = torch.tensor([[2e-9, 1e-9, 0.0]], dtype=torch.float64)  # almost equal, in this order
    assert plackett_luce(STUDENT, uniform).item() == pytest.approx((1.551445 + 0.313262) / 3, abs=1e-6)


def test_plackett_luce_falls_when_the_student_has_the_order_of_the_teacher() -> None:
    logits = STUDENT.clone().requires_grad_()
    slope = torch.autograd.grad(plackett_luce(logits, TEACHER).sum(), logits)[0][0]
    assert slope[0] < 0 and slope[2] > 0
    assert plackett_luce(TEACHER, TEACHER) < plackett_luce(STUDENT, TEACHER)
