"""Estimators against whole objectives: RPG's table, answers of two or three tokens enumerated, and whole answers."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from objectives.credit import credit
from objectives.divergence.wiring.reward import to_go
from objectives.divergence.wiring.whole_answer import answer_slope, answer_value, linear_exp
from tests.objectives.divergence_settings import EXACT, NAMES, POLICY, REFERENCE, exact_gradient
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, state_of

# RPG, arXiv:2505.17508: gradient weights W with grad J = E_old[W grad log pi], for a reference of its own; with
# pi_ref = pi_old, u = w and v = 1 (section 1.2, the table of the paper).


BETA = 0.3

# Answers of more than one token, enumerated. Tables of logits [2, 3, 3]: by place and by the token before it.

POLICY_TABLE, REFERENCE_TABLE = (
    torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1)
)


def answer_logps(table: Tensor, answer: tuple[int, ...]) -> Tensor:
    """[T]: log-probs of an answer's tokens; the row of the first token is the fourth."""
    before = (3, *answer[:-1])
    return torch.stack([table[t, b].log_softmax(0)[a] for t, (b, a) in enumerate(zip(before, answer, strict=True))])


def expected_gradient(cfg: ObjectiveConfig, length: int) -> Tensor:
    """Sum over all answers of their probability times the gradient of their loss."""
    table = POLICY_TABLE.clone().requires_grad_()
    total = torch.zeros_like(table)
    for answer in itertools.product(range(3), repeat=length):
        logp = answer_logps(table, answer)
        batch = make_batch(
            [("explore", 0, 1.0, list(answer))],
            logp_sampler=logp.detach(),
            logp_reference=answer_logps(REFERENCE_TABLE, answer),
        )
        value, _ = loss_of(logp, credit(batch, cfg, state_of(BETA)), cfg, BETA)
        total += logp.detach().sum().exp() * torch.autograd.grad(value, table)[0]
    return total


