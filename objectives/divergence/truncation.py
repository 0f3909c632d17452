"""Distributions of which only some tokens are told apart. C tokens of a chunk, K tokens told apart, V vocabulary."""

import torch
from torch import Tensor


def told_apart(logp: Tensor, ids: Tensor) -> Tensor:
    """[C, K + 1]: log-probs of the tokens `ids` [C, K], and last of all others together, from `logp` [C, V]."""
    rest = logp.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logp.gather(-1, ids), rest], -1)
