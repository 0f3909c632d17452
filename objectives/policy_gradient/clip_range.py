"""The range of the ratio inside which a token keeps its gradient. Loads no torch, because `show-config` prints it."""

import math

from configs.policy_gradient import ClipConfig

BISECTIONS = 200


def kl3_bounds(delta: float) -> tuple[float, float]:
    """Return the roots l < 1 < u of rho - 1 - log rho = delta, found by bisection. Source: ATR-GRPO, arXiv:2602.05494.

    l = -W_0(-exp(-1 - delta)) and u = -W_{-1}(-exp(-1 - delta)), with Lambert's W.
    """

    def root(inside: float, outside: float) -> float:
        for _ in range(BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if middle - 1 - math.log(middle) <= delta else (inside, middle)
        return inside

    return root(1.0, math.exp(-2 - delta)), root(1.0, 3 + 2 * delta + 2 * math.sqrt(2 * delta))


def bounds(clip: ClipConfig) -> tuple[float, float]:
    """Return the range of the ratio inside which a token keeps its gradient for either sign of the advantage."""
    assert clip.kind not in ("sapo", "none"), f"clip.kind={clip.kind} has no range"
    if clip.kind == "kl3":
        return kl3_bounds(clip.delta)
    if clip.kind == "gmpo":
        return math.exp(-clip.low), math.exp(clip.high)
    return (0.0 if clip.kind == "dppo" else 1 - clip.low), 1 + clip.high
