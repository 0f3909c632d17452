"""Compute the exact mean and variance of the gradient of every divergence term, by enumerating all answers.

Gradients are computed by `credit` and `loss`, as in training. A batch holds every answer once, and each answer has its
own copy of the policy's logits, so that one backward pass gives the gradient of every answer. Axes: A answers, T tokens
of an answer, R rows of the policy's logits (one for the first token, and one per first token for the second), V
vocabulary. All tensors are float64.
"""

import copy
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor
from world import World, fixed

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.divergences import DIVERGENCES
from configs.forms import Estimator, Route, Wiring
from configs.objective import ObjectiveConfig
from configs.policy_gradient import ClipConfig
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

NAMES = (
    "reverse_kl", "forward_kl", "jensen_shannon", "generalised_jensen_shannon", "alpha", "total_variation",
    "chi_squared", "neyman", "hellinger", "jeffreys", "tsallis", "skew_kl", "skew_reverse_kl", "mixed_kl",
    "plackett_luce",
)  # fmt: skip
"""Divergences on the page. A new divergence joins when its name is added here and the page is written again.
`wasserstein` and `batch_sinkhorn` cannot: they depend on token embeddings, or on other positions of the answer."""
ALPHA = {"tsallis": 2.0}
"""Values of `alpha` other than the default, 0.2."""


def kl(p: Tensor, q: Tensor) -> Tensor:
    """Return KL(p || q) of two categorical distributions."""
    return (p * (p / q).log()).sum()


def mixed_kl(logits: Tensor, anchor: Tensor, alpha: float, held: bool = True) -> Tensor:
    """Return BD-KD's mixture of both KLs. With `held`, its weight is detached."""
    p, q = logits.softmax(-1), anchor.softmax(-1)
    gap = -(p * p.log()).sum() + (q * q.log()).sum()
    g = ((gap.detach() if held else gap) / alpha).sigmoid()
    return (1 - g) * kl(q, p) + g * kl(p, q)


def plackett_luce(logits: Tensor, anchor: Tensor, alpha: float) -> Tensor:
    """Return -sum_k q_k log(p_k / sum_{l >= k} p_l), with tokens in descending order of the anchor's logit."""
    order = anchor.argsort(descending=True)
    p, q = logits.softmax(-1)[order], anchor.softmax(-1)[order]
    return -sum((q[k] * (p[k] / p[k:].sum()).log() for k in range(len(p))), torch.zeros_like(p[0]))


NO_F: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"mixed_kl": mixed_kl, "plackett_luce": plackett_luce}


def exact(name: str, logits: Tensor, anchor: Tensor, alpha: float) -> Tensor:
    """Return D(policy || anchor) of two distributions given by logits [V]: E_anchor[f(u)] for an f-divergence."""
    if not DIVERGENCES[name].is_f_divergence:
        return NO_F[name](logits, anchor, alpha)
    log_u = logits.log_softmax(-1) - anchor.log_softmax(-1)
    return (anchor.softmax(-1) * F_DIVERGENCES[name](log_u, alpha).value).sum()


@cache
def exact_gradient(where: World, name: str, kind: str = "held") -> tuple[float, Tensor]:
    """Return the value of a divergence and its gradient [R * V] with respect to the policy's logits.

    Args:
        kind: "held": sum over tokens, with the distribution of prefixes (under the policy) held fixed. "older": the
            same with prefixes of the older policy. "through": sum over tokens, differentiated through the prefixes
            too. "whole": divergence between distributions of whole answers.
    """
    alpha = ALPHA.get(name, 0.2)
    table = where.policy.clone().requires_grad_()
    if kind == "whole":
        value = exact(name, where.logps(table).sum(1), fixed(where, where.reference).sum(1), alpha)
    else:
        rows = [exact(name, row, anchor, alpha) for row, anchor in zip(table, where.reference, strict=True)]
        first = (where.older if kind == "older" else table)[0].softmax(-1)
        reached = first if kind == "through" else first.detach()
        value = rows[0] + sum(probability * row for probability, row in zip(reached, rows[1:], strict=False))
    (gradient,) = torch.autograd.grad(value, table)
    return value.item(), gradient.flatten()


def term_of(name: str, **choices: Any) -> TermConfig:
    """Return a term of the divergence `name`; raise ValueError if the settings refuse it."""
    return TermConfig(name=name, alpha=ALPHA.get(name, 0.2), **choices)


def accepted(name: str) -> Iterator[TermConfig]:
    """Yield a term for every combination of route, wiring, estimator and `normalised` that the settings accept."""
    choices = get_args(Route), get_args(Wiring), get_args(Estimator), (False, True)
    for route, wiring, estimator, normalised in itertools.product(*choices):
        try:
            yield term_of(name, route=route, wiring=wiring, estimator=estimator, normalised=normalised)
        except ValueError:
            continue


