"""Vocabulary wiring: a loss per token that is exact over the vocabulary, on either route.

The learner computes the values while it holds the logits of a chunk (`objectives/divergence/distributions.py`).
"""

from torch import Tensor

from configs.terms import TermConfig
from objectives.divergence.batch_sinkhorn import BLOCK
from objectives.divergence.wiring.term import TermTokens, Wiring


def _exact(term: TermTokens) -> Tensor:
    assert term.exact is not None, "the vocabulary wiring needs the values computed from the logits"
    return term.exact


def _loss(term: TermTokens) -> Tensor:
    return term.mean(_exact(term))


def _values(term: TermTokens) -> Tensor:
    return _exact(term).detach()


def transport_words(cfg: TermConfig, name: str) -> str:
    """Describe the gradient of wasserstein, which has the joint and the vocabulary wiring."""
    transport = cfg.transport
    charged = (
        "the potential of each token under the current policy, of mean 0, is subtracted from its advantage, detached"
    )
    summed = f"with the {cfg.top} most likely tokens of both kept apart"
    return (
        f"gradient of the {name} (debiased, epsilon = {transport.epsilon:g}, {transport.neighbours} neighbours, up to "
        f"the convergence of {transport.iterations} Sinkhorn sweeps), {charged if cfg.potential else summed}, prefixes "
        "held fixed"
    )


def _describe(cfg: TermConfig, name: str) -> str:
    if cfg.name == "wasserstein":
        return transport_words(cfg, name)
    summed = "over the whole vocabulary at every prefix"
    if cfg.name == "batch_sinkhorn":
        summed = f"through the transport plan between the rows of every {BLOCK} successive tokens of an answer"
    if cfg.name == "mixed_kl":
        summed += ", its weight held fixed"
    if cfg.top:
        summed = f"with the anchor's {cfg.top} most likely tokens kept apart and all others summed into one"
    return f"exact gradient of the {name}, {summed}, prefixes held fixed"


WIRING = Wiring(loss=_loss, values=_values, describe=_describe)
