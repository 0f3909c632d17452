"""The target distribution of f-DPG and GDC."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require_positive


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """f-DPG (arXiv:2302.08215): the target distribution p that the policy approaches, by D_f(policy || p)."""

    kind: Literal["tilt", "filter", "moment"] = "tilt"
    """tilt: p = reference * exp(reward / beta); filter: p = reference restricted to answers of reward 1 or more;
    moment: p = reference * exp(lambda * reward), with the lambda at which the mean reward is `moment` (GDC,
    arXiv:2012.11635)."""
    beta: float = 0.5
    """tilt: temperature of the reward."""
    moment: float = 0.5
    """moment: mean reward of the target, over the prompts of the step."""
    divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "total_variation", "chi_squared", "neyman"] = (
        "jensen_shannon"
    )
    """The f-divergence to p."""

    def __post_init__(self) -> None:
        require_positive(self, "beta")
