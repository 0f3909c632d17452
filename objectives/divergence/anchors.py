"""The log-probs a divergence term compares the policy with. N tokens of a batch, of which some are asked for."""

from torch import Tensor

from configs.terms import DivergenceConfig
from trajectories.batch import Batch


def known(logp_anchor: Tensor) -> Tensor:
    """The same log-probs, none of which is missing."""
    assert not logp_anchor.isnan().any(), "a divergence needs logp_reference on tokens where it is unknown"
    return logp_anchor


def anchor_logps(name: str, term: DivergenceConfig, batch: Batch, old: Tensor, tokens: Tensor) -> Tensor:
    """Log-probs of a term's anchor on explored tokens; `old` are those of the policy that gave them."""
    if term.anchor == "old":
        return old
    if term.reweights:
        return batch.reweighted[name][tokens]
    return reference_logps(batch, tokens) if term.anchor == "reference" else batch.anchors[term.anchor][tokens]


def reference_logps(batch: Batch, tokens: Tensor) -> Tensor:
    """Log-probs of the main reference on these tokens, NaN where they are unknown."""
    if batch.logp_reference is not None:
        return batch.logp_reference[tokens]
    assert not tokens.any(), "a divergence needs logp_reference and the batch has none"
    return batch.logp_sampler.new_zeros(0)
