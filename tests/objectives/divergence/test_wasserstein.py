"""The Wasserstein regulariser: potentials equal closed forms and autograd, and both wirings have one gradient."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.policy_gradient import ClipConfig
from configs.terms import TermConfig
from configs.transport import TransportConfig
from objectives.credit import credit
from objectives.diagnostics import means
from objectives.divergence.wasserstein import (
    TokenSpace,
    kernel,
    masses,
    potentials,
    row_potential,
    sampled_transport_value,
    support,
    token_space,
    wasserstein,
)
from objectives.objective import Scores, loss
from tests.objectives.divergence_settings import OLD, POLICY, REFERENCE, in_tenths, kl
from tests.objectives.ragged_batch import divergence, make_batch, objective, state_of
from tests.objectives.random_answers import batch_for, credited, run, weights
from trajectories.split import partition

EPSILON = 0.5
POINTS = torch.tensor([[0.0, 0.0], [0.6, 0.8], [0.0, 0.2]], dtype=torch.float64)
IDENTITY = torch.full((1, 3, 3), -torch.inf, dtype=torch.float64)
IDENTITY.diagonal(dim1=-2, dim2=-1).zero_()
COST = torch.cdist(POINTS, POINTS)[None]


def settings(wiring: str = "joint", top: int = 3, **transport: float) -> TermConfig:
    estimator = "k1" if wiring == "joint" else "exact"
    choices = TransportConfig(**({"epsilon": EPSILON, "iterations": 500} | transport))  # type: ignore[arg-type]
    return divergence("wasserstein", wiring=wiring, estimator=estimator, top=top, transport=choices)


def space_of(points: Tensor = POINTS, neighbours: int = 2) -> TokenSpace:
    space = token_space(points, neighbours)
    return TokenSpace(embeddings=points, radius=space.radius.double())


def random_logits(rows: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor, TokenSpace]:
    generator = torch.Generator().manual_seed(seed)
    policy, anchor = (2 * torch.randn(rows, size, generator=generator) for _ in range(2))
    return policy, anchor, token_space(torch.randn(size, 4, generator=generator), size // 2)


@pytest.mark.parametrize("sweeps", [1, 2, 10])
def test_with_infinite_costs_the_potential_is_a_log_ratio_times_the_sweeps(sweeps: int) -> None:
    log_p, log_q = POLICY.log()[None], REFERENCE.log()[None]
    found = row_potential(log_p, log_q, IDENTITY, EPSILON, sweeps)
    # a_1 = p; b = q / a; a_2 = p / b = p^2 / q; in general a_t = p^t / q^(t - 1)
    torch.testing.assert_close(found, EPSILON * (log_p + (sweeps - 1) * (log_p - log_q)))


def test_with_costs_of_0_the_potential_is_that_of_the_entropy() -> None:
    log_p, free = POLICY.log()[None], torch.zeros(1, 3, 3, dtype=torch.float64)
    found = row_potential(log_p, REFERENCE.log()[None], free, EPSILON, 10)
    torch.testing.assert_close(found - found[:, :1], EPSILON * (log_p - log_p[:, :1]))


def transport(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return min <P, C> - epsilon H(P) by a converged Sinkhorn iteration, with gradient."""
    log_b, log_kernel = torch.zeros_like(log_q), -COST[0] / EPSILON
    for _ in range(500):
        log_a = log_p - (log_kernel + log_b).logsumexp(1)
        log_b = log_q - (log_kernel + log_a[:, None]).logsumexp(0)
    log_plan = log_a[:, None] + log_kernel + log_b
    return (log_plan.exp() * (COST[0] + EPSILON * log_plan)).sum()


def test_a_converged_potential_is_the_gradient_of_the_transport_cost() -> None:
    logits = POLICY.log().requires_grad_()
    (expected,) = torch.autograd.grad(transport(logits.log_softmax(0), REFERENCE.log()), logits)
    phi = row_potential(POLICY.log()[None], REFERENCE.log()[None], -COST / EPSILON, EPSILON, 500)[0]
    torch.testing.assert_close(POLICY * (phi - POLICY @ phi), expected)


def test_over_the_vocabulary_the_gradient_is_that_of_the_sinkhorn_divergence() -> None:
    logits = POLICY.log().requires_grad_()
    logp = logits.log_softmax(0)
    debiased = transport(logp, REFERENCE.log()) - transport(logp, logp) / 2  # up to a constant
    (expected,) = torch.autograd.grad(debiased, logits)
    value = wasserstein(settings("vocabulary"), logits[None], REFERENCE.log()[None], torch.tensor([0]), space_of())
    (found,) = torch.autograd.grad(value.sum(), logits)
    torch.testing.assert_close(found, expected)
    # The divergence is convex in the policy, so its linearisation at the policy overestimates it.
    at_anchor = transport(REFERENCE.log(), REFERENCE.log()) / 2
    assert 0 < float((debiased - at_anchor).detach()) < float(value.detach())
    # Without debiasing the gradient at the anchor is not 0.
    raw = torch.autograd.grad(transport(logits.log_softmax(0), POLICY.log()), logits)[0]
    assert raw.abs().max() > 0.01


