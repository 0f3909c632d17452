"""`credit` and `loss` on whole objectives: old policy, ratios, advantages, terms, entropy bonus."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.coefficient import CoefficientConfig
from configs.load import presets
from configs.policy_gradient import ClipConfig
from objectives.credit import credit
from tests.objectives.equal_objectives import K2, loss_gradient, on_policy
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, state_of
from tests.objectives.random_answers import credited, random_batch, run, scores_of, weights

PRESETS = presets("method")


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("token_mean", 1.75), ("sequence_mean_token_mean", 2.0), ("sequence_mean_token_sum", 3.5)],
)
def test_supervised_training_is_the_forward_kl_on_rehearsed_answers_with_reference_log_probs_of_0(
    reduction: str, expected: float
) -> None:
    cfg = objective(
        terms={
            "divergence": divergence(
                "forward_kl", route="rehearse", estimator="k1", coefficient=CoefficientConfig(value=1.0)
            )
        },
        reduction=reduction,
    )
    batch = make_batch(
        [("rehearse", -1, None, [1, 2, 3]), ("rehearse", -1, None, [4])],
        logp_sampler=torch.zeros(4),
        logp_reference=torch.zeros(4),
    )
    value, stats = loss_of(torch.tensor([-1.0, -1.5, -2.0, -2.5], requires_grad=True), batch, cfg, 1.0)
    assert value.item() == expected
    assert stats["terms/divergence/value"].tolist() == [7.0, 4.0]


def test_the_denominator_of_the_ratio_is_the_sampler_or_the_learner_as_configured() -> None:
    logp, sampler, old = torch.tensor([-1.0]), torch.tensor([-1.1]), torch.tensor([-1.2])
    batch = make_batch([("explore", 0, 1.0, [1]), ("explore", 0, 0.0, [2])])
    batch = replace(batch.select([0]), logp_sampler=sampler, advantage=torch.ones(1))

    def ratio(old_policy: str, logp_old: Tensor | None) -> float:
        cfg = objective(old_policy=old_policy)
        return loss_of(logp, replace(batch, logp_old=logp_old), cfg)[1]["ratio"][0].item()

    assert ratio("sampler", old) == pytest.approx(math.exp(0.1))
    assert ratio("learner", old) == pytest.approx(math.exp(0.2))
    assert ratio("learner", None) == 1.0


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum"])
def test_on_policy_the_clipped_ratio_has_the_gradient_of_the_plain_policy_gradient(reduction: str) -> None:
    batch = random_batch()
    policy = weights()
    with torch.no_grad():
        batch = replace(batch, logp_sampler=scores_of(policy, batch, objective()).logp)
    gradients = []
    for choices in ({"ratio": "none"}, {"ratio": "token"}, {"ratio": "token", "clip": ClipConfig(high=0.28, dual=3.0)}):
        cfg = objective(reduction=reduction, **choices)
        gradients.append(run(policy, [credited(batch, cfg)], cfg)[1])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert torch.equal(gradients[2], gradients[1])


def test_the_gradient_of_leave_one_out_is_g_over_g_minus_one_times_that_of_mean_only() -> None:
    batch = random_batch(seed=4)
    batch = batch.select([i for i in range(16) if batch.group[i] != 2])  # group 2 has three graded answers
    rloo, mean = objective(advantage="leave_one_out"), objective(advantage="mean_only")
    first = run(weights(), [credited(batch, rloo)], rloo)[1]
    second = run(weights(), [credited(batch, mean)], mean)[1]
    # Clipping depends on the sign of the advantage only, so the factor remains.
    torch.testing.assert_close(first, second * 4 / 3)


def test_a_divergence_in_the_loss_adds_to_the_policy_gradient_of_the_explored_tokens() -> None:
    with_kl = objective(terms={"divergence": divergence("reverse_kl", estimator="k2")})
    batch = random_batch()
    base = run(weights(), [credit(batch, objective(), state_of())], objective())
    got = run(weights(), [credit(batch, with_kl, state_of(0.5))], with_kl, 0.5)
    explored = batch.on_route("explore")
    assert batch.logp_reference is not None
    log_u = scores_of(weights().detach(), batch, with_kl).logp[explored] - batch.logp_reference[explored]
    assert got[0] - base[0] == pytest.approx(0.5 * float(0.5 * log_u.square().mean()), abs=1e-6)
    assert got[2]["policy_loss"] == base[2]["policy_loss"]


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum"])
def test_on_policy_every_kind_of_ratio_and_clip_has_the_gradient_of_the_plain_policy_gradient(reduction: str) -> None:
    batch = on_policy(random_batch())
    plain = loss_gradient(objective(ratio="none", reduction=reduction), batch)
    for clip in ("ratio", "kl3", "cispo", "dppo", "sapo", "none"):
        cfg = objective(clip=ClipConfig(kind=clip), reduction=reduction)
        torch.testing.assert_close(loss_gradient(cfg, batch), plain, rtol=1e-5, atol=1e-6)
    # The sequence ratio averages the gradient over the answer, whose advantages are equal.
    for clip in ("ratio", "gmpo"):
        sequence = objective(ratio="sequence", clip=ClipConfig(kind=clip), reduction=reduction)
        torch.testing.assert_close(loss_gradient(sequence, batch), plain)


def test_two_equal_terms_have_the_loss_of_one_term_with_the_sum_of_their_coefficients() -> None:
    one = objective(terms={"divergence": K2})
    two = objective(terms={"divergence": K2, "again": K2})
    batch = random_batch()
    value, grad, stats = run(weights(), [credited(batch, two, 0.35)], two, 0.35)
    single = run(weights(), [credited(batch, one, 0.7)], one, 0.7)
    assert value == pytest.approx(single[0], abs=1e-6)
    torch.testing.assert_close(grad, single[1], rtol=1e-5, atol=1e-6)
    assert stats["terms/divergence/value"] == stats["terms/again/value"] == single[2]["terms/divergence/value"]


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean_token_mean"])
def test_the_entropy_bonus_has_the_gradient_of_the_mean_entropy(reduction: str) -> None:
    batch = random_batch()
    plain = objective(reduction=reduction)
    cfg = replace(plain, entropy_bonus=0.2)
    got = loss_gradient(cfg, batch) - loss_gradient(plain, batch)
    policy, explored = weights(), batch.on_route("explore")
    rows = policy[batch.tokens.roll(1)][explored].softmax(-1)
    entropy = -(rows * rows.log()).sum(-1)
    lengths = torch.bincount(batch.seq[explored])[batch.seq[explored]]
    weight = 1 / lengths / len(batch.seq[explored].unique()) if "sequence" in reduction else 1 / len(entropy)
    (expected,) = torch.autograd.grad(-0.2 * (weight * entropy).sum(), policy)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    # A step against this gradient raises the entropy of the policy.
    with torch.no_grad():
        stepped = (policy - 0.5 * got)[batch.tokens.roll(1)][explored].softmax(-1)
    assert -(stepped * stepped.log()).sum(-1).mean() > entropy.mean()
