"""RPG: the regularised policy gradient in REINFORCE form (joint wiring) and differentiable form (ratio-weighted loss).

`RPG` holds the table of the paper's section 1.2: the weights W of grad J = E_old[W grad log pi], for a reference that
differs from the sampling policy. w = pi / pi_old, u = pi / pi_ref, v = pi_ref / pi_old; with pi_ref = pi_old, u = w and
v = 1.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig
from objectives.credit import credit
from tests.objectives.divergence_settings import OLD, POLICY, REFERENCE, exact_gradient
from tests.objectives.equal_objectives import assert_equal_objectives
from tests.objectives.presets.golden_batch import SAMPLER, golden_loss
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, state_of
from tests.objectives.random_answers import of

PAPERS = {"rpg": "2505.17508"}


def test_rpg_has_one_clip_for_reward_and_divergence() -> None:
    # beta .1: A' = .666667, .626120, -.264019, -.333333, -.322797, -.471963
    # .666667 + 1.28 * .626120 - .8 * .264019 - .333333 - .9 * .322797 - 4 * .471963 = -1.254816
    assert golden_loss(of("rpg"), 0.1) == pytest.approx(1.254816 / 6, abs=2e-6)


def test_rpg_without_its_divergence_is_the_dual_clip_on_mean_only_advantages() -> None:
    clip = ClipConfig(high=0.28, dual=10.0)
    assert_equal_objectives(of("rpg"), objective(advantage="mean_only", clip=clip), coefficient=0.0)


BETA = 0.3


Weight = Callable[[Tensor, Tensor, Tensor], Tensor]
RPG: dict[str, tuple[str, bool, Weight]] = {
    "FKL": ("forward_kl", True, lambda w, u, v: v),
    "UFKL": ("forward_kl", False, lambda w, u, v: -(w - v)),
    "RKL": ("reverse_kl", True, lambda w, u, v: -w * (u.log() + 1)),
    "URKL": ("reverse_kl", False, lambda w, u, v: -w * u.log()),
}
W = torch.tensor([1.0, 0.3, 2.5, 0.9, 1.4, 7.0])
V = torch.tensor([1.0, 1.5, 0.4, 0.7, 2.0, 3.0])
REWARD = torch.tensor([0.5, -1.0, 2.0, 0.0, 0.7, -0.2])


def rpg(kind: str, form: str, anchor: str, **choices: object) -> ObjectiveConfig:
    name, normalised, _ = RPG[kind]
    wiring = {"wiring": "joint", "estimator": "k1"} if form == "reinforce" else {"estimator": "ratio_weighted"}
    term = divergence(name, anchor=anchor, normalised=normalised, **wiring)
    return objective(terms={"divergence": term}, advantage="mean_only", **({"clip": ClipConfig(kind="none")} | choices))


def weight_of(cfg: ObjectiveConfig, reward: Tensor = REWARD, w: Tensor = W, beta: float = BETA) -> Tensor:
    """Return -d loss / d log pi of each token, times the number of tokens, which undoes the token mean."""
    reference = SAMPLER[: len(w)] + V[: len(w)].log()
    batch = make_batch(
        [("explore", 0, 0.0, [token]) for token in range(len(w))],
        logp_sampler=SAMPLER[: len(w)],
        logp_reference=reference,
    )
    logp = (SAMPLER[: len(w)] + w.log()).requires_grad_()
    value, _ = loss_of(logp, replace(credit(batch, cfg, state_of(beta)), advantage=reward), cfg, beta)
    return -len(w) * torch.autograd.grad(value, logp)[0]


@pytest.mark.parametrize("form", ["reinforce", "differentiable"])
@pytest.mark.parametrize("kind", RPG)
def test_the_gradient_of_each_token_has_the_weight_of_the_table_for_both_references(kind: str, form: str) -> None:
    expected = RPG[kind][2]
    of_old = weight_of(rpg(kind, form, "old"))
    torch.testing.assert_close(of_old, W * REWARD + BETA * expected(W, W, torch.ones_like(W)), rtol=1e-4, atol=1e-5)
    of_reference = weight_of(rpg(kind, form, "reference"))
    torch.testing.assert_close(of_reference, W * REWARD + BETA * expected(W, W / V, V), rtol=1e-4, atol=1e-5)


def test_at_ratio_1_the_weights_of_the_kl_are_the_constants_of_the_paper() -> None:
    one = torch.ones(3)
    for kind, expected in (("FKL", BETA), ("RKL", -BETA), ("UFKL", 0.0), ("URKL", 0.0)):
        for form in ("reinforce", "differentiable"):
            got = weight_of(rpg(kind, form, "old"), reward=torch.zeros(3), w=one)
            assert got.tolist() == pytest.approx([expected] * 3, abs=1e-6), (kind, form)


def test_the_forward_kl_without_a_reward_is_maximum_likelihood_on_the_sampled_answers() -> None:
    for form in ("reinforce", "differentiable"):
        got = weight_of(rpg("FKL", form, "old"), reward=torch.zeros(6))
        assert got.tolist() == pytest.approx([BETA] * 6, abs=1e-5)


@pytest.mark.parametrize("kind", RPG)
def test_the_weights_of_the_table_give_the_gradient_of_reward_minus_divergence_on_answers_of_an_older_policy(
    kind: str,
) -> None:
    name, _, weight = RPG[kind]
    reward = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    for anchor in (OLD, REFERENCE):
        logits = POLICY.log().requires_grad_()
        (of_reward,) = torch.autograd.grad((logits.softmax(0) * reward).sum(), logits)
        expected = of_reward - BETA * exact_gradient(name, POLICY, anchor)
        w, u, v = POLICY / OLD, POLICY / anchor, anchor / OLD
        each = OLD * (w * reward + BETA * weight(w, u, v))
        got = each - POLICY * each.sum()  # grad log pi(a) by the logits is e_a - pi
        torch.testing.assert_close(got, expected)


def clipped_as_in_the_paper(kind: str, w: Tensor, reward: Tensor, logp: Tensor, clip: ClipConfig) -> Tensor:
    """Return the surrogate of the paper's variant B, which branches on the sign of psi = A' * (-log pi)."""
    assert clip.dual is not None
    correction = {"FKL": torch.ones_like(w), "UFKL": 1 - w, "RKL": -w * (w.log() + 1), "URKL": -w * w.log()}[kind]
    psi = (reward + BETA * correction / w) * -logp
    keep = torch.where(psi >= 0, w < 1 + clip.high, (w > 1 - clip.low) & (w < clip.dual))
    return (w * psi / logp * keep).detach() * logp


@pytest.mark.parametrize("kind", RPG)
def test_the_clip_of_the_paper_is_the_dual_clip_of_the_joint_advantage(kind: str) -> None:
    clip = ClipConfig(low=0.2, high=0.28, dual=3.0)
    w = torch.tensor([1.0, 0.3, 2.5, 0.9, 1.25, 7.0])
    for sign in (1.0, -1.0):
        logp = (SAMPLER + w.log()).requires_grad_()
        expected = -torch.autograd.grad(clipped_as_in_the_paper(kind, w, sign * REWARD, logp, clip).sum(), logp)[0]
        got = weight_of(rpg(kind, "reinforce", "old", clip=clip), sign * REWARD, w)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
        assert (got == 0).any() and (got != 0).any()


def test_with_coefficient_0_the_clip_is_ppos_dual_clip() -> None:
    clip = ClipConfig(low=0.2, high=0.28, dual=10.0)
    ppo = objective(clip=clip, advantage="mean_only")
    torch.testing.assert_close(weight_of(rpg("URKL", "reinforce", "old", clip=clip), beta=0.0), weight_of(ppo))
    on_policy = weight_of(rpg("URKL", "reinforce", "old", clip=clip), w=torch.ones(6), beta=0.0)
    assert on_policy.tolist() == pytest.approx(REWARD.tolist())
