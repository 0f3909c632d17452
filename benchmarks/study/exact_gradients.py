"""What every setting of a divergence term does in expectation, by enumerating all answers of a small policy.

Everything goes through `credit` and `loss`, as in training: a batch holds every answer once, each with a copy of the
policy of its own, so that one backward pass gives the gradient of every draw. Axes: A answers, T tokens of an answer,
R rows of the policy (one for the first token, one for each first token after it), V vocabulary. All in float64.
"""

import copy
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.divergences import DIVERGENCES
from configs.forms import Estimator, Route, Wiring
from configs.objective import ClipConfig, ObjectiveConfig
from configs.terms import TermConfig
from objectives.coefficient.controllers import ObjectiveState
from objectives.credit import credit
from objectives.divergence.distributions import vocabulary_values
from objectives.divergence.estimators import sampled_value
from objectives.divergence.f_divergences import F_DIVERGENCES
from objectives.divergence.wiring.explore_loss import token_loss as explore_loss
from objectives.divergence.wiring.rehearse import token_loss as rehearse_loss
from objectives.divergence.wiring.whole_answer import answer_value
from objectives.objective import Scores, loss
from objectives.reduce import sum_by_trajectory
from trajectories.batch import Batch, pack
from trajectories.trajectory import Grade, Group, Prompt, Trajectory

LEFT_OUT = ("wasserstein", "batch_sinkhorn")
"""Need more than two distributions: where tokens are, or the answers around them."""
NAMES = [name for name in DIVERGENCES if name not in LEFT_OUT]
ALPHA = {"tsallis": 2.0}
"""Where the default, 0.2, is not what is looked at."""
REFERENCE = (0.32, 0.22, 0.16, 0.12, 0.08, 0.05, 0.03, 0.02)
AWAY = (0.5, -1.1, 0.9, -0.3, 1.4, -1.6, 0.8, -0.7)
"""Direction, in logits, from the reference to the policy."""
ASIDE = (-0.6, 0.9, 0.4, -1.2, 0.3, 1.0, -0.8, 0.7)
"""Direction from the policy to the older one that gave stale answers."""
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
        """int64 [A, T]"""
        rows, size = self.policy.shape
        return torch.tensor(list(itertools.product(range(size), repeat=1 if rows == 1 else 2)))

    def logps(self, tables: Tensor) -> Tensor:
        """[A, T] from logits [R, V], or from one table for each answer [A, R, V]."""
        answers = self.answers
        rows = torch.cat([torch.zeros_like(answers[:, :1]), 1 + answers[:, :-1]], 1)
        each = torch.arange(len(answers))[:, None]
        return tables.expand(len(answers), -1, -1).log_softmax(-1)[each, rows, answers]

    def chances(self, table: Tensor) -> Tensor:
        """[A]"""
        return fixed(self, table).sum(1).exp()

    def kl(self, table: Tensor, other: Tensor) -> Tensor:
        """KL(table || other) between whole answers, nats."""
        logp = self.logps(table).sum(1)
        return (logp.exp() * (logp - self.logps(other).sum(1))).sum()


@cache
def fixed(where: World, table: Tensor) -> Tensor:
    """Log-probs [A, T] of logits that neither change nor have a gradient."""
    return where.logps(table)


def world(nats: float, two_tokens: bool = False) -> World:
    """The policy `nats` away from its reference, the older policy STALENESS away from the policy."""
    reference, away, aside = (torch.tensor([row], dtype=torch.float64) for row in (REFERENCE, AWAY, ASIDE))
    reference = reference.log()
    if two_tokens:  # rows of four tokens, each row with numbers of its own
        rows = (reference[0], away[0], aside[0])
        reference, away, aside = (torch.stack([row.roll(-3 * r)[:4] for r in range(5)]) for row in rows)
    still = World(reference, reference, reference)
    policy = _moved(reference, away, lambda table: float(still.kl(table, reference)), nats)
    older = _moved(policy, aside, lambda table: float(still.kl(policy, table)), STALENESS)
    return World(policy, reference, older)


def _moved(start: Tensor, direction: Tensor, distance: Callable[[Tensor], float], nats: float) -> Tensor:
    """`start` moved along `direction` until `distance` is `nats`, by bisection."""
    low, high = 0.0, 64.0
    assert distance(start + high * direction) > nats, f"{nats} nats are out of reach"
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if distance(start + middle * direction) < nats else (low, middle)
    return start + low * direction


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def mixed_kl(logits: Tensor, anchor: Tensor, alpha: float, held: bool = True) -> Tensor:
    """BD-KD's mixture of both KLs; `held`: its weight carries no gradient."""
    p, q = logits.softmax(-1), anchor.softmax(-1)
    gap = -(p * p.log()).sum() + (q * q.log()).sum()
    g = ((gap.detach() if held else gap) / alpha).sigmoid()
    return (1 - g) * kl(q, p) + g * kl(p, q)


