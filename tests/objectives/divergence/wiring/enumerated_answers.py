"""Enumerate all answers of two or three tokens: the expected gradient of a term, and the exact gradient."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from objectives.credit import credit
from tests.objectives.ragged_batch import loss_of, make_batch, objective, state_of

BETA = 0.3


POLICY_TABLE, REFERENCE_TABLE = (
    torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1)
)
"""Logits [3, 4, 3] of the next token by position and previous token; row 3 is for the first token."""


def answer_logps(table: Tensor, answer: tuple[int, ...]) -> Tensor:
    """Return the log-probs [T] of an answer's tokens under a table of logits."""
    before = (3, *answer[:-1])
    return torch.stack([table[t, b].log_softmax(0)[a] for t, (b, a) in enumerate(zip(before, answer, strict=True))])


def expected_gradient(cfg: ObjectiveConfig, length: int) -> Tensor:
    """Return the sum over all answers of probability times gradient of the loss, by the logits of the policy."""
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


def gradient_through_prefixes(length: int, each: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the exact gradient of E_pi[sum_t D(pi(. | prefix) || reference(. | prefix))]."""
    table = POLICY_TABLE.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for t in range(length):
        for prefix in itertools.product(range(3), repeat=t):
            row = (t, prefix[-1] if prefix else 3)
            reached = answer_logps(table, prefix).sum().exp() if prefix else torch.ones(())
            total = total + reached * each(table[row].softmax(0), REFERENCE_TABLE[row].softmax(0))
    return torch.autograd.grad(total, table)[0]


def summed(term: TermConfig) -> ObjectiveConfig:
    """Return an objective whose loss sums over the tokens of an answer, without an importance ratio."""
    return objective(
        terms={"divergence": term}, reduction="sequence_mean_token_sum", advantage="mean_only", ratio="none"
    )
