"""What a resumed run may change: the one list of these settings. Everything else must be as the run was started."""

MAY_CHANGE = (
    "name",
    "runs",
    "mirror",
    "steps",
    "learner.token_budget",
    "learner.logits_megabytes",
    "learner.layout",
    "learner.share_prefixes",
    "learner.replicas",
    "learner.accumulate",
    "learner.context_parallel",
    "learner.offload_states",
    "learner.gradient_checkpointing",
    "learner.checkpoint_every",
    "learner.offload_activations",
    "learner.compile",
    "learner.lora.publish",
    "learner.max_skipped_in_a_row",
    "generator",
    "grader",
    "sandbox",
    "placement",
    "monitor.every",
    "monitor.ks",
    "monitor.frontier",
    "monitor.kl_to_base",
    "monitor.stop_if",
    "checkpoint",
    "logbook",
    "evaluate",
    "inspect_task",
    "warm_start",
)
"""Settings, and sections with all their settings, that may differ at a resume: where the run lies (name, runs,
mirror), its length, where and how fast it is computed, and what is measured and written.

Not in the list are the objective, the task, the sampling, the optimizer and `lag`, because config.yaml describes every
step of a run, and two halves trained differently are described by no settings at all; nor `monitor.answers` and
`monitor.sampling`, because every measurement is compared with that of the base before step 1."""


def may_change(key: str) -> bool:
    """Return whether the setting `key` may differ at a resume."""
    return any(key == one or key.startswith(f"{one}.") for one in MAY_CHANGE)
