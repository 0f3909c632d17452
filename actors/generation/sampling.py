"""Sample tokens from logits, all rows of a batch at once, with a random number per row that depends on nothing else.

Axes: B rows, V vocabulary.
"""

import math

import numpy as np
import torch
from torch import Tensor

from actors.contracts import GenerationJob

_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def uniform(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return a random number in [0, 1) for each row, float64 [B], a function of its seed and position alone.

    Source: the output of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) for the seed, and again for the sum of the
    result and the position.

    Args:
        seeds: int64 [B], seeds of the answers.
        positions: int64 [B], number of tokens that each answer has already.
    """
    return (_mixed(_mixed(seeds.astype(np.uint64)) + positions.astype(np.uint64)) >> np.uint64(11)) * 2.0**-53


def _mixed(state: np.ndarray) -> np.ndarray:
    """Return SplitMix64's output for each state. Arithmetic of arrays is modulo 2**64."""
    state = state + _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


def draw(logits: Tensor, points: np.ndarray, job: GenerationJob, other: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw one token per row, by inverting the cumulative distribution at the row's random number.

    Args:
        logits: float32 [B, V], overwritten.
        points: random numbers in [0, 1), float64 [B].
        job: its temperature and truncations. At temperature 0 the most likely token is taken.
        other: logits of a second policy, float32 [B, V], which is mixed in with the share `job.mixture`.

    Returns:
        Tokens, int64 [B], and their log-probs under the distribution they were drawn from, float32 [B], nats.
    """
    if job.temperature == 0:
        return logits.argmax(-1), torch.zeros(len(logits), device=logits.device)
    if job.temperature != 1:
        logits /= job.temperature
    if other is not None:
        logits = mixed(logits, other / job.temperature, job.mixture)
    logits = truncated(logits, job)
    weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()  # probabilities up to a factor
    # A CPU sums one by one, in float64 whatever the dtype. A GPU sums in a tree, of which a single row has another one
    # in each call: in float32 the sum could grow at a token of weight 0, which would be drawn, and change from call to
    # call.
    cumulative = weights.cumsum(-1, dtype=torch.float32 if weights.is_cpu else torch.float64)
    total = cumulative[:, -1]
    # A point equal to the total would lie beyond the last token.
    point = torch.from_numpy(points).to(total.device, total.dtype).mul_(total).minimum(total.nextafter(total * 0))
    drawn = torch.searchsorted(cumulative, point[:, None], right=True)  # tokens of weight 0 are never the first above
    return drawn.squeeze(-1), (weights.gather(-1, drawn).squeeze(-1) / total).log_().float()


def mixed(logits: Tensor, other: Tensor, share: float) -> Tensor:
    """Return the log-probs [B, V] of (1 - share) softmax(logits) + share softmax(other), for a share in (0, 1).

    Source: teacher-mixed sampling of MiniLLM, arXiv:2306.08543.
    """
    own, second = logits.log_softmax(-1), other.log_softmax(-1)
    return torch.logaddexp(own + math.log1p(-share), second + math.log(share))


def truncated(logits: Tensor, job: GenerationJob) -> Tensor:
    """Return the logits [B, V] with -inf for the tokens that min_p, top_k and top_p leave out, in vLLM's order.

    The most likely token is always kept. Of equally likely tokens at the limit of top_k all are kept.
    """
    if job.min_p > 0:
        logits = logits.masked_fill(logits < logits.amax(-1, keepdim=True) + math.log(job.min_p), -torch.inf)
    if 0 < job.top_k < logits.shape[-1]:
        least = logits.topk(job.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if job.top_p < 1:
        rising, order = logits.sort(dim=-1)
        # A token is left out if it and all less likely ones together have at most 1 - top_p.
        outside = torch.softmax(rising, dim=-1).cumsum(-1) <= 1 - job.top_p
        outside[:, -1] = False
        logits = logits.masked_fill(outside.scatter(-1, order, outside), -torch.inf)
    return logits
