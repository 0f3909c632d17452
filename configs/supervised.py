"""Which divergences can be taken to data that is certain of every token."""

from configs.checks import require

SUPERVISED = (
    "forward_kl",
    "jensen_shannon",
    "generalised_jensen_shannon",
    "alpha",
    "total_variation",
    "neyman",
    "hellinger",
    "tsallis",
    "skew_kl",
    "skew_reverse_kl",
)
"""f-divergences whose f'(inf) = lim f(u) / u is finite; tsallis only for alpha below 1."""


def check_supervised(name_field: str, name: str, alpha_field: str, alpha: float) -> None:
    """Refuse what is infinite, or not defined, between a policy and data that gives one token probability 1."""
    cost = "the data gives every other token probability 0, and what the policy puts there costs f'(inf) = lim f(u) / u"
    rule = f"must be an f-divergence whose f'(inf) is finite ({', '.join(SUPERVISED)}): {cost}"
    require(name in SUPERVISED, name_field, rule, name)
    rule = f"must be below 1 for tsallis, from where on f'(inf) is infinite: {cost}"
    require(name != "tsallis" or alpha < 1, alpha_field, rule, alpha)
