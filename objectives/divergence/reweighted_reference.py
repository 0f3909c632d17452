"""How far the reference is flattened by what its answers earned: RAPO, arXiv:2510.03865."""

import torch
from torch import Tensor

from configs.terms import DivergenceConfig
from trajectories.batch import Batch


def reference_power(batch: Batch, cfg: DivergenceConfig) -> Tensor:
    """float32 [N]: phi of each token's answer, floor + (1 - floor) r, for an anchor pi^phi / Z.

    r is the answer's reward cut to [0, 1], or the share of its group's graded answers with a reward of 1 or more. 1,
    which leaves the anchor as it is, on answers without a reward. Needs whole groups. The paper asks for a phi that
    rises with the reward into [0, 1]; this one is ours.
    """
    assert cfg.reweights, "the anchor of this term is not reweighted"
    rate = batch.reward.clamp(0, 1)
    if cfg.reweight == "pass_rate":
        rate = torch.where(rate.isnan(), rate, (batch.reward >= 1).float())
        for members in batch.graded_groups():
            rate[members] = rate[members].mean()
    return (cfg.reweight_floor + (1 - cfg.reweight_floor) * rate).nan_to_num(nan=1.0)[batch.seq]
