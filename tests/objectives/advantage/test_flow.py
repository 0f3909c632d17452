"""Flow balance: its gradient over all answers of a small policy, and its optimum, by enumeration; splits of a batch."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.flow import FlowConfig
from objectives.diagnostics import means, merge, to_stats
from objectives.objective import Scores, loss
from tests.objectives.ragged_batch import make_batch, objective, scores
from tests.objectives.random_answers import batch_for, credited, of
from trajectories.batch import Batch

VOCABULARY = 3
BETA = 0.7
CFG = replace(of("flow_rl"), flow=FlowConfig(beta=BETA))
REWARDS = (1.0, 0.0, 0.25, 0.0, 1.0, 0.5, 0.0, 0.0, 1.0)


def table(seed: int, length: int) -> Tensor:
    """Return logits [contexts, V] of a policy over answers of `length` 1 or 2: the first token, then one per first."""
    rows = 1 if length == 1 else 1 + VOCABULARY
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def logps(logits: Tensor, length: int) -> Tensor:
    """Return the log-probs of the tokens of all answers [V^length, length]."""
    rows = logits.log_softmax(-1)
    answers = itertools.product(range(VOCABULARY), repeat=length)
    return torch.stack([torch.stack([rows[0 if t == 0 else 1 + a[0], a[t]] for t in range(length)]) for a in answers])


def all_answers(policy: Tensor, reference: Tensor, length: int) -> Batch:
    """Return every answer once, as one group, sampled by the policy; logits as from `table`."""
    answers = list(itertools.product(range(VOCABULARY), repeat=length))
    rows = [("explore", 0, reward, list(a)) for reward, a in zip(REWARDS, answers, strict=False)]
    sampler, anchor = logps(policy, length).flatten(), logps(reference, length).flatten()
    return make_batch(rows, logp_sampler=sampler, logp_reference=anchor)  # type: ignore[arg-type]


def slopes(policy: Tensor, batch: Batch, log_z: float, length: int) -> tuple[Tensor, Tensor]:
    """Return the expected gradients by the policy's logits and by log Z, answers weighted by their probabilities."""
    logits = policy.clone().requires_grad_()
    logp = logps(logits, length)
    leaf, values = logp.detach().flatten().requires_grad_(), torch.full((len(logp), 1), log_z).requires_grad_()
    value, _ = loss(replace(scores(leaf), values=values), credited(batch, CFG), CFG, {})
    by_logp, by_value = torch.autograd.grad(value, (leaf, values))
    weight = len(logp) * logp.detach().sum(-1).exp()  # the loss is a mean over the answers
    (by_logits,) = torch.autograd.grad((weight[:, None] * by_logp.view_as(logp) * logp).sum(), logits)
    return by_logits, (weight * by_value[:, 0]).sum()


def scaled_rewards(length: int) -> Tensor:
    rewards = torch.tensor(REWARDS[: VOCABULARY**length])
    return (rewards - rewards.mean()) / (rewards.std() + 1e-6)


