"""The squared error of log-probs: the reverse KL on own answers, and a regression on stored ones."""

import pytest
import torch
from torch import Tensor

from objectives.coefficient.controllers import initial_state
from objectives.credit import credit
from objectives.divergence.wiring.rehearse import token_loss
from objectives.objective import loss
from tests.objectives.divergence_settings import (
    COEFFICIENT,
    POLICY,
    REFERENCE,
    estimated_gradient,
    exact_gradient,
    in_tenths,
)
from tests.objectives.equal_objectives import K2, assert_equal_objectives
from tests.objectives.ragged_batch import Answer, divergence, make_batch, objective, scores
from tests.objectives.random_answers import of

PAPERS = {"logp_regression": "2604.00626"}
STORED_K2 = divergence("reverse_kl", route="rehearse", estimator="k2")


def test_half_the_mean_square_of_own_and_of_stored_answers_is_the_loss() -> None:
    # log u is .5, -.5 and 1 on three own tokens, -2 and 1 on two stored ones: .5 (1.5 / 3) / 2 + .5 (5 / 2) / 2 = .75
    answers: list[Answer] = [("explore", 0, 1.0, [1, 2]), ("explore", 0, 0.0, [3]), ("rehearse", -1, None, [4, 5])]
    log_u = torch.tensor([0.5, -0.5, 1.0, -2.0, 1.0])
    batch = make_batch(answers, logp_sampler=torch.zeros(5), logp_reference=-log_u)
    cfg = of("logp_regression")
    state = initial_state(cfg, 10)
    value, stats = loss(scores(torch.zeros(5)), credit(batch, cfg, state), cfg, state.coefficients)
    assert value.item() == pytest.approx(0.75, abs=1e-6)
    assert stats["terms/data/value"].tolist() == pytest.approx([2.5, 2])


def test_the_gradient_is_that_of_the_reverse_kl_on_own_answers_and_of_a_regression_on_the_teachers() -> None:
    own, stored = in_tenths(POLICY), in_tenths(REFERENCE)
    tokens = [*own, *stored]
    answers: list[Answer] = [("explore", 0, 1.0, [token]) for token in own]
    answers += [("rehearse", -1, None, [token]) for token in stored]
    batch = make_batch(answers, logp_sampler=POLICY.log()[tokens], logp_reference=REFERENCE.log()[tokens])
    cfg = of("logp_regression")
    state, logits = initial_state(cfg, 10), POLICY.log().requires_grad_()
    value, _ = loss(scores(logits.log_softmax(0)[tokens]), credit(batch, cfg, state), cfg, state.coefficients)
    found = torch.autograd.grad(value, logits)[0]
    squares = (REFERENCE * (logits.log_softmax(0) - REFERENCE.log()).square()).sum() / 2
    expected = (exact_gradient("reverse_kl") + torch.autograd.grad(squares, logits)[0]) / 2
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sampled_from", [REFERENCE, POLICY], ids=["the reference", "the policy"])
def test_k2_on_stored_answers_has_the_gradient_of_half_the_mean_square_whoever_sampled_them(
    sampled_from: Tensor,
) -> None:
    logits = POLICY.log().requires_grad_()
    log_u = logits.log_softmax(0) - REFERENCE.log()
    expected = torch.autograd.grad((sampled_from * log_u.square()).sum() / 2, logits)[0]
    found = estimated_gradient(STORED_K2, sampled_from)
    torch.testing.assert_close(found, COEFFICIENT * expected, rtol=1e-5, atol=2e-7)
    # Samples of the policy alone make it that of the reverse KL.
    is_reverse = torch.allclose(expected, exact_gradient("reverse_kl"), atol=1e-6)
    assert is_reverse == (sampled_from is POLICY)


def test_a_stored_token_is_pulled_the_harder_the_more_it_is_lost() -> None:
    # The weight on grad log pi is log u; that of k3, u - 1, is -1 at most.
    logp = torch.tensor([-1.0, -5.0, -10.0], dtype=torch.float64, requires_grad=True)
    values = token_loss(STORED_K2, logp, torch.zeros(3))
    assert values.tolist() == pytest.approx([0.5, 12.5, 50.0])
    assert torch.autograd.grad(values.sum(), logp)[0].tolist() == pytest.approx([-1, -5, -10])


def test_k2_on_stored_answers_of_another_divergence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^estimator: must be k1, k3 or supervised for forward_kl on rehearsed"):
        divergence("forward_kl", route="rehearse", estimator="k2")


def test_without_stored_answers_it_is_the_reverse_kl_to_the_reference_alone() -> None:
    cfg = of("logp_regression", "objective.terms.data=null")
    assert_equal_objectives(cfg, objective(advantage="none", terms={"divergence": K2}, reduction="token_mean"))
