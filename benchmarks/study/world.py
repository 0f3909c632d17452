"""A small policy, its reference and an older policy, at given distances, whose answers can be enumerated.

Axes: A answers, T tokens of an answer, R rows of the policy's logits (one for the first token, and one per first token
for the second), V vocabulary. All tensors are float64.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

REFERENCE = (0.32, 0.22, 0.16, 0.12, 0.08, 0.05, 0.03, 0.02)
AWAY = (0.5, -1.1, 0.9, -0.3, 1.4, -1.6, 0.8, -0.7)
"""Direction in logits from the reference to the policy."""
ASIDE = (-0.6, 0.9, 0.4, -1.2, 0.3, 1.0, -0.8, 0.7)
"""Direction in logits from the policy to the older policy, which samples the stale answers."""
DISTANCES = {"near": 0.01, "middle": 0.1, "far": 1.0}
"""KL(policy || reference), nats."""
STALENESS = 0.01
"""KL(policy || older policy), nats."""


@dataclass(frozen=True, eq=False)
class World:
    """A policy, its reference, and an older policy, as logits [R, V], over answers of one or two tokens."""

    policy: Tensor
    reference: Tensor
    older: Tensor

    @cached_property
    def answers(self) -> Tensor:
        """Return the tokens of every possible answer, int64 [A, T]."""
        rows, size = self.policy.shape
        return torch.tensor(list(itertools.product(range(size), repeat=1 if rows == 1 else 2)))

    def logps(self, tables: Tensor) -> Tensor:
        """Return token log-probs [A, T] under logits [R, V], or under one copy of the logits per answer [A, R, V]."""
        answers = self.answers
        rows = torch.cat([torch.zeros_like(answers[:, :1]), 1 + answers[:, :-1]], 1)
        each = torch.arange(len(answers))[:, None]
        return tables.expand(len(answers), -1, -1).log_softmax(-1)[each, rows, answers]

    def probabilities(self, table: Tensor) -> Tensor:
        """Return the probability of every answer [A] under logits [R, V]."""
        return fixed(self, table).sum(1).exp()

    def kl(self, table: Tensor, other: Tensor) -> Tensor:
        """Return KL(table || other) between whole answers, in nats."""
        logp = self.logps(table).sum(1)
        return (logp.exp() * (logp - self.logps(other).sum(1))).sum()


@cache
def fixed(where: World, table: Tensor) -> Tensor:
    """Return cached log-probs [A, T] of logits that have no gradient."""
    return where.logps(table)


def world(nats: float, two_tokens: bool = False) -> World:
    """Return a policy at KL `nats` from its reference, and an older policy at KL STALENESS from the policy."""
    reference, away, aside = (torch.tensor([row], dtype=torch.float64) for row in (REFERENCE, AWAY, ASIDE))
    reference = reference.log()
    if two_tokens:  # vocabulary of 4; every row has other logits
        rows = (reference[0], away[0], aside[0])
        reference, away, aside = (torch.stack([row.roll(-3 * r)[:4] for r in range(5)]) for row in rows)
    start = World(reference, reference, reference)
    policy = _moved(reference, away, lambda table: float(start.kl(table, reference)), nats)
    older = _moved(policy, aside, lambda table: float(start.kl(policy, table)), STALENESS)
    return World(policy, reference, older)


def _moved(start: Tensor, direction: Tensor, distance: Callable[[Tensor], float], nats: float) -> Tensor:
    """Move `start` along `direction` until `distance` is `nats`, by bisection."""
    low, high = 0.0, 64.0
    assert distance(start + high * direction) > nats, f"{nats} nats cannot be reached along this direction"
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(start + middle * direction) < nats else (low, middle)
    return start + low * direction
