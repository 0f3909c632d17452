"""Policy-gradient loss of experience: right answers of earlier steps, weighted by their importance. N tokens."""

from torch import Tensor

from configs.objective import ObjectiveConfig
from objectives.diagnostics import TensorStats, total
from objectives.policy_gradient.ratios import ratio_of
from objectives.reduce import reduction_weights
from trajectories.batch import Batch
from trajectories.trajectory import OWN_ROUTES


def experience_loss(logp: Tensor, batch: Batch, cfg: ObjectiveConfig) -> tuple[Tensor, TensorStats]:
    """Return the sum over the tokens of experience of -A w / (w + beta), with w = policy / policy that sampled them, in
    one mean with the new answers, and its metrics.

    Its gradient is A beta w / (w + beta)^2 grad log pi, greatest where w = beta: tokens that are as likely as before
    get less of it, and tokens that have become impossible get none. Source: ExGRPO, arXiv:2510.02245, section 4.2.

    Args:
        logp: float32 [N], nats, with gradient.
    """
    tokens = batch.on_route("experience")
    assert batch.advantage is not None or not tokens.any(), "experience needs `credit` first"
    advantage = logp.new_zeros(0) if batch.advantage is None else batch.advantage[tokens]
    ratio = ratio_of(logp[tokens], batch.logp_sampler[tokens])
    weight = ratio / (ratio + cfg.experience.beta)
    reduction = reduction_weights(batch, OWN_ROUTES, cfg.reduction, cfg.constant_length)[tokens]
    value = -(reduction * advantage * weight).sum()
    return value, {"experience_ratio": total(ratio), "experience_weight": total(weight)}