def differentiated_k1(name: str) -> TermConfig:
    """Return the term that differentiates f(u) / u on explored answers, which the settings refuse."""
    term = copy.copy(term_of(name, estimator="naive"))
    object.__setattr__(term, "normalised", True)
    return term


def label(term: TermConfig) -> str:
    """Return route, wiring, estimator and options of a term."""
    if term.estimator == "naive" and term.normalised:
        return "explore, loss k1 (refused)"
    form = ", normalised" if term.normalised else ""
    form += f", {term.horizon}" if term.horizon != "token" else ""
    form += ", sequence" if term.level == "sequence" else ""
    return f"{term.route}, {term.wiring} {term.estimator}{form}"


@cache
def batch_of(route: Route, where: World, chosen: tuple[int, ...], sampler: Tensor) -> Batch:
    """Return a batch of the answers with the indices `chosen`, as sampled by a policy with logits `sampler`."""
    answers, logps = where.answers[list(chosen)], fixed(where, sampler)[list(chosen)].numpy()
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
            route=route,
            grade=None if route == "rehearse" else Grade(reward=1.0, status="correct"),
        )
        for k, answer in enumerate(answers.numpy())
    )
    prompt = Prompt(id="study/0", position=0, text="", verifier="math", problem={})
    groups = [] if route == "rehearse" else [Group(prompt=prompt, trajectories=trajectories)]
    batch = pack(groups, trajectories if route == "rehearse" else ())
    return replace(  # pack makes float32 tensors
        batch,
        reward=batch.reward.double(),
        logp_sampler=torch.from_numpy(logps).flatten(),
        logp_reference=fixed(where, where.reference)[list(chosen)].flatten(),
    )


def loss_of(term: TermConfig, where: World, logp: Tensor, tables: Tensor, batch: Batch) -> Tensor:
    """Return the loss of the term alone, without clipping, for log-probs [A, T] computed from logits [A, R, V]."""
    clip, ones = ClipConfig(kind="none"), {"divergence": 1.0}
    whole = ObjectiveConfig(
        terms={"divergence": term}, clip=clip, advantage="mean_only", reduction="sequence_mean_token_sum"
    )
    batch = credit(batch, whole, ObjectiveState(coefficients=ones))
    values = {}
    if term.exact:
        assert tables.shape[1] == 1, "the vocabulary wiring is measured on answers of one token only"
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


def gradients(term: TermConfig, where: World, sampler: Tensor) -> Tensor:
    """Return the gradient estimate [A, R * V] of each single answer, sampled by a policy with logits `sampler`."""
    count = len(where.answers)
    tables = where.policy.expand(count, -1, -1).clone().requires_grad_()
    batch = batch_of(term.route, where, tuple(range(count)), sampler)
    value = loss_of(term, where, where.logps(tables), tables, batch)
    return count * torch.autograd.grad(value, tables)[0].flatten(1)


def values(term: TermConfig, where: World, sampler: Tensor) -> Tensor:
    """Return the value estimate [A] of each single answer: the loss, or the metric `terms/NAME/value` in wirings
    without a loss."""
    logp, reference, old = (fixed(where, table) for table in (where.policy, where.reference, sampler))
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
    """Exact mean and standard deviation of a one-answer estimate, relative to the exact value or gradient norm."""

    value_bias: float
    value_spread: float
    """Standard deviation."""
    bias: float
    """|E[gradient] - exact| / |exact|"""
    cosine: float
    """Cosine of expected and exact gradient; NaN if the expected gradient is 0."""
    noise: float
    """sqrt(E|gradient - E[gradient]|^2) / |exact|. A batch of noise^2 answers has noise as large as the signal."""


def measure(term: TermConfig, where: World, *, stale: bool = False, target: str = "", kind: str = "held") -> Measured:
    """Compare a term's estimates with the exact value and gradient of a divergence.

    Args:
        stale: sample explored answers from the older policy instead of the policy. Rehearsed answers are always
            sampled from the reference.
        target: the divergence to compare with; empty: the term's own.
        kind: which exact gradient, see `exact_gradient`.
    """
    sampler = where.reference if term.rehearses else where.older if stale else where.policy
    probability = where.probabilities(sampler)
    value, gradient = exact_gradient(where, target or term.name, kind)
    estimates, each = values(term, where, sampler), gradients(term, where, sampler)
    mean, mean_value = probability @ each, float(probability @ estimates)
    size, norm = float(mean.norm()), float(gradient.norm())
    return Measured(
        value_bias=(mean_value - value) / value,
        value_spread=math.sqrt(float(probability @ (estimates - mean_value).square())) / value,
        bias=float((mean - gradient).norm()) / norm,
        cosine=float(mean @ gradient) / (size * norm) if size > 1e-12 else math.nan,
        noise=math.sqrt(float(probability @ (each - mean).square().sum(1))) / norm,
    )