@pytest.mark.parametrize("wiring", ["joint", "vocabulary"])
def test_where_policy_and_anchor_agree_value_and_gradient_are_exactly_0(wiring: str) -> None:
    logits, _, space = random_logits(50, 20)
    logits.requires_grad_()
    cfg = settings(wiring, top=4, epsilon=0.01, iterations=10)
    value = wasserstein(cfg, logits, logits, torch.arange(50) % 20, space)
    assert not value.any()
    if wiring == "vocabulary":
        assert not torch.autograd.grad(value.sum(), logits)[0].any()


def test_the_potential_has_mean_0_and_its_support_holds_the_likeliest_tokens_of_both_and_the_target() -> None:
    policy, anchor, space = random_logits(40, 30)
    logp, log_q, targets = policy.log_softmax(-1), anchor.log_softmax(-1), policy.argmin(-1)
    ids = support(logp, log_q, targets, 5)
    assert ids.shape == (40, 11)
    for row, p, q, target in zip(ids.tolist(), logp, log_q, targets.tolist(), strict=True):
        assert len(set(row)) == 11
        assert {target, *p.topk(5).indices.tolist(), *q.topk(5).indices.tolist()} <= set(row)
    phi = potentials(settings(top=5, iterations=10), logp, log_q, ids, space)
    mass = masses(logp, ids).exp()
    torch.testing.assert_close(mass.sum(-1), torch.ones(40))
    torch.testing.assert_close((mass * phi).sum(-1), torch.zeros(40), atol=1e-5, rtol=0)
    at_targets = wasserstein(settings(top=5, iterations=10), policy, anchor, targets, space)
    position = (ids == targets[:, None]).nonzero()[:, 1]
    assert torch.equal(at_targets, phi[torch.arange(40), position])


def test_tokens_outside_the_support_have_the_potential_of_the_bucket() -> None:
    policy, anchor, space = random_logits(5, 12)
    cfg = settings("vocabulary", top=2, iterations=10)
    logits, targets = policy.clone().requires_grad_(), torch.arange(5)
    logp, log_q = policy.log_softmax(-1), anchor.log_softmax(-1)
    ids = support(logp, log_q, targets, 2)
    phi = potentials(cfg, logp, log_q, ids, space)
    by_token = phi[:, -1:].expand(5, 12).scatter(-1, ids, phi[:, :-1])
    found = wasserstein(cfg, logits, anchor, targets, space)
    torch.testing.assert_close(found, ((logp.exp() - log_q.exp()) * by_token).sum(-1), rtol=1e-4, atol=1e-5)
    # E[phi grad log pi] by the logits is pi (phi - E[phi]).
    expected = logp.exp() * (by_token - (logp.exp() * by_token).sum(-1, keepdim=True))
    torch.testing.assert_close(torch.autograd.grad(found.sum(), logits)[0], expected, rtol=1e-4, atol=1e-5)
    assert (phi[:, -1].abs() > 0.05).any()


def test_with_top_of_the_whole_vocabulary_the_potential_is_the_untruncated_one() -> None:
    policy, anchor, space = random_logits(20, 12)
    logp, log_q = policy.log_softmax(-1), anchor.log_softmax(-1)
    all_tokens = torch.arange(12).expand(20, 12)
    log_kernel = kernel(space, all_tokens, EPSILON)[:, :-1, :-1]
    plain = row_potential(logp, log_q, log_kernel, EPSILON, 10) - row_potential(logp, logp, log_kernel, EPSILON, 10)
    plain = plain - (logp.exp() * plain).sum(-1, keepdim=True)
    targets = torch.arange(20) % 12
    expected = plain[torch.arange(20), targets]
    for top in (12, 6, 100):  # K = min(2 top + 1, 12) is 12 for each
        found = wasserstein(settings(top=top, iterations=10), policy, anchor, targets, space)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        wasserstein(settings(top=1, iterations=10), policy, anchor, targets, space), expected, atol=1e-2
    )


def test_the_kernel_keeps_neighbours_of_either_token_and_no_other_pair() -> None:
    line = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    # The nearest other token of 0 is 1, of 1 is 0, of 3 is 1 (2 away), of 7 is 3 (4 away).
    log_kernel = kernel(token_space(line, 1), torch.arange(4)[None], epsilon=0.5)[0]
    no = -torch.inf
    expected = torch.tensor(
        [
            [0.0, -2.0, no, no, no],
            [-2.0, 0.0, -4.0, no, no],
            [no, -4.0, 0.0, -8.0, no],
            [no, no, -8.0, 0.0, no],
            [no, no, no, no, 0.0],
        ]
    )
    torch.testing.assert_close(log_kernel, expected)
    assert torch.equal(
        kernel(token_space(line, 3), torch.arange(4)[None], 0.5)[0, :4, :4], -torch.cdist(line, line) * 2
    )


