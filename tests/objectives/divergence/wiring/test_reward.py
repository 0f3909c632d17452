"""Reward wiring: the detached slope is subtracted from the advantage, at its token or summed to the answer's end."""

import itertools

import pytest
import torch
from torch import Tensor

from objectives.divergence.estimators import slope
from objectives.divergence.wiring.reward import penalty
from tests.objectives.divergence.wiring.enumerated_answers import (
    BETA,
    POLICY_TABLE,
    REFERENCE_TABLE,
    answer_logps,
    expected_gradient,
    gradient_through_prefixes,
    summed,
)
from tests.objectives.divergence_settings import EXACT, POLICY, REFERENCE
from tests.objectives.ragged_batch import divergence


@pytest.mark.parametrize("length", [2, 3])
@pytest.mark.parametrize("name", ["reverse_kl", "forward_kl", "jensen_shannon", "chi_squared", "tsallis"])
def test_with_horizon_to_go_the_gradient_goes_through_the_prefixes(name: str, length: int) -> None:
    term = divergence(name, wiring="reward", estimator="k1", horizon="to_go")
    expected = BETA * gradient_through_prefixes(length, lambda p, q: EXACT[name](p, q, 0.2))
    torch.testing.assert_close(expected_gradient(summed(term), length), expected, rtol=1e-4, atol=1e-6)


def test_with_horizon_to_go_the_reverse_kl_is_that_between_whole_answers() -> None:
    table = POLICY_TABLE.clone().requires_grad_()
    answers = list(itertools.product(range(3), repeat=2))
    logp, reference = (torch.stack([answer_logps(t, a).sum() for a in answers]) for t in (table, REFERENCE_TABLE))
    expected = torch.autograd.grad((logp.exp() * (logp - reference)).sum(), table)[0]
    term = divergence("reverse_kl", wiring="reward", estimator="k1", horizon="to_go")
    torch.testing.assert_close(expected_gradient(summed(term), 2), BETA * expected, rtol=1e-4, atol=1e-6)


def test_with_horizon_token_the_gradient_holds_the_prefixes_fixed() -> None:
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
    through = gradient_through_prefixes(2, lambda p, q: EXACT["reverse_kl"](p, q, 0.2))
    assert (expected - BETA * through).abs().max() > 1e-3, "the two gradients differ"


def test_sums_to_the_end_of_an_answer_do_not_depend_on_other_answers() -> None:
    logp = torch.tensor([19.0, 18.0, 0.1, 0.2, 0.3])
    term = divergence("chi_squared", wiring="reward", estimator="k1", horizon="to_go")
    seq = torch.tensor([0, 0, 2, 2, 2])
    alone = penalty(term, logp[2:], torch.zeros(3), torch.ones(3), torch.zeros(3).long())
    assert torch.equal(penalty(term, logp, torch.zeros(5), torch.ones(5), seq)[2:], alone)
    kl = divergence("reverse_kl", wiring="reward", estimator="k1", horizon="to_go")
    weights = torch.tensor([1.0, 2.0, 0.5])
    got = penalty(kl, logp[2:], torch.zeros(3), weights, torch.zeros(3).long())
    assert got.tolist() == pytest.approx([0.1 + 0.4 + 0.15, 0.4 + 0.15, 0.15])
    assert penalty(kl, logp[:0], logp[:0], logp[:0], seq[:0]).tolist() == []


@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon", "tsallis"])
def test_with_horizon_later_and_the_exact_part_of_each_token_the_gradient_goes_through_the_prefixes(name: str) -> None:
    later = divergence(name, wiring="reward", estimator="k1", horizon="later")
    own = divergence(name, wiring="reward", estimator="k1")
    both = expected_gradient(summed(later), 3) + expected_gradient(summed(own), 3)
    expected = BETA * gradient_through_prefixes(3, lambda p, q: EXACT[name](p, q, 0.2))
    torch.testing.assert_close(both, expected, rtol=1e-4, atol=1e-6)
    assert expected_gradient(summed(later), 1).abs().max() == 0, "one token has no later ones"


def test_with_horizon_later_mean_the_sum_over_later_tokens_is_divided_by_their_number() -> None:
    logp, seq = torch.tensor([0.1, 0.2, 0.3, 0.6, 0.5]), torch.tensor([0, 0, 0, 0, 1])
    found = {}
    for horizon in ("later", "later_mean"):
        term = divergence("reverse_kl", wiring="reward", estimator="k1", horizon=horizon)
        found[horizon] = penalty(term, logp, torch.zeros(5), torch.ones(5), seq).tolist()
    assert found["later"] == pytest.approx([1.1, 0.9, 0.6, 0.0, 0.0])
    assert found["later_mean"] == pytest.approx([1.1 / 3, 0.9 / 2, 0.6, 0.0, 0.0])


def test_the_penalty_of_the_reverse_kl_is_k1() -> None:
    cfg = divergence("reverse_kl", wiring="reward", estimator="k1")
    penalty: Tensor = slope(cfg, POLICY.log().requires_grad_(), REFERENCE.log())
    torch.testing.assert_close(penalty, (POLICY / REFERENCE).log())
    assert not penalty.requires_grad