def plackett_luce(logits: Tensor, anchor: Tensor, alpha: float) -> Tensor:
    """-sum_k q_k log(p_k / sum_{l >= k} p_l), classes in the order of the anchor."""
    order = anchor.argsort(descending=True)
    p, q = logits.softmax(-1)[order], anchor.softmax(-1)[order]
    return -sum((q[k] * (p[k] / p[k:].sum()).log() for k in range(len(p))), torch.zeros_like(p[0]))


NO_F: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"mixed_kl": mixed_kl, "plackett_luce": plackett_luce}


def exact(name: str, logits: Tensor, anchor: Tensor, alpha: float) -> Tensor:
    """D between two categorical distributions, from logits [V]: E_anchor[f(u)], or what `name` is besides."""
    if not DIVERGENCES[name].is_f_divergence:
        return NO_F[name](logits, anchor, alpha)
    log_u = logits.log_softmax(-1) - anchor.log_softmax(-1)
    return (anchor.softmax(-1) * F_DIVERGENCES[name](log_u, alpha).value).sum()


@cache
def exact_gradient(where: World, name: str, kind: str = "held") -> tuple[float, Tensor]:
    """Value, and gradient [R * V] by the policy's logits, of a divergence over answers of the policy.

    held: summed over the tokens, prefixes held fixed; older: the same at the prefixes of the older policy; through: of
    the policy, through the prefixes too; whole: between whole answers.
    """
    alpha = ALPHA.get(name, 0.2)
    table = where.policy.clone().requires_grad_()
    if kind == "whole":
        value = exact(name, where.logps(table).sum(1), fixed(where, where.reference).sum(1), alpha)
    else:
        rows = [exact(name, row, anchor, alpha) for row, anchor in zip(table, where.reference, strict=True)]
        first = (where.older if kind == "older" else table)[0].softmax(-1)
        reached = first if kind == "through" else first.detach()
        value = rows[0] + sum(chance * row for chance, row in zip(reached, rows[1:], strict=False))
    (gradient,) = torch.autograd.grad(value, table)
    return value.item(), gradient.flatten()


def term_of(name: str, **choices: Any) -> TermConfig:
    """Raises ValueError where the config refuses it."""
    return TermConfig(name=name, alpha=ALPHA.get(name, 0.2), **choices)


def accepted(name: str) -> Iterator[TermConfig]:
    """Every source of answers, wiring, estimator and form that the config accepts at the level of tokens."""
    choices = get_args(Route), get_args(Wiring), get_args(Estimator), (False, True)
    for route, wiring, estimator, normalised in itertools.product(*choices):
        try:
            yield term_of(name, route=route, wiring=wiring, estimator=estimator, normalised=normalised)
        except ValueError:
            continue


def differentiated_k1(name: str) -> TermConfig:
    """f(u) / u on the policy's own answers, differentiated as it stands, which the config refuses."""
    term = copy.copy(term_of(name, estimator="naive"))
    object.__setattr__(term, "normalised", True)
    return term


def label(term: TermConfig) -> str:
    """`stored` or `own`, wiring and estimator, and the form."""
    if term.estimator == "naive" and term.normalised:
        return "own, loss k1 (refused)"
    whole = "whole answers" if term.level == "sequence" else "own"
    form = ", normalised" if term.normalised else ""
    form += ", to_go" if term.horizon == "to_go" else ""
    return f"{'stored' if term.rehearses else whole}, {term.wiring} {term.estimator}{form}"


@cache
def batch_of(stored: bool, where: World, chosen: tuple[int, ...], given_by: Tensor) -> Batch:
    """The answers `chosen` (places among all) as a batch that the policy of logits `given_by` gave."""
    answers, logps = where.answers[list(chosen)], fixed(where, given_by)[list(chosen)].numpy()
    trajectories = tuple(
        Trajectory(
            prompt_id="study/0",
            sample_index=k,
            tokens=answer,
            mask=np.ones(len(answer), dtype=bool),
            logp_sampler=logps[k],
            first_version=0,
            last_version=0,
            finish_reason="stop",
            seed=0,
            text="",
            route="rehearse" if stored else "explore",
            grade=None if stored else Grade(reward=1.0, status="correct"),
        )
        for k, answer in enumerate(answers.numpy())
    )
    prompt = Prompt(id="study/0", position=0, text="", verifier="math", problem={})
    batch = pack([], trajectories) if stored else pack([Group(prompt=prompt, trajectories=trajectories)])
    return replace(  # a batch is float32
        batch,
        reward=batch.reward.double(),
        logp_sampler=torch.from_numpy(logps).flatten(),
        logp_reference=fixed(where, where.reference)[list(chosen)].flatten(),
    )