def test_potentials_are_finite_at_large_costs_and_small_probabilities() -> None:
    policy, anchor, _ = random_logits(30, 20)
    space = token_space(1000 * torch.randn(20, 3, generator=torch.Generator().manual_seed(1)), 19)
    cfg = settings(top=4, epsilon=0.01, iterations=10)
    found = wasserstein(cfg, 40 * policy, anchor, torch.arange(30) % 20, space)  # costs over epsilon are about 1e5
    assert found.isfinite().all() and found.abs().max() > 0.1


def test_without_neighbours_it_is_the_reverse_kl_times_the_sweeps_minus_one() -> None:
    cfg = settings(epsilon=0.1, iterations=6, neighbours=0)
    space = space_of(neighbours=0)
    found = [
        float(wasserstein(cfg, POLICY.log()[None], REFERENCE.log()[None], torch.tensor([token]), space))
        for token in range(3)
    ]
    log_u = (POLICY / REFERENCE).log()
    assert found == pytest.approx((0.1 * 5 * (log_u - kl(POLICY, REFERENCE))).tolist())
    over = replace(cfg, wiring="vocabulary", estimator="exact")
    value = float(wasserstein(over, POLICY.log()[None], REFERENCE.log()[None], torch.tensor([0]), space))
    # E_p[phi] - E_q[phi] = 0.5 (KL(p || q) + KL(q || p)) = 0.5 (.0851228 + .0920328)
    assert value == pytest.approx(0.5 * 0.1771556, abs=1e-6)


def gradient(cfg: TermConfig, sampled_from: Tensor) -> tuple[Tensor, float]:
    """Return the gradient by the logits over ten answers with the frequencies of `sampled_from`, and the metric."""
    tokens = torch.tensor(in_tenths(sampled_from))
    whole = objective(terms={"divergence": cfg}, clip=ClipConfig(kind="none"))
    batch = make_batch(
        [("explore", 0, 1.0, [token]) for token in tokens.tolist()],
        logp_sampler=sampled_from.log()[tokens],
        logp_reference=REFERENCE.log()[tokens],
    )
    logits = POLICY.log().requires_grad_()
    rows = logits.expand(len(tokens), 3)
    read = wasserstein(cfg, rows, REFERENCE.log().expand_as(rows), tokens, space_of())
    logp = logits.log_softmax(0)[tokens]
    scores = Scores(logp=logp, entropy=torch.zeros_like(logp), log_vocabulary=1.0, exact={"divergence": read})
    value, stats = loss(scores, credit(batch, whole, state_of(0.5)), whole, {"divergence": 0.5})
    return torch.autograd.grad(value, logits)[0], float(
        stats["terms/divergence/value"][0] / stats["terms/divergence/value"][1]
    )


def test_both_wirings_have_the_same_expected_gradient_and_value() -> None:
    exact, value = gradient(settings("vocabulary"), POLICY)
    joint, sampled = gradient(settings("joint"), POLICY)
    torch.testing.assert_close(joint, exact)
    assert sampled == pytest.approx(value)
    # On stale answers the importance ratio weights the penalty; the vocabulary wiring needs none.
    torch.testing.assert_close(gradient(settings("joint"), OLD)[0], exact)
    assert exact.abs().max() > 0.03


def test_the_sampled_transport_value_is_unbiased_and_0_at_the_anchor() -> None:
    phi = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    sampled = sampled_transport_value(phi, POLICY.log(), REFERENCE.log())
    assert float((POLICY * sampled).sum()) == pytest.approx(float(((POLICY - REFERENCE) * phi).sum()))
    assert not sampled_transport_value(phi, POLICY.log(), POLICY.log()).any()


@pytest.mark.parametrize("wiring", ["joint", "vocabulary"])
def test_no_split_into_microbatches_changes_loss_gradient_or_metrics(wiring: str) -> None:
    cfg = objective(terms={"divergence": settings(wiring, top=2, iterations=10)})
    batch, policy = credited(batch_for(cfg), cfg), weights()
    whole = run(policy, [batch], cfg)
    split = run(policy, [part for parts in partition(batch, 2, 20) for part in parts], cfg)
    assert split[0] == pytest.approx(whole[0], rel=1e-5)
    torch.testing.assert_close(split[1], whole[1], rtol=1e-4, atol=1e-6)
    assert means(split[2])["terms/divergence/value"] == pytest.approx(
        means(whole[2])["terms/divergence/value"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("choices", "rule"),
    [
        ({"wiring": "loss", "estimator": "k3"}, "wiring: must be one of joint, vocabulary for wasserstein"),
        ({"wiring": "reward", "estimator": "k1"}, "wiring: must be one of joint, vocabulary for wasserstein"),
        ({"anchor": "old"}, "anchor: must be a reference"),
        ({"top": 0}, "top: must be positive for wasserstein"),
        ({"normalised": True}, "normalised: must be false for wasserstein"),
    ],
)
def test_settings_without_a_meaning_are_refused(choices: dict[str, object], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        divergence("wasserstein", **({"wiring": "joint", "estimator": "k1", "top": 8} | choices))
