"""The critic: value heads on one hidden state of the policy per trajectory. Their loss does not train the policy.

Axes: N tokens, B trajectories, D hidden.
"""

import torch
from torch import Tensor, nn

from configs.critic import CriticConfig
from trajectories.batch import Batch

SEED = 0
"""Seed of the initial weights: every rank must start with the same, and every run does."""


class ValueHeads(nn.Module):
    """Compute values [B, heads] from hidden states [B, D], in float32: LayerNorm, then for each head Linear D -> D / 4,
    GELU, Linear -> 1.

    Hidden states are detached, so the value loss trains the heads only. In SAFE's code it also trains the policy.

    Source: SAFE, arXiv:2602.04651.
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

    def positions(self, batch: Batch) -> Tensor:
        """Return the token of each trajectory whose hidden state the heads receive.

        Returns:
            int64 [B], indices into [N]: with `reads` "answer" the last trained token, with "prompt" the token before
            the first trained one; the last token if no token is trained.
        """
        ends = batch.lengths.cumsum(0) - 1
        rows = batch.mask.nonzero().squeeze(1)
        trained = torch.bincount(batch.seq[rows], minlength=len(ends))
        bounds = trained.cumsum(0)
        some = trained > 0
        found = rows[bounds[some] - 1] if self.reads == "answer" else rows[(bounds - trained)[some]] - 1
        return ends.masked_scatter(some, found)
