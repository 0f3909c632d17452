"""Exact divergences on the anchor's top K tokens plus one bucket for the rest (KDRL, arXiv:2506.02208)."""

import pytest
import torch
from torch import Tensor

from configs.terms import TermConfig
from objectives.divergence.distributions import vocabulary_values
from tests.objectives.divergence_settings import NAMES
from tests.objectives.ragged_batch import divergence

V = 7
LOGITS, ANCHOR = torch.randn(2, 5, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind(0)
TOKENS = torch.zeros(5, dtype=torch.long)


def of(name: str, top: int) -> TermConfig:
    return divergence(name, wiring="vocabulary", estimator="exact", top=top)


def values(name: str, top: int) -> Tensor:
    return vocabulary_values(of(name, top), LOGITS, ANCHOR, TOKENS)


def test_the_tokens_beyond_the_top_are_one_bucket() -> None:
    # The anchor's two likeliest are the last two: (.5, .3 | .2) against (.2, .4 | .4).
    # .5 log 2.5 + .3 log .75 + .2 log .5 = .458145 - .086305 - .138629 = .233211
    anchor, policy = torch.tensor([[0.15, 0.05, 0.3, 0.5]]), torch.tensor([[0.1, 0.3, 0.4, 0.2]])
    found = vocabulary_values(of("forward_kl", 2), policy.log(), anchor.log(), TOKENS[:1])
    assert found.item() == pytest.approx(0.233211, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_f_divergence_grows_with_top_to_its_exact_value(name: str) -> None:
    grown = torch.stack([values(name, top) for top in (1, 2, 3, 4, 5, V - 1, V, V + 1, 0)])
    assert (grown.diff(dim=0) >= -1e-12).all() and (grown >= 0).all()
    torch.testing.assert_close(
        grown[-4:], grown[-1].expand(4, -1)
    )  # with top = V - 1 the bucket holds the last token alone
    assert (grown[0] < grown[-1] - 1e-4).any()


@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon", "mixed_kl"])
def test_the_gradient_is_that_of_the_divergence_between_the_truncated_distributions(name: str) -> None:
    logits = LOGITS.clone().requires_grad_()
    found = torch.autograd.grad(vocabulary_values(of(name, 2), logits, ANCHOR, TOKENS).sum(), logits)[0]
    p, q = logits.softmax(-1), ANCHOR.softmax(-1)
    order = q.argsort(-1, descending=True)

    def truncated(x: Tensor) -> Tensor:
        ordered = x.gather(-1, order)
        return torch.cat([ordered[:, :2], ordered[:, 2:].sum(-1, keepdim=True)], -1)

    p, q = truncated(p), truncated(q)
    m = (p + q) / 2
    gap = ((q * q.log()).sum(-1) - (p * p.log()).sum(-1)).detach()
    g = (gap / 0.2).sigmoid()
    forward, backward = (q * (q / p).log()).sum(-1), (p * (p / q).log()).sum(-1)
    exact = {
        "reverse_kl": backward,
        "jensen_shannon": ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2,
        "mixed_kl": (1 - g) * forward + g * backward,
    }
    torch.testing.assert_close(found, torch.autograd.grad(exact[name].sum(), logits)[0])
    assert found.abs().max() > 1e-3


def test_top_is_refused_where_it_has_no_meaning() -> None:
    for name, choices, rule in (
        ("reverse_kl", {"estimator": "k2", "top": 3}, "must be 0 outside the vocabulary wiring"),
        ("plackett_luce", {"wiring": "vocabulary", "estimator": "exact", "top": 3}, "must be 0 for plackett_luce"),
        ("reverse_kl", {"wiring": "vocabulary", "estimator": "exact", "top": -1}, "must not be negative"),
    ):
        with pytest.raises(ValueError, match=rf"^top: {rule}"):
            divergence(name, **choices)
