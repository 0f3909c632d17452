"""Names, summaries and axes of metrics in W&B: which section a metric is shown in, and what its summary keeps.

The names of metrics.jsonl are the truth; this is the only place that changes them for W&B.
"""

from fnmatch import fnmatchcase

STEP = "step"
"""Axis of all metrics: optimizer steps."""
TOKENS = "tokens_total"
"""A second axis: tokens that the policy has generated for training since step 0."""

OWN_SECTION = ("heldout", "grader", "system", "sinks", "mismatch", "terms")
"""First parts of names that are sections already."""

SECTIONS = {
    "rollout": (
        "reward", "reward/*", "rewards/*", "reward_std", "solved_groups", "zero_signal_groups", "tokens",
        "answer_length", "truncated", "masked", "skipped_prompts/*", "dropped_groups", "staleness", "staleness_max",
    ),
    "mismatch": ("mismatch_*", "effective_sample_fraction"),
    "speed": ("seconds/*", "tokens_per_second"),
    "roles": ("restarts/*",),
}  # fmt: skip
"""Patterns of names by the section that is put before them. All other names belong to `train`."""

SUMMARIES = (
    ("*/low", "none"),
    ("*/high", "none"),
    ("heldout/pass@*", "max,last"),
    ("heldout/change/*", "max,last"),
    ("heldout/beyond_sharpening/*", "max,last"),
    ("heldout/maj@*", "max,last"),
    ("heldout/retention", "min,last"),
    ("heldout/expansion", "max,last"),
    ("heldout/distinct_correct", "min,last"),
    ("heldout/entropy", "min,last"),
    ("heldout/kl_to_base", "max,last"),
    ("reward", "max,last"),
    ("reward/*", "max,last"),
    ("entropy", "min,last"),
    ("kl_*", "max,last"),
    ("truncated", "max,last"),
    ("grad_norm", "max,last"),
    ("mismatch_*", "max,last"),
    ("effective_sample_fraction", "min,last"),
    ("staleness_max", "max,last"),
    ("seconds/*", "mean,last"),
    ("tokens_per_second", "mean,max"),
    ("system/*", "mean,max"),
)
"""What the summary of a run keeps of each metric, by pattern; the first that matches counts. Others keep the last."""


def in_section(name: str) -> str:
    """Return the name of a metric in W&B, where the part before the first slash is its section."""
    if name in (STEP, TOKENS) or name.split("/")[0] in OWN_SECTION:
        return name
    for section, patterns in SECTIONS.items():
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return f"{section}/{name}"
    return f"train/{name}"


def summary_of(name: str) -> str:
    """Return what W&B's summary keeps of a metric, as `define_metric` takes it."""
    return next((summary for pattern, summary in SUMMARIES if fnmatchcase(name, pattern)), "last")


def is_bound(name: str) -> bool:
    """Return whether a metric is an end of an interval, which gets no chart of its own."""
    return name.endswith(("/low", "/high"))