def of_prefixes(length: int, each: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The exact gradient of E_pi[sum_t D(pi(. | prefix) || reference(. | prefix))]."""
    table = POLICY_TABLE.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for t in range(length):
        for prefix in itertools.product(range(3), repeat=t):
            row = (t, prefix[-1] if prefix else 3)
            reached = answer_logps(table, prefix).sum().exp() if prefix else torch.ones(())
            total = total + reached * each(table[row].softmax(0), REFERENCE_TABLE[row].softmax(0))
    return torch.autograd.grad(total, table)[0]


def summed(term: TermConfig) -> ObjectiveConfig:
    return objective(
        terms={"divergence": term}, reduction="sequence_mean_token_sum", advantage="mean_only", ratio="none"
    )


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl", "jensen_shannon", "chi_squared", "tsallis"])
def test_paid_to_the_end_the_reward_wiring_has_the_gradient_through_the_prefixes(name: str, length: int) -> None:
    term = divergence(name, wiring="reward", estimator="k1", horizon="to_go")
    expected = BETA * of_prefixes(length, lambda p, q: EXACT[name](p, q, 0.2))
    torch.testing.assert_close(expected_gradient(summed(term), length), expected, rtol=1e-4, atol=1e-6)


def test_paid_to_the_end_the_reverse_kl_is_that_between_whole_answers() -> None:
    table = POLICY_TABLE.clone().requires_grad_()
    answers = list(itertools.product(range(3), repeat=2))
    logp, reference = (torch.stack([answer_logps(t, a).sum() for a in answers]) for t in (table, REFERENCE_TABLE))
    expected = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), table)[0]
    term = divergence("reverse_kl", wiring="reward", estimator="k1", horizon="to_go")
    torch.testing.assert_close(expected_gradient(summed(term), 2), BETA * expected, rtol=1e-4, atol=1e-6)


def test_paid_at_once_it_has_the_gradient_with_prefixes_held_fixed() -> None:
    table = POLICY_TABLE.clone().requires_grad_()
    first = EXACT["reverse_kl"](table[0, 3].softmax(0), REFERENCE_TABLE[0, 3].softmax(0), 0.2)
    reached = table[0, 3].detach().softmax(0)
    second = sum(
        reached[a] * EXACT["reverse_kl"](table[1, a].softmax(0), REFERENCE_TABLE[1, a].softmax(0), 0.2)
        for a in range(3)
    )
    expected = BETA * torch.autograd.grad(first + second, table)[0]
    term = divergence("reverse_kl", wiring="reward", estimator="k1")
    torch.testing.assert_close(expected_gradient(summed(term), 2), expected, rtol=1e-4, atol=1e-6)
    through = of_prefixes(2, lambda p, q: EXACT["reverse_kl"](p, q, 0.2))
    assert (expected - BETA * through).abs().max() > 1e-3, "the two gradients differ"


def test_sums_to_the_end_stay_inside_their_answer_whatever_stands_in_the_others() -> None:
    logp = torch.tensor([19.0, 18.0, 0.1, 0.2, 0.3])
    term = divergence("chi_squared", wiring="reward", estimator="k1", horizon="to_go")
    seq = torch.tensor([0, 0, 2, 2, 2])
    alone = to_go(term, logp[2:], torch.zeros(3), torch.ones(3), torch.zeros(3).long())
    assert torch.equal(to_go(term, logp, torch.zeros(5), torch.ones(5), seq)[2:], alone)
    kl = divergence("reverse_kl", wiring="reward", estimator="k1", horizon="to_go")
    weights = torch.tensor([1.0, 2.0, 0.5])
    got = to_go(kl, logp[2:], torch.zeros(3), weights, torch.zeros(3).long())
    assert got.tolist() == pytest.approx([0.1 + 0.4 + 0.15, 0.4 + 0.15, 0.15])
    assert to_go(kl, logp[:0], logp[:0], logp[:0], seq[:0]).tolist() == []


# Whole answers: chi-squared regularisation, arXiv:2403.03185.


def whole_answers(name: str) -> Tensor:
    """The exact gradient of D(policy || reference) between answers of two tokens."""
    table = POLICY_TABLE.clone().requires_grad_()
    answers = list(itertools.product(range(3), repeat=2))
    p, q = (torch.stack([answer_logps(t, a).sum() for a in answers]).exp() for t in (table, REFERENCE_TABLE))
    return torch.autograd.grad(EXACT[name](p, q, 0.2), table)[0]


@pytest.mark.parametrize("name", NAMES)
def test_between_whole_answers_the_reward_wiring_is_exact_for_every_divergence(name: str) -> None:
    term = divergence(name, level="sequence", wiring="reward", estimator="k1")
    torch.testing.assert_close(expected_gradient(summed(term), 2), BETA * whole_answers(name), rtol=1e-4, atol=1e-5)


def test_differentiating_the_estimate_of_chi_squared_gives_half_its_gradient_and_the_forward_kls() -> None:
    term = divergence("chi_squared", level="sequence", estimator="k3")
    expected = whole_answers("chi_squared") / 2 + whole_answers("forward_kl")
    torch.testing.assert_close(expected_gradient(summed(term), 2), BETA * expected, rtol=1e-4, atol=1e-5)


def ten_answers(term: TermConfig, policy: Tensor = POLICY, reference: Tensor = REFERENCE) -> Tensor:
    """Gradient by the logits of a term between answers of one token and one of a sure token, dealt out in tenths."""
    tokens = [token for token, share in enumerate(policy.tolist()) for _ in range(round(10 * share))]
    logits = policy.log().requires_grad_()
    logp = torch.stack([logits.log_softmax(0)[tokens], torch.zeros(10).double()], 1).flatten()
    reference_logp = torch.stack([reference.log()[tokens], torch.zeros(10).double()], 1).flatten()
    answers = [("explore", 0, 1.0, [token, 0]) for token in tokens]
    batch = make_batch(answers, logp_sampler=logp.detach(), logp_reference=reference_logp)
    cfg = summed(term)
    value, _ = loss_of(logp, credit(batch, cfg, state_of(BETA)), cfg, BETA)
    return torch.autograd.grad(value, logits)[0]


def test_the_square_root_of_chi_squared_is_exact_in_the_reward_and_as_published_in_the_loss() -> None:
    # chi2 = .1633333 on the test vector; grad sqrt(chi2) = grad chi2 / (2 sqrt(chi2))
    slope = 1 / (2 * math.sqrt(0.04 / 0.5 + 0.01 / 0.3 + 0.01 / 0.2))
    chi, forward = exact_gradient("chi_squared"), exact_gradient("forward_kl")
    reward = divergence("chi_squared", level="sequence", root=True, wiring="reward", estimator="k1")
    torch.testing.assert_close(ten_answers(reward), BETA * slope * chi, rtol=1e-4, atol=1e-6)
    published = divergence("chi_squared", level="sequence", root=True, estimator="k3")
    torch.testing.assert_close(ten_answers(published), BETA * slope * (chi / 2 + forward), rtol=1e-4, atol=1e-6)
    for term in (reward, published):
        assert ten_answers(term, POLICY, POLICY).tolist() == [0.0, 0.0, 0.0]  # below the floor: no slope


def test_a_long_answer_neither_overflows_nor_loses_its_pull() -> None:
    log_u = torch.tensor([-3.0, 10.0, 11.0, 300.0], requires_grad=True)
    got = linear_exp(log_u)
    assert got.tolist() == pytest.approx([math.exp(-3), math.exp(10), 2 * math.exp(10), 291 * math.exp(10)], rel=1e-5)
    assert torch.autograd.grad(got.sum(), log_u)[0][2:].tolist() == pytest.approx([math.exp(10)] * 2, rel=1e-5)
    term = divergence("chi_squared", level="sequence", estimator="k3")
    for sign in (1.0, -1.0):
        far = torch.tensor([sign * 300], requires_grad=True)
        (pull,) = torch.autograd.grad(answer_value(term, far).sum(), far)
        assert pull.item() == pytest.approx(sign * math.exp(10), rel=1e-3)
        assert answer_slope(replace(term, wiring="reward", estimator="k1"), far).isfinite().all()


def test_near_the_reference_chi_squared_between_answers_is_the_square_of_their_log_ratio() -> None:
    log_u = torch.tensor([0.01, -0.02], dtype=torch.float64)
    value = answer_value(divergence("chi_squared", level="sequence", estimator="k3"), log_u)
    torch.testing.assert_close(value, log_u.square(), rtol=1e-3, atol=0)
