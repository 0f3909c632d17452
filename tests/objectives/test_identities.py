"""Identities between methods: with what sets it apart turned off, one method is another."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.objective import ClipConfig, MismatchConfig, ObjectiveConfig, OverlongConfig
from objectives.diagnostics import means
from objectives.objective import loss
from tests.objectives.divergence_settings import OLD, POLICY, REFERENCE, kl
from tests.objectives.ragged_batch import divergence, make_batch, objective, scores
from tests.objectives.random_answers import (
    COEFFICIENT,
    VOCABULARY,
    batch_for,
    credited,
    of,
    random_batch,
    run,
    scores_of,
    weights,
)
from trajectories.batch import Batch

K3 = divergence("reverse_kl", estimator="k3")
K2 = divergence("reverse_kl", estimator="k2")
MEANS = {"reduction": "sequence_mean_token_mean"}


def on_policy(batch: Batch) -> Batch:
    """As if the policy of these tests had drawn it: every ratio is 1."""
    return replace(batch, logp_sampler=scores_of(weights(), batch, objective()).logp.detach())


def same(
    one: ObjectiveConfig, other: ObjectiveConfig, coefficient: float = COEFFICIENT, batch: Batch | None = None
) -> None:
    """Assert that two objectives have the same loss and gradient, and one that is not 0."""
    whole = batch_for(one) if batch is None else batch
    first, second = (run(weights(), [credited(whole, cfg, coefficient)], cfg, coefficient) for cfg in (one, other))
    assert first[0] == pytest.approx(second[0], abs=1e-6)
    torch.testing.assert_close(first[1], second[1], rtol=1e-5, atol=1e-6)
    assert first[1].abs().max() > 1e-3


def gradient(cfg: ObjectiveConfig, batch: Batch) -> Tensor:
    return run(weights(), [credited(batch, cfg)], cfg)[1]


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum"])
def test_on_policy_every_ratio_and_clip_has_the_gradient_of_the_plain_policy_gradient(reduction: str) -> None:
    batch = on_policy(random_batch())
    plain = gradient(objective(ratio="none", reduction=reduction), batch)
    for clip in ("ratio", "kl3", "cispo", "none"):
        cfg = objective(clip=ClipConfig(kind=clip), reduction=reduction)
        torch.testing.assert_close(gradient(cfg, batch), plain, rtol=1e-5, atol=1e-6)
    # The answer's ratio spreads each gradient over the answer; the same where advantages are constant over it.
    torch.testing.assert_close(gradient(objective(ratio="sequence", reduction=reduction), batch), plain)


def test_one_token_answers_make_gspo_grpo() -> None:
    answers = [("explore", i // 4, float(i % 3 == 0), [i % VOCABULARY]) for i in range(16)]
    batch = make_batch(answers, prompt_length=1)
    logp = scores_of(weights(), batch, objective()).logp.detach()
    noise = torch.randn(len(logp), generator=torch.Generator().manual_seed(0)).mul(0.3)
    batch = replace(batch, logp_sampler=torch.where(batch.mask, logp + noise, 0.0))
    clip = ClipConfig(low=0.0003, high=0.0004)
    same(objective(ratio="sequence", clip=clip, **MEANS), objective(clip=clip, **MEANS), batch=batch)


def test_kdrl_without_its_teacher_is_grpo_without_a_clip_over_tokens() -> None:
    same(of("kdrl"), objective(clip=ClipConfig(kind="none")), coefficient=0.0)


def test_kdrl_with_equal_rewards_is_pure_distillation() -> None:
    cfg = of("kdrl")
    batch = batch_for(cfg)
    equal = replace(batch, reward=torch.where(batch.reward.isnan(), batch.reward, 1.0))
    whole = run(weights(), [credited(equal, cfg)], cfg)
    silent = replace(credited(equal, cfg), advantage=torch.zeros(len(batch.tokens)))
    assert whole[0] == run(weights(), [silent], cfg)[0] != 0
    assert means(whole[2])["policy_loss"] == 0


def test_kdrl_with_its_own_start_as_teacher_and_k3_is_grpo_with_k3() -> None:
    kdrl = of("kdrl", "objective.terms.divergence.estimator=k3")
    batch = batch_for(kdrl)
    assert batch.logp_reference is not None
    batch = replace(batch, anchors={"teacher": batch.logp_reference})
    same(kdrl, objective(clip=ClipConfig(kind="none"), terms={"divergence": K3}), batch=batch)


def test_k2_of_a_teacher_is_an_advantage_of_its_log_ratio() -> None:
    # -R grad log pi, R = log teacher - log policy: A + beta R off the same detached ratio.
    joint = divergence("reverse_kl", wiring="joint", estimator="k1")
    cfg = objective(clip=ClipConfig(kind="none"), terms={"divergence": joint})
    with_k2 = objective(clip=ClipConfig(kind="none"), terms={"divergence": K2})
    batch = on_policy(random_batch())
    torch.testing.assert_close(gradient(cfg, batch), gradient(with_k2, batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("only", ["failed_answers", "failed_groups"])
def test_kdrls_masks_leave_grpo_where_all_answers_are_correct_or_keep_all_where_none_is(only: str) -> None:
    masked = of("kdrl", f"objective.terms.divergence.weights.only={only}")
    batch = batch_for(masked)
    for reward, expected in ((1.0, objective(clip=ClipConfig(kind="none"))), (0.0, of("kdrl"))):
        # Unequal rewards on the right side of 1 keep the policy gradient alive.
        spread = reward + 0.3 * (torch.arange(len(batch.reward)) % 3)
        same(masked, expected, batch=replace(batch, reward=torch.where(batch.reward.isnan(), batch.reward, spread)))


def test_apo_turned_off_is_grpo_over_tokens_with_k3() -> None:
    off = of("apo", "objective.gates.long_failures=1", "objective.terms.divergence.weights.difficulty=false")
    kept = replace(K3, reduction="sequence_mean_token_mean")
    same(off, objective(terms={"divergence": kept}))
    apo = of("apo")
    alike = batch_for(apo)
    all_wrong = replace(alike, reward=alike.reward * 0.4)
    same(apo, off, batch=all_wrong)


def test_gtpo_without_gates_is_mean_only_grpo_without_a_clip() -> None:
    off = (
        "objective.gates.conflict_tokens=false",
        "objective.gates.entropy_penalty=0",
        "objective.gates.entropy_limit=0",
    )
    same(of("gtpo", *off), objective(advantage="mean_only", clip=ClipConfig(kind="none"), **MEANS))


def test_grpo_d_at_a_constant_weight_is_grpo_with_k3() -> None:
    grpo = of("grpo", "objective.terms.divergence.name=reverse_kl")
    same(of("grpo_d"), grpo)
    same(of("grpo_d"), of("grpo"), coefficient=0.0)


def test_rpg_without_divergence_is_dapos_dual_clip_on_mean_only_advantages() -> None:
    clip = ClipConfig(high=0.28, dual=10.0)
    same(of("rpg"), objective(advantage="mean_only", clip=clip), coefficient=0.0)


@pytest.mark.parametrize(
    ("preset", "plain"),
    [
        ("chi_squared", {"reduction": "sequence_mean_token_sum"}),
        ("tsallis", {}),
        ("sparse_kl", {}),
        ("sampo", MEANS),
        ("salsa", {}),
        ("tr_dpo", {}),
        ("nash_mp", {}),
        ("alpha_spin", {}),
        ("reinforce_pp_baseline", {"advantage": "group_mean_global_whiten"}),
        ("reinforce_pp", {"advantage": "global_whiten"}),
        ("superhf", {"advantage": "best_of_n", "ratio": "none", **MEANS}),
    ],
)
def test_without_its_divergence_a_method_is_its_policy_gradient(preset: str, plain: dict[str, str]) -> None:
    same(of(preset), objective(**plain), coefficient=0.0)


def test_sampo_with_answers_of_one_length_is_a_plain_sum() -> None:
    cfg = of("sampo")
    batch = make_batch([("explore", 0, float(i == 0), [i, 1, 2]) for i in range(4)], prompt_length=1)
    logp = scores_of(weights(), batch, cfg).logp.detach()
    batch = replace(batch, logp_sampler=logp, logp_reference=logp - 0.3)
    same(cfg, objective(terms={"divergence": replace(K2, reduction="sequence_mean_token_sum")}, **MEANS), batch=batch)


def test_an_entropy_mask_of_power_zero_is_the_uniform_kl() -> None:
    same(of("sparse_kl", "objective.terms.divergence.weights.entropy_power=0"), objective(terms={"divergence": K2}))


def test_tsallis_at_one_is_the_reverse_kl_in_the_reward() -> None:
    kl = divergence("reverse_kl", wiring="reward", estimator="k1")
    same(of("tsallis", "objective.terms.divergence.alpha=1"), objective(terms={"divergence": kl}))


def test_dapo_without_long_answers_is_grpo_with_clip_higher_over_tokens() -> None:
    same(of("dapo"), objective(clip=ClipConfig(high=0.28)))
    punished = objective(clip=ClipConfig(high=0.28), overlong=OverlongConfig(limit=6, fraction=0.5))
    assert (gradient(punished, random_batch()) - gradient(of("dapo"), random_batch())).abs().max() > 1e-3


def test_a_mismatch_weight_of_one_is_no_correction() -> None:
    batch = on_policy(random_batch())
    old = replace(batch, logp_old=batch.logp_sampler)
    learner = objective(old_policy="learner")
    for kind in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric", "k2", "k3"):
        corrected = replace(learner, mismatch=MismatchConfig(kind=kind, low=0.5, high=2.0))
        assert torch.equal(gradient(corrected, old), gradient(learner, old))


def test_terms_by_name_add_up_like_one_term_of_their_summed_coefficient() -> None:
    one = objective(terms={"divergence": K2})
    two = objective(terms={"divergence": K2, "again": K2})
    batch = random_batch()
    value, grad, stats = run(weights(), [credited(batch, two, 0.35)], two, 0.35)
    single = run(weights(), [credited(batch, one, 0.7)], one, 0.7)
    assert value == pytest.approx(single[0], abs=1e-6)
    torch.testing.assert_close(grad, single[1], rtol=1e-5, atol=1e-6)
    assert stats["terms/divergence/value"] == stats["terms/again/value"] == single[2]["terms/divergence/value"]


def test_two_anchors_are_one_geometric_mixture_of_them() -> None:
    # a KL(pi || p1) + b KL(pi || p2) = (a + b) KL(pi || p1^(a/(a+b)) p2^(b/(a+b)) / Z) + constant
    tokens = [token for token, share in enumerate(POLICY.tolist()) for _ in range(round(10 * share))]
    batch = make_batch(
        [("explore", 0, 1.0, [token]) for token in tokens],
        logp_sampler=POLICY.log()[tokens],
        logp_reference=REFERENCE.log()[tokens],
    )
    batch = replace(batch, anchors={"slow": OLD.log()[tokens]})
    cfg = objective(terms={"divergence": K2, **{"slow": replace(K2, anchor="slow")}})
    logits = POLICY.log().requires_grad_()
    weighed = {"divergence": 0.3, "slow": 0.9}
    value, _ = loss(scores(logits.log_softmax(0)[tokens]), credited(batch, cfg), cfg, weighed)
    got = torch.autograd.grad(value, logits)[0]
    mixture = (REFERENCE**0.25 * OLD**0.75) / (REFERENCE**0.25 * OLD**0.75).sum()
    whole = POLICY.log().requires_grad_()
    (expected,) = torch.autograd.grad(1.2 * kl(whole.softmax(0), mixture), whole)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean_token_mean"])
def test_the_entropy_bonus_has_the_gradient_of_the_mean_entropy(reduction: str) -> None:
    batch = random_batch()
    plain = objective(reduction=reduction)
    cfg = replace(plain, entropy_bonus=0.2)
    got = gradient(cfg, batch) - gradient(plain, batch)
    policy, explored = weights(), batch.on_route("explore")
    rows = policy[batch.tokens.roll(1)][explored].softmax(-1)
    entropy = -(rows * rows.log()).sum(-1)
    lengths = torch.bincount(batch.seq[explored])[batch.seq[explored]]
    share = 1 / lengths / len(batch.seq[explored].unique()) if "sequence" in reduction else 1 / len(entropy)
    (expected,) = torch.autograd.grad(-0.2 * (share * entropy).sum(), policy)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    # It flattens: a step against this gradient makes the policy's entropy grow.
    with torch.no_grad():
        stepped = (policy - 0.5 * got)[batch.tokens.roll(1)][explored].softmax(-1)
    assert -(stepped * stepped.log()).sum(-1).mean() > entropy.mean()