def target(reference: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return log of reference exp(T beta z) / Z of every answer, and log Z."""
    tilted = logps(reference, length).sum(-1) + length * BETA * scaled_rewards(length)
    return tilted.log_softmax(0), tilted.logsumexp(0)


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("log_z", [0.0, 1.3])
def test_the_expected_gradient_is_that_of_the_reverse_kl_to_the_tilted_reference_over_half_the_squared_length(
    length: int, log_z: float
) -> None:
    policy, reference = table(0, length), table(1, length)
    found, by_log_z = slopes(policy, all_answers(policy, reference, length), log_z, length)
    aim, _ = target(reference, length)
    logits = policy.clone().requires_grad_()
    answers = logps(logits, length).sum(-1)
    (expected,) = torch.autograd.grad((answers.exp() * (answers - aim)).sum(), logits)
    torch.testing.assert_close(found, 2 / length**2 * expected, rtol=1e-4, atol=1e-6)
    assert expected.abs().max() > 0.04
    residual = log_z + (logps(policy, length) - logps(reference, length)).mean(-1) - BETA * scaled_rewards(length)
    assert float(by_log_z) == pytest.approx(float((2 * answers.exp() * residual).sum()), rel=1e-4)


@pytest.mark.parametrize("length", [1, 2])
def test_at_the_tilted_reference_no_answer_has_a_gradient_and_log_z_is_its_normaliser_per_token(
    length: int,
) -> None:
    reference = table(1, length)
    aim, log_normaliser = target(reference, length)
    joint = aim.exp().view([VOCABULARY] * length)
    rows = [joint.log()] if length == 1 else [joint.sum(1).log(), *joint.log()]
    policy = torch.stack(rows)
    torch.testing.assert_close(logps(policy, length).sum(-1), aim, rtol=1e-5, atol=1e-5)
    batch = credited(all_answers(policy, reference, length), CFG)
    for off in (0.0, 0.1):
        values = torch.full((len(aim), 1), float(log_normaliser) / length + off).requires_grad_()
        leaf = logps(policy, length).flatten().requires_grad_()
        value, stats = loss(replace(scores(leaf), values=values), batch, CFG, {})
        by_logp, by_value = torch.autograd.grad(value, (leaf, values))
        assert means(to_stats(stats))["flow_loss"] == pytest.approx(off**2, abs=1e-7)
        # 2 off on every answer's mean log-prob and on its log Z, in a mean over the answers
        torch.testing.assert_close(by_logp, torch.full_like(leaf, 2 * off / length / len(aim)), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(by_value, torch.full_like(values, 2 * off / len(aim)), rtol=1e-3, atol=1e-6)


def test_the_gradient_is_that_of_the_current_residual_in_every_update_and_the_weight_is_the_clipped_ratio() -> None:
    reference = table(1, 2)
    batch = credited(all_answers(table(0, 2), reference, 2), CFG)
    leaf, values = logps(table(2, 2), 2).flatten().requires_grad_(), torch.full((9, 1), 0.4).requires_grad_()
    value, _ = loss(replace(scores(leaf), values=values), batch, CFG, {})
    found = torch.autograd.grad(value, (leaf, values))
    ratio = (logps(table(2, 2), 2) - logps(table(0, 2), 2)).sum(-1).exp()
    weight = ratio.clamp(0.8, 1.2)
    assert bool((ratio < 0.8).any()) and bool((ratio > 1.2).any())
    mean = leaf.view(9, 2).mean(-1) - logps(reference, 2).mean(-1)
    whole = (weight * (values[:, 0] + mean - BETA * scaled_rewards(2)).square()).mean()
    for one, expected in zip(found, torch.autograd.grad(whole, (leaf, values)), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_by_log_z_does_not_depend_on_the_split_and_is_0_without_a_reward() -> None:
    cfg = of("flow_rl")
    batch = credited(batch_for(cfg), cfg)
    logp = batch.logp_sampler.nan_to_num() - 0.1
    values = torch.linspace(-1, 1, len(batch.route))[:, None]

    def by_value(parts: list[list[int]]) -> tuple[Tensor, dict[str, float]]:
        gradient, stats = torch.zeros_like(values), to_stats({})
        for part in parts:
            piece, leaf = batch.select(part), values[part].requires_grad_()
            value, found = loss(replace(scores(logp[batch.token_rows(part)]), values=leaf), piece, cfg, {})
            gradient[part], stats = torch.autograd.grad(value, leaf)[0], merge(stats, to_stats(found))
        return gradient, means(stats)

    size = len(batch.route)
    whole, split = by_value([list(range(size))]), by_value([[i] for i in range(size)])
    torch.testing.assert_close(split[0], whole[0])
    assert split[1] == pytest.approx(whole[1], rel=1e-5)
    trained = (batch.trained_lengths("explore") > 0)[:, None]
    assert torch.equal(whole[0] != 0, trained) and int(trained.sum()) == 15


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"reduction": "token_mean", "ratio": "none"},
            "^reduction: must be 'sequence_mean_token_mean' for advant",
        ),
        ({"reduction": "sequence_mean_token_mean"}, "^ratio: must be 'none' for advantage=flow"),
    ],
)
def test_settings_under_which_the_gradient_would_be_another_are_refused(choices: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objective(advantage="flow", **choices)
    for name, value, rule in (("beta", 0.0, "must be positive"), ("clip", 1.5, r"must be in \(0, 1\]")):
        with pytest.raises(ValueError, match=f"^{name}: {rule}, got {value}"):
            FlowConfig(**{name: value})


def test_a_learner_without_log_z_is_an_error() -> None:
    batch = credited(all_answers(table(0, 1), table(1, 1), 1), CFG)
    with pytest.raises(AssertionError, match="needs log Z"):
        loss(Scores(logp=batch.logp_sampler, entropy=batch.logp_sampler, log_vocabulary=1.0), batch, CFG, {})
