"""The divergences by name, with the facts that decide which settings are legal for each.

Their mathematics is in `objectives/divergence/`: an f-divergence has a function of its name in `f_divergences.py`; a
divergence of two whole next-token distributions is in `distributions.py`. Importing this loads no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log

from configs.checks import nearest, require


@dataclass(frozen=True)
class Divergence:
    """Facts about one divergence D(policy || anchor) that decide which settings are legal."""

    alpha: str = ""
    """Meaning of the parameter `alpha`; empty: the divergence has no parameter."""
    highest_alpha: float = 1.0
    """Upper end of the range of `alpha`: (0, highest_alpha), or (0, highest_alpha] if highest_alpha is above 1."""
    slope_at_infinity: Callable[[float], float] = lambda alpha: inf
    """f'(inf) = lim f(u) / u for u to infinity, as a function of alpha. Where it is finite, the divergence from data
    that gives one token probability 1 is finite too (estimator `supervised`, `breadth warm-start`)."""
    keeps_support: Callable[[float], bool] = lambda alpha: False
    """Whether f'(u) falls without bound as u falls to 0, as a function of alpha. Elsewhere a preference loss of f'
    (f-DPO) could take an answer's whole probability."""
    wirings: tuple[str, ...] = ("loss", "reward", "joint", "vocabulary")
    """The wirings it can have: all of them for an f-divergence, whose value at a token needs only the two log-probs of
    that token."""

    @property
    def is_f_divergence(self) -> bool:
        """Whether it is defined by a function f of the ratio u = policy / anchor."""
        return "loss" in self.wirings


def _always(alpha: float) -> bool:
    return True


DIVERGENCES: dict[str, Divergence] = {
    "reverse_kl": Divergence(keeps_support=_always),
    "forward_kl": Divergence(slope_at_infinity=lambda alpha: 0.0, keeps_support=_always),
    "jensen_shannon": Divergence(slope_at_infinity=lambda alpha: log(2) / 2, keeps_support=_always),
    "generalised_jensen_shannon": Divergence(
        alpha="weight of the anchor in the mixture",
        slope_at_infinity=lambda alpha: -(1 - alpha) * log(1 - alpha),
        keeps_support=_always,
    ),
    "alpha": Divergence(
        alpha="towards 1 the forward KL, towards 0 the reverse KL",
        slope_at_infinity=lambda alpha: 1 / alpha,
        keeps_support=_always,
    ),
    "total_variation": Divergence(slope_at_infinity=lambda alpha: 0.5),
    "chi_squared": Divergence(),
    "neyman": Divergence(slope_at_infinity=lambda alpha: 1.0, keeps_support=_always),
    "hellinger": Divergence(slope_at_infinity=lambda alpha: 1.0, keeps_support=_always),
    "jeffreys": Divergence(keeps_support=_always),
    "tsallis": Divergence(
        alpha="the index q: 1 is the reverse KL, 2 is chi-squared",
        highest_alpha=2.0,
        slope_at_infinity=lambda alpha: 1 / (1 - alpha) if alpha < 1 else inf,
        keeps_support=lambda alpha: alpha <= 1,
    ),
    "skew_kl": Divergence(alpha="weight of the anchor in the mixture", slope_at_infinity=lambda alpha: 0.0),
    "skew_reverse_kl": Divergence(
        alpha="weight of the policy in the mixture",
        slope_at_infinity=lambda alpha: -log(alpha),
        keeps_support=_always,
    ),
    "mixed_kl": Divergence(alpha="sharpness of the switch between forward and reverse KL", wirings=("vocabulary",)),
    "plackett_luce": Divergence(wirings=("vocabulary",)),
    "wasserstein": Divergence(wirings=("joint", "vocabulary")),
    "batch_sinkhorn": Divergence(wirings=("vocabulary",)),
}
"""A new f-divergence is a row here, a function of that name in `objectives/divergence/f_divergences.py`, and its exact
value in `tests/objectives/divergence_settings.py`."""


def check_name(name: str, field: str) -> None:
    """Raise ValueError unless `name` is a divergence."""
    require(name in DIVERGENCES, field, f"must be one of {', '.join(DIVERGENCES)}{nearest(name, DIVERGENCES)}", name)


def check_alpha(name: str, alpha: float, field: str) -> None:
    """Raise ValueError unless `alpha` is in the range of the divergence `name`."""
    highest = DIVERGENCES[name].highest_alpha
    if highest > 1:
        rule = f"must be in (0, {highest:g}] for {name}: above it the power of a single ratio overflows"
        require(0 < alpha <= highest, field, rule, alpha)
    else:
        require(0 < alpha < highest, field, f"must be in (0, {highest:g})", alpha)


def check_supervised(name: str, alpha: float, field: str) -> None:
    """Raise ValueError unless D(policy || data) is finite for data that gives one token probability 1.

    That divergence is f(p) + (1 - p) f'(inf), where p is the policy's probability of the token.
    """
    finite = [known for known, row in DIVERGENCES.items() if row.is_f_divergence and row.slope_at_infinity(0.5) < inf]
    why = "because the data gives every other token probability 0, whose cost is f'(inf) = lim f(u) / u"
    rule = f"must be an f-divergence with a finite f'(inf) ({', '.join(finite)}), {why}"
    require(name in finite, field, rule, name)
    rule = f"must be below 1 for {name}, from where f'(inf) is infinite; it must be finite {why}"
    require(DIVERGENCES[name].slope_at_infinity(alpha) < inf, "alpha", rule, alpha)


def check_preference(name: str, alpha: float, field: str) -> None:
    """Raise ValueError unless f' of the divergence `name` falls without bound as the ratio falls to 0."""
    usable = [known for known, row in DIVERGENCES.items() if row.keeps_support(0.5)]
    why = "so that no answer can lose its whole probability"
    rule = f"must be an f-divergence whose slope f' falls without bound at 0 ({', '.join(usable)}), {why}"
    require(name in usable, field, rule, name)
    require(DIVERGENCES[name].keeps_support(alpha), "alpha", f"must be at most 1 for {name}, {why}", alpha)
