"""Value heads: a critic that reads one hidden state of the policy per trajectory, and leaves the policy as it is.

Axes: N tokens, B trajectories, D hidden.
"""

import torch
from torch import Tensor, nn

from configs.critic import CriticConfig
from trajectories.batch import Batch

SEED = 0
"""Of the first weights, the same on every rank and in every run."""


class ValueHeads(nn.Module):
    """[B, heads] from hidden states [B, D]: LayerNorm, then per head Linear D -> D / 4, GELU, Linear -> 1, in float32.

    SAFE, arXiv:2602.04651; its code lets the value loss reach the policy, here the states are detached.
    """

    def __init__(self, width: int, cfg: CriticConfig) -> None:
        super().__init__()
        self.reads = cfg.reads
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            self.norm = nn.LayerNorm(width)
            self.heads = nn.ModuleList(
                nn.Sequential(nn.Linear(width, max(1, width // 4)), nn.GELU(), nn.Linear(max(1, width // 4), 1))
                for _ in range(cfg.heads)
            )

    def forward(self, hidden: Tensor) -> Tensor:
        states = self.norm(hidden.detach().float())
        return torch.cat([head(states) for head in self.heads], dim=-1)

    def places(self, batch: Batch) -> Tensor:
        """int64 [B]: where in [N] each trajectory is read: at its last trained token, or at the last token before its
        first trained one; at its last token where none is trained."""
        ends = batch.lengths.cumsum(0) - 1
        rows = batch.mask.nonzero().squeeze(1)
        trained = torch.bincount(batch.seq[rows], minlength=len(ends))
        bounds = trained.cumsum(0)
        there = trained > 0
        found = rows[bounds[there] - 1] if self.reads == "answer" else rows[(bounds - trained)[there]] - 1
        return ends.masked_scatter(there, found)
