import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from ragged_batch import divergence, make_batch, objective
from torch import Tensor

from configs.load import load
from configs.objective_schema import ClipConfig, CoefficientConfig, ObjectiveConfig
from objectives.controllers import ObjectiveState, initial_state
from objectives.diagnostics import Stats, means, merge, to_stats
from objectives.objective import credit, loss
from trajectories.batch import Batch, pack, partition, with_own_totals
from trajectories.trajectory import Grade, Group, Prompt, Route, Trajectory

VOCABULARY = 11
PRESETS = ["grpo", "dr_grpo", "dapo", "rloo", "grpo_adaptive_kl", "dph_f", "dph_js", "dph_alpha"]


def random_trajectory(generator: np.random.Generator, route: Route, reward: float | None) -> Trajectory:
    prompt, answer = generator.integers(1, 4), generator.integers(1, 7)
    size = prompt + answer
    mask = np.arange(size) >= prompt
    return Trajectory(
        prompt_id=f"prompt/{generator.integers(10**9)}",
        sample_index=0,
        tokens=generator.integers(0, VOCABULARY, size).astype(np.int32),
        mask=mask,
        logp_sampler=np.where(mask, generator.normal(-2.4, 0.3, size), 0).astype(np.float32),
        first_version=0,
        last_version=0,
        finish_reason="stop",
        seed=0,
        text="",
        route=route,
        grade=Grade(reward=reward, status="correct"),
        logp_reference=generator.normal(-2.4, 0.3, size).astype(np.float32) if route == "rehearse" else None,
    )


def random_batch(seed: int = 0, reference_everywhere: bool = True) -> Batch:
    """Four groups of four answers, one of which could not be graded, and six rehearsed answers."""
    generator = np.random.default_rng(seed)
    groups = []
    for number in range(4):
        rewards = [float(reward) for reward in generator.integers(0, 2, 4)]
        answers = [random_trajectory(generator, "explore", reward) for reward in rewards]
        if number == 2:
            answers[1] = replace(answers[1], grade=Grade(reward=None, status="grader_error"))
        prompt = Prompt(id=f"p{number}", position=number, text="", verifier="", problem={})
        groups.append(Group(prompt=prompt, trajectories=tuple(answers)))
    batch = pack(groups, [random_trajectory(generator, "rehearse", 1.0) for _ in range(6)])
    if reference_everywhere:
        assert batch.logp_reference is not None
        guess = torch.from_numpy(generator.normal(-2.4, 0.3, len(batch.tokens))).float()
        batch = replace(batch, logp_reference=torch.where(batch.logp_reference.isnan(), guess, batch.logp_reference))
    return batch


def of(preset: str, *overrides: str) -> ObjectiveConfig:
    return load([f"method={preset}", *overrides]).objective


def weights() -> Tensor:
    """A policy without context: one logit per token."""
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(1)).mul(0.3).requires_grad_()


