"""`credit` and `loss` for every preset: what no order, split, route or missing number may change."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.coefficient import CoefficientConfig
from configs.load import presets
from configs.objective import ClipConfig
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.objective import loss
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, state_of, weighted
from tests.objectives.random_answers import batch_for, credited, of, random_batch, run, scores_of, weights
from trajectories.batch import Batch, with_own_totals
from trajectories.split import partition

PRESETS = presets("method")


@pytest.mark.parametrize("preset", PRESETS)
def test_no_split_into_microbatches_and_ranks_changes_loss_gradient_or_metrics(preset: str) -> None:
    cfg = of(preset)
    batch = credited(batch_for(cfg), cfg)
    whole = run(weights(), [batch], cfg)
    for ranks, budget in ((1, 8), (1, 30), (2, 16), (3, 1000), (5, 25)):
        parts = [part for rank in partition(batch, ranks, budget) for part in rank]
        split = run(weights(), parts, cfg)
        assert len(parts) > 1
        assert split[0] == pytest.approx(whole[0], abs=1e-6)
        torch.testing.assert_close(split[1], whole[1], rtol=1e-5, atol=1e-6)
        assert means(split[2]) == pytest.approx(means(whole[2]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_order_of_trajectories_does_not_matter(preset: str) -> None:
    cfg = of(preset)
    batch = batch_for(cfg)
    order = torch.randperm(len(batch.route), generator=torch.Generator().manual_seed(3)).tolist()
    plain = run(weights(), [credited(batch, cfg)], cfg)
    shuffled = run(weights(), [credited(batch.select(order), cfg)], cfg)
    assert shuffled[0] == pytest.approx(plain[0], abs=1e-6)
    torch.testing.assert_close(shuffled[1], plain[1], rtol=1e-5, atol=1e-6)
    assert means(shuffled[2]) == pytest.approx(means(plain[2]), rel=1e-4, abs=1e-5)
    assert plain[1].abs().max() > 1e-3, "a gradient of zeros would prove nothing"


@pytest.mark.parametrize("preset", ["dph_f", "dph_js", "dph_alpha"])
def test_dph_with_coefficient_0_is_dapo_bit_for_bit(preset: str) -> None:
    batch = random_batch(reference_everywhere=False)
    dapo = of("dapo", "objective.clip.dual=3.0")
    dph = of(preset, "objective.terms.divergence.coefficient.value=0")
    expected = run(weights(), [credited(batch, dapo)], dapo)
    got = run(weights(), [credited(batch, dph, 0.0)], dph, 0.0)
    assert got[0] == expected[0]
    assert torch.equal(got[1], expected[1])


def test_dph_without_rehearsed_answers_is_dapo_bit_for_bit() -> None:
    batch = random_batch(reference_everywhere=False)
    explored = [i for i, group in enumerate(batch.group.tolist()) if group >= 0]
    batch = with_own_totals(batch.select(explored))
    dapo, dph = of("dapo", "objective.clip.dual=3.0"), of("dph_f")
    expected = run(weights(), [credited(batch, dapo)], dapo)
    got = run(weights(), [credited(batch, dph)], dph, 1.0)
    assert got[0] == expected[0]
    assert torch.equal(got[1], expected[1])
    assert "terms/divergence/value" not in means(got[2])


@pytest.mark.parametrize("preset", PRESETS)
def test_each_token_gets_the_terms_of_its_route_and_no_other(preset: str) -> None:
    cfg = of(preset)
    batch = credited(batch_for(cfg), cfg)
    scores = scores_of(weights().detach(), batch, cfg)

    def gradient(changed: Batch, coefficient: float) -> Tensor:
        """By the log-probs and by the exact terms of the tokens."""
        leaf = scores.logp.clone().requires_grad_()
        exact = {name: values.clone().requires_grad_() for name, values in scores.exact.items()}
        read = replace(scores, logp=leaf, exact=exact)
        value, _ = loss(read, changed, cfg, dict.fromkeys(weighted(cfg), coefficient))
        found = torch.autograd.grad(value, [leaf, *exact.values()], allow_unused=True)
        return torch.stack([torch.zeros_like(leaf) if g is None else g for g in found])

    assert batch.advantage is not None
    rehearsed, explored = batch.on_route("rehearse"), batch.on_route("explore")
    # No policy gradient on rehearsed tokens, whatever advantage stands there; no rehearsal term on explored ones.
    louder = replace(batch, advantage=torch.where(rehearsed, 100.0, batch.advantage))
    assert torch.equal(gradient(louder, 0.7), gradient(batch, 0.7))
    own = [term for term in cfg.terms.values() if not term.rehearses and term.wiring != "reward"]
    same = torch.equal(gradient(batch, 0.7)[:, explored], gradient(batch, 9.0)[:, explored])
    assert same == (not own)
    if cfg.rehearses:
        torch.testing.assert_close(gradient(batch, 9.0)[:, rehearsed], gradient(batch, 1.0)[:, rehearsed] * 9)
        assert gradient(batch, 1.0)[:, rehearsed].abs().sum(0).min() > 0
    else:
        assert gradient(batch, 9.0)[:, rehearsed].abs().max() == 0
    assert gradient(batch, 0.7)[:, ~batch.mask].abs().max() == 0


def test_an_unknown_reference_on_explored_tokens_never_reaches_loss_or_gradient() -> None:
    cfg = of("dph_f")
    batch = random_batch(reference_everywhere=False)
    assert batch.logp_reference is not None
    assert batch.logp_reference[batch.on_route("explore")].isnan().all()
    value, gradient, stats = run(weights(), [credited(batch, cfg)], cfg, 1.0)
    assert math.isfinite(value)
    assert gradient.isfinite().all()
    measured = means(stats)
    assert all(math.isfinite(mean) for mean in measured.values())
    assert "kl_reference_per_trajectory" not in measured


def test_a_reference_that_is_needed_and_unknown_is_refused() -> None:
    cfg = of("grpo_adaptive_kl")
    batch = random_batch(reference_everywhere=False)
    with pytest.raises(AssertionError, match="where it is missing"):
        credited(batch, cfg)
    with pytest.raises(AssertionError, match="the batch has none"):
        credited(replace(batch, logp_reference=None), cfg)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_answer_whose_grader_failed_changes_nothing(preset: str) -> None:
    cfg = of(preset)
    batch = batch_for(cfg)
    failed = [i for i in range(16) if batch.reward[i].isnan()]
    assert len(failed) == 1
    kept = [i for i in range(len(batch.route)) if i not in failed]
    whole = credited(batch, cfg)
    assert whole.advantage is not None
    assert whole.advantage[whole.seq == failed[0]].abs().max() == 0
    with_failure = run(weights(), [whole], cfg)
    without = run(weights(), [credited(batch.select(kept), cfg)], cfg)
    assert with_failure[0] == pytest.approx(without[0], abs=1e-6)
    torch.testing.assert_close(with_failure[1], without[1])
    assert means(with_failure[2]) == pytest.approx(means(without[2]))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_part_without_trained_tokens_has_loss_0_and_a_gradient_to_take(preset: str) -> None:
    cfg = of(preset)
    batch = credited(batch_for(cfg), cfg)
    idle = replace(batch, mask=torch.zeros_like(batch.mask))
    value, gradient, stats = run(weights(), [idle], cfg)
    assert value == 0
    assert gradient.abs().max() == 0
    assert stats.keys() == run(weights(), [batch], cfg)[2].keys()
    assert means(stats) == {}


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("token_mean", 1.75), ("sequence_mean_token_mean", 2.0), ("sequence_mean_token_sum", 3.5)],
)
def test_supervised_training_is_forward_kl_on_stored_answers_with_a_reference_of_zero(
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


def test_the_old_policy_is_the_sampler_or_the_learner_as_configured() -> None:
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
def test_on_policy_the_clipped_ratio_and_the_plain_policy_gradient_have_one_gradient(reduction: str) -> None:
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


def test_rloos_gradient_is_g_over_g_minus_one_that_of_mean_only() -> None:
    batch = random_batch(seed=4)
    batch = batch.select([i for i in range(16) if batch.group[i] != 2])  # the group with a failed grader has three
    rloo, mean = objective(advantage="leave_one_out"), objective(advantage="mean_only")
    first = run(weights(), [credited(batch, rloo)], rloo)[1]
    second = run(weights(), [credited(batch, mean)], mean)[1]
    # Clipping depends on the sign of the advantage alone, so the factor carries through it.
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


@pytest.mark.parametrize("preset", PRESETS)
def test_the_reported_policy_loss_is_the_loss_without_divergence_and_entropy_bonus(preset: str) -> None:
    cfg = of(preset)
    batch = credited(batch_for(cfg), cfg)
    measured = means(run(weights(), [batch], cfg)[2])
    if cfg.advantage == "none":  # and nothing wired into it: an objective without its terms is refused
        assert measured["policy_loss"] == 0
        return
    # Terms in the joint wiring are part of the advantage and stay.
    joint = {name: term for name, term in cfg.terms.items() if term.wiring == "joint"}
    alone = replace(cfg, terms=joint, entropy_bonus=0.0)
    value, _, _ = run(weights(), [batch], alone)
    value -= cfg.critic.coefficient * measured.get("value_loss", 0.0)
    assert measured["policy_loss"] == pytest.approx(value, abs=1e-6)
