"""A policy and a reference over three tokens, the exact divergences, and every setting of a term that is allowed."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from configs.divergences import DIVERGENCES
from configs.policy_gradient import ClipConfig
from configs.terms import TermConfig
from objectives.credit import credit
from objectives.divergence.f_divergences import F_DIVERGENCES
from tests.objectives.ragged_batch import divergence, loss_of, make_batch, objective, state_of

COEFFICIENT = 0.5
ALPHA = 0.2
"""The default parameter of a divergence."""
NAMES = list(F_DIVERGENCES)
FAMILIES = [name for name in NAMES if DIVERGENCES[name].alpha]
"""The divergences with a parameter."""
POLICY = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
OLD = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def between(a: float, p: Tensor, q: Tensor) -> Tensor:
    return a * p + (1 - a) * q


EXACT: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "reverse_kl": lambda p, q, a: kl(p, q),
    "forward_kl": lambda p, q, a: kl(q, p),
    "jensen_shannon": lambda p, q, a: (kl(p, (p + q) / 2) + kl(q, (p + q) / 2)) / 2,
    "generalised_jensen_shannon": lambda p, q, a: a * kl(q, between(a, q, p)) + (1 - a) * kl(p, between(a, q, p)),
    "alpha": lambda p, q, a: (1 - (p ** (1 - a) * q**a).sum()) / (a * (1 - a)),
    "total_variation": lambda p, q, a: (p - q).abs().sum() / 2,
    "chi_squared": lambda p, q, a: ((p - q).square() / q).sum(),
    "neyman": lambda p, q, a: ((p - q).square() / p).sum(),
    "hellinger": lambda p, q, a: (p.sqrt() - q.sqrt()).square().sum(),
    "jeffreys": lambda p, q, a: kl(p, q) + kl(q, p),
    "tsallis": lambda p, q, a: ((p**a * q ** (1 - a)).sum() - 1) / (a - 1) if a != 1 else kl(p, q),
    "skew_kl": lambda p, q, a: kl(q, between(a, q, p)),
    "skew_reverse_kl": lambda p, q, a: kl(p, between(a, p, q)),
}
"""D(policy p || anchor q) over the whole vocabulary, not computed from f; the last argument is `alpha`."""


def exact_gradient(name: str, policy: Tensor = POLICY, anchor: Tensor = REFERENCE, alpha: float = 0.2) -> Tensor:
    """Return the gradient of the exact divergence by the logits of the policy [3]."""
    logits = policy.log().requires_grad_()
    return torch.autograd.grad(EXACT[name](logits.softmax(0), anchor, alpha), logits)[0]


def in_tenths(probabilities: Tensor) -> list[int]:
    """Return ten tokens, each as often as its probability in tenths: their mean is the exact expectation."""
    return [token for token, p in enumerate(probabilities.tolist()) for _ in range(round(10 * p))]


def estimated_gradient(cfg: TermConfig, sampled_from: Tensor, policy: Tensor = POLICY) -> Tensor:
    """Return the gradient by the logits [3] of the loss of ten answers, which have one token and equal rewards.

    Args: sampled_from: the distribution of the ten tokens.
    """
    tokens = in_tenths(sampled_from)
    route, group = ("rehearse", -1) if cfg.rehearses else ("explore", 0)
    batch = make_batch(
        [(route, group, None if cfg.rehearses else 1.0, [token]) for token in tokens],
        logp_sampler=sampled_from.log()[tokens],
        logp_reference=REFERENCE.log()[tokens],
    )
    whole = objective(terms={"divergence": cfg}, clip=ClipConfig(kind="none"))
    logits = policy.log().requires_grad_()
    batch = credit(batch, whole, state_of(COEFFICIENT))
    value, _ = loss_of(logits.log_softmax(0)[batch.tokens], batch, whole, COEFFICIENT)
    return torch.autograd.grad(value, logits)[0]


def anchor_of(cfg: TermConfig, sampled_from: Tensor) -> Tensor:
    return sampled_from if cfg.anchor == "old" else REFERENCE


def alphas(name: str) -> list[float]:
    """Return the parameters at which a divergence is tested, the default first."""
    if name not in FAMILIES:
        return [0.2]
    return [0.2, 1.0, 2.0] if name == "tsallis" else [0.2, 0.7]


def settings(every_alpha: bool = False) -> list[TermConfig]:
    """Return a term of every allowed name, route, anchor, wiring of sampled tokens, estimator and form."""
    allowed: dict[str, TermConfig] = {}
    choices: dict[str, list[Any]] = {
        "route": ["explore", "rehearse"],
        "anchor": ["reference", "old"],
        "wiring": ["loss", "reward", "joint"],
        "estimator": ["k1", "k2", "k3", "straight_through", "ratio_weighted"],
        "normalised": [False, True],
    }
    for name, *chosen in itertools.product(NAMES, *choices.values()):
        for alpha in alphas(name) if every_alpha else [0.2]:
            try:
                cfg = divergence(name, alpha=alpha, **dict(zip(choices, chosen, strict=True)))
            except ValueError:
                continue
            allowed[label(cfg)] = cfg
    return list(allowed.values())


def label(cfg: TermConfig) -> str:
    form = "-normalised" if cfg.normalised else ""
    return f"{cfg.name}-{cfg.alpha:g}-{cfg.route}-{cfg.anchor}-{cfg.wiring}-{cfg.estimator}{form}"