def run(policy: Tensor, parts: list[Batch], cfg: ObjectiveConfig, coefficient: float) -> tuple[float, Tensor, Stats]:
    """Loss, gradient and metrics over the parts, as a learner accumulates them."""
    value, stats = 0.0, {}
    gradient = torch.zeros_like(policy)
    for part in parts:
        logp = torch.where(part.mask, policy.log_softmax(0)[part.tokens], 0.0)
        share, measured = loss(logp, part, cfg, coefficient)
        gradient += torch.autograd.grad(share, policy)[0]
        value, stats = value + share.item(), merge(stats, to_stats(measured))
    return value, gradient, stats


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("ranks", "budget"), [(1, 8), (1, 30), (2, 16), (3, 1000), (5, 25)])
def test_no_split_into_microbatches_and_ranks_changes_loss_gradient_or_metrics(
    preset: str, ranks: int, budget: int
) -> None:
    cfg = of(preset)
    batch = credit(random_batch(), cfg, initial_state(cfg))
    parts = [part for rank in partition(batch, ranks, budget) for part in rank]
    whole, split = run(weights(), [batch], cfg, 0.7), run(weights(), parts, cfg, 0.7)
    assert len(parts) > 1
    assert split[0] == pytest.approx(whole[0], abs=1e-6)
    torch.testing.assert_close(split[1], whole[1], rtol=1e-5, atol=1e-6)
    assert means(split[2]) == pytest.approx(means(whole[2]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_order_of_trajectories_does_not_matter(preset: str) -> None:
    cfg = of(preset)
    batch = random_batch()
    order = torch.randperm(len(batch.route), generator=torch.Generator().manual_seed(3)).tolist()
    plain = run(weights(), [credit(batch, cfg, initial_state(cfg))], cfg, 0.7)
    shuffled = run(weights(), [credit(batch.select(order), cfg, initial_state(cfg))], cfg, 0.7)
    assert shuffled[0] == pytest.approx(plain[0], abs=1e-6)
    torch.testing.assert_close(shuffled[1], plain[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("preset", ["dph_f", "dph_js", "dph_alpha"])
def test_dph_with_coefficient_0_is_dapo_bit_for_bit(preset: str) -> None:
    batch = random_batch(reference_everywhere=False)
    dapo = of("dapo", "objective.clip.dual=3.0")
    dph = of(preset, "objective.divergence.coefficient.value=0")
    expected = run(weights(), [credit(batch, dapo, initial_state(dapo))], dapo, 0.0)
    got = run(weights(), [credit(batch, dph, initial_state(dph))], dph, initial_state(dph).coefficient)
    assert got[0] == expected[0]
    assert torch.equal(got[1], expected[1])


def test_dph_without_rehearsed_answers_is_dapo_bit_for_bit() -> None:
    batch = random_batch(reference_everywhere=False)
    explored = [i for i, group in enumerate(batch.group.tolist()) if group >= 0]
    batch = with_own_totals(batch.select(explored))
    dapo, dph = of("dapo", "objective.clip.dual=3.0"), of("dph_f")
    expected = run(weights(), [credit(batch, dapo, initial_state(dapo))], dapo, 0.0)
    got = run(weights(), [credit(batch, dph, initial_state(dph))], dph, 1.0)
    assert got[0] == expected[0]
    assert torch.equal(got[1], expected[1])
    assert "divergence" not in means(got[2])


@pytest.mark.parametrize("preset", PRESETS)
def test_each_token_gets_the_terms_of_its_route_and_no_other(preset: str) -> None:
    cfg = of(preset)
    batch = credit(random_batch(), cfg, initial_state(cfg))
    logp = torch.where(batch.mask, weights().detach().log_softmax(0)[batch.tokens], 0.0)

    def gradient(changed: Batch, coefficient: float) -> Tensor:
        leaf = logp.clone().requires_grad_()
        return torch.autograd.grad(loss(leaf, changed, cfg, coefficient)[0], leaf)[0]

    assert batch.advantage is not None
    rehearsed, explored = batch.on_route("rehearse"), batch.on_route("explore")
    # No policy gradient on rehearsed tokens, whatever advantage stands there; no rehearsal term on explored ones.
    louder = replace(batch, advantage=torch.where(rehearsed, 100.0, batch.advantage))
    assert torch.equal(gradient(louder, 0.7), gradient(batch, 0.7))
    assert torch.equal(gradient(batch, 0.7)[explored], gradient(batch, 9.0)[explored])
    if cfg.divergence.rehearses:
        torch.testing.assert_close(gradient(batch, 9.0)[rehearsed], gradient(batch, 1.0)[rehearsed] * 9)
        assert gradient(batch, 1.0)[rehearsed].abs().min() > 0
    else:
        assert gradient(batch, 9.0)[rehearsed].abs().max() == 0
    assert gradient(batch, 0.7)[~batch.mask].abs().max() == 0


def test_an_unknown_reference_on_explored_tokens_never_reaches_loss_or_gradient() -> None:
    cfg = of("dph_f")
    batch = random_batch(reference_everywhere=False)
    assert batch.logp_reference is not None
    assert batch.logp_reference[batch.on_route("explore")].isnan().all()
    value, gradient, stats = run(weights(), [credit(batch, cfg, initial_state(cfg))], cfg, 1.0)
    assert math.isfinite(value)
    assert gradient.isfinite().all()
    measured = means(stats)
    assert all(math.isfinite(mean) for mean in measured.values())
    assert "kl_reference_per_trajectory" not in measured


def test_a_reference_that_is_needed_and_unknown_is_refused() -> None:
    cfg = of("grpo_adaptive_kl")
    batch = random_batch(reference_everywhere=False)
    with pytest.raises(AssertionError, match="unknown"):
        credit(batch, cfg, initial_state(cfg))
    with pytest.raises(AssertionError, match="the batch has none"):
        credit(replace(batch, logp_reference=None), cfg, initial_state(cfg))


@pytest.mark.parametrize("preset", PRESETS)
def test_an_answer_whose_grader_failed_changes_nothing(preset: str) -> None:
    cfg = of(preset)
    batch = random_batch()
    failed = [i for i in range(16) if batch.reward[i].isnan()]
    assert len(failed) == 1
    kept = [i for i in range(len(batch.route)) if i not in failed]
    credited = credit(batch, cfg, initial_state(cfg))
    assert credited.advantage is not None
    assert credited.advantage[credited.seq == failed[0]].abs().max() == 0
    with_failure = run(weights(), [credited], cfg, 0.7)
    without = run(weights(), [credit(batch.select(kept), cfg, initial_state(cfg))], cfg, 0.7)
    assert with_failure[0] == pytest.approx(without[0], abs=1e-7)
    torch.testing.assert_close(with_failure[1], without[1])
    assert means(with_failure[2]) == pytest.approx(means(without[2]))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_part_without_trained_tokens_has_loss_0_and_a_gradient_to_take(preset: str) -> None:
    cfg = of(preset)
    batch = credit(random_batch(), cfg, initial_state(cfg))
    idle = replace(batch, mask=torch.zeros_like(batch.mask))
    leaf = torch.zeros(len(batch.tokens), requires_grad=True)
    value, stats = loss(leaf, idle, cfg, 0.7)
    value.backward()
    assert value.item() == 0
    assert leaf.grad is not None and leaf.grad.abs().max() == 0
    assert stats.keys() == loss(leaf, batch, cfg, 0.7)[1].keys()
    assert means(to_stats(stats)) == {}


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("token_mean", 1.75), ("sequence_mean_token_mean", 2.0), ("sequence_mean_token_sum", 3.5)],
)
def test_supervised_training_is_forward_kl_on_stored_answers_with_a_reference_of_zero(
    reduction: str, expected: float
) -> None:
    cfg = objective(
        divergence=divergence(
            "forward_kl", samples="rehearsal", estimator="k1", coefficient=CoefficientConfig(value=1.0)
        ),
        reduction=reduction,
    )
    batch = make_batch(
        [("rehearse", -1, None, [1, 2, 3]), ("rehearse", -1, None, [4])],
        logp_sampler=torch.zeros(4),
        logp_reference=torch.zeros(4),
    )
    value, stats = loss(torch.tensor([-1.0, -1.5, -2.0, -2.5], requires_grad=True), batch, cfg, 1.0)
    assert value.item() == expected
    assert stats["divergence"].tolist() == [7.0, 4.0]


def test_the_old_policy_is_the_sampler_or_the_learner_as_configured() -> None:
    logp, sampler, old = torch.tensor([-1.0]), torch.tensor([-1.1]), torch.tensor([-1.2])
    batch = make_batch([("explore", 0, 1.0, [1]), ("explore", 0, 0.0, [2])])
    batch = replace(batch.select([0]), logp_sampler=sampler, advantage=torch.ones(1))

    def ratio(old_policy: str, logp_old: Tensor | None) -> float:
        cfg = objective(old_policy=old_policy)
        return loss(logp, replace(batch, logp_old=logp_old), cfg, 0.0)[1]["ratio"][0].item()

    assert ratio("sampler", old) == pytest.approx(math.exp(0.1))
    assert ratio("learner", old) == pytest.approx(math.exp(0.2))
    assert ratio("learner", None) == 1.0


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum"])
def test_on_policy_the_clipped_ratio_and_the_plain_policy_gradient_have_one_gradient(reduction: str) -> None:
    batch = random_batch()
    policy = weights()
    with torch.no_grad():
        batch = replace(batch, logp_sampler=policy.log_softmax(0)[batch.tokens])
    gradients = []
    for choices in ({"ratio": "none"}, {"ratio": "token"}, {"ratio": "token", "clip": ClipConfig(high=0.28, dual=3.0)}):
        cfg = objective(reduction=reduction, **choices)
        gradients.append(run(policy, [credit(batch, cfg, initial_state(cfg))], cfg, 0.0)[1])
    torch.testing.assert_close(gradients[1], gradients[0])
    assert torch.equal(gradients[2], gradients[1])


def test_rloos_gradient_is_g_over_g_minus_one_that_of_mean_only() -> None:
    batch = random_batch(seed=4)
    batch = batch.select([i for i in range(16) if batch.group[i] != 2])  # the group with a failed grader has three
    rloo, mean = objective(advantage="leave_one_out"), objective(advantage="mean_only")
    first = run(weights(), [credit(batch, rloo, initial_state(rloo))], rloo, 0.0)[1]
    second = run(weights(), [credit(batch, mean, initial_state(mean))], mean, 0.0)[1]
    # Clipping depends on the sign of the advantage alone, so the factor carries through it.
    torch.testing.assert_close(first, second * 4 / 3)


def test_a_divergence_in_the_loss_adds_to_the_policy_gradient_of_the_explored_tokens() -> None:
    with_kl = objective(divergence=divergence("reverse_kl", estimator="k2"))
    batch = random_batch()
    base = run(weights(), [credit(batch, objective(), ObjectiveState(0.0))], objective(), 0.0)
    credited = credit(batch, with_kl, ObjectiveState(0.5))
    got = run(weights(), [credited], with_kl, 0.5)
    explored = batch.on_route("explore")
    assert batch.logp_reference is not None
    log_u = weights().detach().log_softmax(0)[batch.tokens][explored] - batch.logp_reference[explored]
    assert got[0] - base[0] == pytest.approx(0.5 * float(0.5 * log_u.square().mean()), abs=1e-6)
    assert got[2]["policy_loss"] == base[2]["policy_loss"]


def test_the_reported_policy_loss_is_the_loss_without_the_divergence() -> None:
    for preset in PRESETS:
        cfg = of(preset)
        batch = credit(random_batch(), cfg, initial_state(cfg))
        alone = replace(cfg, divergence=divergence("none"))
        value, _, _ = run(weights(), [batch], alone, 0.0)
        assert means(run(weights(), [batch], cfg, 0.7)[2])["policy_loss"] == pytest.approx(value, abs=1e-6)
