"""Flatten the anchor of a divergence term by the reward of its answers (RAPO, arXiv:2510.03865)."""

import torch
from torch import Tensor

from configs.terms import TermConfig
from trajectories.batch import Batch


def reference_power(batch: Batch, cfg: TermConfig) -> Tensor:
    """Return phi of each token's answer, float32 [N], for an anchor pi^phi / Z: phi = floor + (1 - floor) r.

    r is the reward of the answer clamped to [0, 1], or the fraction of its group's graded answers with reward 1 or
    more. phi is 1, which leaves the anchor as it is, on answers without a reward. The batch must hold whole groups.
    Source: RAPO requires a phi in [0, 1] that rises with the reward; this choice is ours.
    """
    assert cfg.reweights, "the anchor of this term is not reweighted"
    rate = batch.reward.clamp(0, 1)
    if cfg.reweight == "pass_rate":
        rate = torch.where(rate.isnan(), rate, (batch.reward >= 1).float())
        for members in batch.graded_groups():
            rate[members] = rate[members].mean()
    return (cfg.reweight_floor + (1 - cfg.reweight_floor) * rate).nan_to_num(nan=1.0)[batch.seq]
