"""The methods of the comparison, by family: a table and a figure of the page each."""

_TERM = "objective.terms.divergence."
JENSEN_SHANNON = tuple(
    f"{_TERM}{setting}"
    for setting in ("name=jensen_shannon", "route=rehearse", "coefficient.value=2.0", "reduction=token_mean")
)
"""The term of dph_js, for other methods."""
TEACHER = "tasks/base_policies/countdown"
"""A teacher without the bad habit of the base of the first task."""
K = "objective.pass_k.k=8"


def _presets(*names: str, settings: tuple[str, ...] = ()) -> dict[str, tuple[str, ...]]:
    return {name: (f"method={name}", *settings) for name in names}


FAMILIES: dict[str, dict[str, tuple[str, ...]]] = {
    "stored answers and Pass@k": {
        **_presets("grpo", "grpo_nll", "dph_f", "dph_js"),
        **_presets("passk_training", "pkpo", settings=(K,)),
        **_presets("maxrl", "unlikeliness", "nsr"),
        "passk_training_js": ("method=passk_training", K, *JENSEN_SHANNON),
        "pkpo_js": ("method=pkpo", K, *JENSEN_SHANNON),
        "maxrl_js": ("method=maxrl", *JENSEN_SHANNON),
    },
    "preferences between answers": _presets(
        "dpo",
        "ipo",
        "f_dpo",
        "sampo",
        "d2o",
        "tr_dpo",
        "tdpo",
        "mapo",
        "sparse_po",
        "kto",
        "tr_kto",
        "spin",
        "alpha_spin",
    ),
    "clips and trust regions": _presets("sapo", "gmpo", "dppo", "clip_cov", "kl_cov", "mcpo"),
    "advantages, targets and references": _presets(
        "ucpo", "gdpo", "darling", "exgrpo", "flow_rl", "gdc", "average_kl", "nash_mp", "sft_bridge", "sdpo"
    ),
    "a teacher": {
        **_presets("exopd", "cakld", "minillm", settings=(f"references.teacher.path={TEACHER}",)),
        "logp_regression": ("method=logp_regression", f"reference_path={TEACHER}"),
    },
}
"""Settings of a method: its preset, and for combinations what is added to it."""
METHODS = {name: settings for family in FAMILIES.values() for name, settings in family.items()}
CONTROL = "grpo"
"""The method that stands in the table and the figure of every family."""
