"""Look up the anchor log-probs of a divergence term."""

from torch import Tensor

from configs.objective import ObjectiveConfig
from configs.terms import TermConfig
from trajectories.batch import Batch


def known(logp_anchor: Tensor) -> Tensor:
    """Return `logp_anchor` unchanged. Raise AssertionError if one of its values is missing (NaN)."""
    assert not logp_anchor.isnan().any(), "a divergence term needs logp_reference on tokens where it is missing"
    return logp_anchor


def anchor_logps(name: str, term: TermConfig, batch: Batch, logp_old: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probs of a term's anchor on the chosen tokens [M], nats.

    Args:
        name: name of the term, under which the batch holds a reweighted anchor.
        logp_old: float32 [M], log-probs under the policy that sampled these tokens.
        tokens: bool [N], the chosen tokens.
    """
    if term.anchor == "old":
        return logp_old
    if term.reweights:
        return batch.reweighted[name][tokens]
    return _named(batch, term.anchor, tokens)


def reference_logps(batch: Batch, tokens: Tensor) -> Tensor:
    """Return the log-probs of the main reference on the chosen tokens [M], NaN where they are missing."""
    if batch.logp_reference is not None:
        return batch.logp_reference[tokens]
    assert not tokens.any(), "a divergence term needs logp_reference and the batch has none"
    return batch.logp_sampler.new_zeros(0)


def advantage_anchor(batch: Batch, tokens: Tensor, cfg: ObjectiveConfig) -> Tensor | None:
    """Return the log-probs [M] of what the advantage compares the policy with on the chosen tokens; None: nothing.

    For advantage=pairs it is a weighted sum of the log-probs of one or two references.
    """
    if cfg.advantage in ("target", "flow"):
        return known(reference_logps(batch, tokens))
    if cfg.advantage != "pairs":
        return None
    logps = [weight * known(_named(batch, name, tokens)) for name, weight in cfg.pairs.anchors.items()]
    return sum(logps[1:], logps[0])


def _named(batch: Batch, name: str, tokens: Tensor) -> Tensor:
    return reference_logps(batch, tokens) if name == "reference" else batch.anchors[name][tokens]