def loss_of(term: TermConfig, where: World, logp: Tensor, tables: Tensor, batch: Batch) -> Tensor:
    """`credit`, then `loss`, of log-probs [A, T] that logits [A, R, V] made: the term alone, and nothing clipped."""
    clip, ones = ClipConfig(kind="none"), {"divergence": 1.0}
    whole = ObjectiveConfig(
        terms={"divergence": term}, clip=clip, advantage="mean_only", reduction="sequence_mean_token_sum"
    )
    batch = credit(batch, whole, ObjectiveState(coefficients=ones))
    values = {}
    if term.exact:
        assert tables.shape[1] == 1, "the vocabulary wiring is looked at on answers of one token"
        values["divergence"] = vocabulary_values(
            term, tables[:, 0], where.reference.expand_as(tables[:, 0]), batch.tokens
        )
    scores = Scores(
        logp=logp.flatten(),
        entropy=torch.zeros(logp.numel(), dtype=torch.float64),
        log_vocabulary=math.log(tables.shape[-1]),
        exact=values,
    )
    return loss(scores, batch, whole, ones)[0]


def gradients(term: TermConfig, where: World, given_by: Tensor) -> Tensor:
    """[A, R * V]: what one draw of each answer, given by logits `given_by`, says of the gradient."""
    count = len(where.answers)
    tables = where.policy.expand(count, -1, -1).clone().requires_grad_()
    batch = batch_of(term.rehearses, where, tuple(range(count)), given_by)
    value = loss_of(term, where, where.logps(tables), tables, batch)
    return count * torch.autograd.grad(value, tables)[0].flatten(1)


def values(term: TermConfig, where: World, given_by: Tensor) -> Tensor:
    """[A]: the term's value on one draw of each answer; what is reported of it, where it is no part of the loss."""
    logp, reference, old = (fixed(where, table) for table in (where.policy, where.reference, given_by))
    if term.exact:
        logits, anchor = (t.expand(len(logp), -1) for t in (where.policy, where.reference))
        return vocabulary_values(term, logits, anchor, where.answers[:, 0])
    if term.level == "sequence":
        seq = torch.arange(len(logp)).repeat_interleave(logp.shape[1])
        return answer_value(term, sum_by_trajectory((logp - reference).flatten(), seq, len(logp)))
    if term.rehearses:
        each = rehearse_loss(term, logp, reference)
    elif term.wiring == "loss":
        each = explore_loss(term, logp, reference, old)
    else:
        each = sampled_value(term, logp, reference)
    return each.sum(1)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Exact mean and spread of one draw, all relative to the exact value, or to the norm of the exact gradient."""

    value_bias: float
    value_spread: float
    """Standard deviation."""
    bias: float
    """|E[gradient] - exact| / |exact|"""
    cosine: float
    """Of the expected with the exact gradient; NaN where the expected one is 0."""
    noise: float
    """sqrt(E|gradient - E[gradient]|^2) / |exact|: its square answers are needed for noise as large as the signal."""


def measure(term: TermConfig, where: World, *, stale: bool = False, target: str = "", kind: str = "held") -> Measured:
    """`term` against the divergence `target` (its own without one), on answers of the policy, of the older one if
    `stale`, or of the reference for stored ones."""
    given_by = where.reference if term.rehearses else where.older if stale else where.policy
    chance = where.chances(given_by)
    value, gradient = exact_gradient(where, target or term.name, kind)
    drawn, each = values(term, where, given_by), gradients(term, where, given_by)
    mean, mean_value = chance @ each, float(chance @ drawn)
    size, norm = float(mean.norm()), float(gradient.norm())
    return Measured(
        value_bias=(mean_value - value) / value,
        value_spread=math.sqrt(float(chance @ (drawn - mean_value).square())) / value,
        bias=float((mean - gradient).norm()) / norm,
        cosine=float(mean @ gradient) / (size * norm) if size > 1e-12 else math.nan,
        noise=math.sqrt(float(chance @ (each - mean).square().sum(1))) / norm,
    )
