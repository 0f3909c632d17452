"""Measure the bias of terms with `root`, whose gradient depends on the mean of the batch, over all possible batches."""

import itertools
import math
import sys
from functools import cache
from pathlib import Path

import torch
from error_tables import PAIRS, number, table
from exact_gradients import batch_of, exact_gradient, loss_of, term_of
from torch import Tensor
from world import World

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.terms import TermConfig

BATCHES = (2, 4, 8)
"""Batch sizes for terms with `root`, whose gradient is not a mean over answers."""


def rooted(term: TermConfig, where: World, answers: int) -> Tensor:
    """Return the expected gradient [R * V] of a batch of `answers` on-policy answers, over all possible batches.

    The slope of a root is evaluated at the batch's own mean, so a batch's gradient is not the mean over its answers.
    """
    probability = where.probabilities(where.policy)
    total = torch.zeros(where.policy.numel(), dtype=torch.float64)
    for chosen in itertools.combinations_with_replacement(range(len(probability)), answers):
        positions = torch.tensor(chosen)
        counts = torch.bincount(positions, minlength=len(probability)).double()
        orders = math.lgamma(answers + 1) - float((counts + 1).lgamma().sum())
        tables = where.policy.expand(answers, -1, -1).clone().requires_grad_()
        logp = tables.log_softmax(-1)[torch.arange(answers), 0, where.answers[positions, 0]][:, None]
        value = loss_of(term, where, logp, tables, batch_of(term.route, where, chosen, where.policy))
        gradient = torch.autograd.grad(value, tables)[0].sum(0).flatten()
        total += math.exp(orders + float(counts @ probability.log())) * gradient
    return total


@cache
def root_errors() -> dict[str, list[float]]:
    """Return the relative error of the expected gradient of each setting with `root`, for batches of BATCHES answers.

    The error is against the gradient of the root; for k3 it is against the gradient that show-config describes. The
    vocabulary has three tokens, so that all batches can be enumerated.
    """
    tables = (PAIRS["middle"].policy, PAIRS["middle"].reference, PAIRS["middle"].older)
    where = World(*(logits[:, :3] for logits in tables))
    forward = exact_gradient(where, "forward_kl", "whole")[1]
    found = {}
    for name in ("reverse_kl", "chi_squared"):
        value, gradient = exact_gradient(where, name, "whole")
        differentiated = forward if name == "reverse_kl" else gradient / 2 + forward
        for wiring, estimator, target in (("reward", "k1", gradient), ("loss", "k3", differentiated)):
            term = term_of(name, level="sequence", root=True, wiring=wiring, estimator=estimator)
            target = target / (2 * math.sqrt(value))
            errors = [float((rooted(term, where, count) - target).norm() / target.norm()) for count in BATCHES]
            found[f"{wiring} `{estimator}`, `{name}`"] = errors
    return found


def root_table() -> str:
    """Return the table of `root_errors`."""
    body = [[title, *map(number, errors)] for title, errors in root_errors().items()]
    return table(["with `root`", *(f"{count} answers" for count in BATCHES)], body)
