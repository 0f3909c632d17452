"""Loss wiring on explored answers (the policy's own): a differentiable loss of each token's log-probs."""

from torch import Tensor

from configs.terms import TermConfig
from objectives.divergence.estimators import at_sampled_tokens, sampled_value
from objectives.divergence.wiring.term import TermTokens, Wiring
from objectives.policy_gradient.ratios import ratio_of


def token_loss(cfg: TermConfig, logp: Tensor, logp_anchor: Tensor, logp_old: Tensor) -> Tensor:
    """Return the loss per token [M], with gradient.

    k2 and straight_through have the gradient of D_f on policy. k3 (reverse KL only) has the gradient of the forward KL.
    ratio_weighted has the gradient of D_f on answers of any policy whose log-probs are `logp_old`.

    Args:
        logp: float32 [M], nats, with gradient; logp_anchor, logp_old: float32 [M].
    """
    at = at_sampled_tokens(cfg, logp, logp_anchor)
    if cfg.estimator == "k2":
        return 0.5 * at.log_u.square()
    above = at.value if cfg.normalised else at.above_tangent
    # Divided by u: the tokens are sampled from the policy, and D_f is an expectation under the anchor.
    per_sample = above * (-at.log_u).exp()
    if cfg.estimator in ("k3", "naive"):
        return per_sample
    if cfg.estimator == "straight_through":
        # The gradient is that of the score function, (f'(u) - f'(1)) grad log pi. The constant f'(1) does not change
        # its expectation, because E_policy[grad log pi] = 0.
        return per_sample.detach() + at.slope.detach() * (logp - logp.detach())
    assert cfg.estimator == "ratio_weighted", f"no loss wiring for {cfg.estimator}"
    return ratio_of(logp, logp_old) * per_sample


def _loss(term: TermTokens) -> Tensor:
    losses = token_loss(term.cfg, term.logp, term.logp_anchor, term.logp_old)
    if term.cfg.hinge:
        # At a distance within the hinge the two losses are one, with one gradient. Beyond it the clamp has none.
        log_u = (term.logp - term.logp_anchor).clamp(-term.cfg.hinge, term.cfg.hinge)
        losses = losses - token_loss(term.cfg, term.logp_anchor + log_u, term.logp_anchor, term.logp_old)
    return term.mean(losses)


def _values(term: TermTokens) -> Tensor:
    return sampled_value(term.cfg, term.logp, term.logp_anchor)


WIRING = Wiring(loss=_loss, values=_values)
