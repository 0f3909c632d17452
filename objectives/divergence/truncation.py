"""Truncate next-token distributions to K tokens plus one bucket for the remaining mass."""

import torch
from torch import Tensor


def truncated(logp: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probs of the tokens `ids`, and last that of all other tokens together.

    Args:
        logp: float32 [C, V], C tokens of a chunk; ids: int64 [C, K].

    Returns: float32 [C, K + 1].
    """
    rest = logp.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logp.gather(-1, ids), rest], -1)
