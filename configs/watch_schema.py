"""What is measured, shown and kept of a run, as settings."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """The breadth monitor: Pass@k on held-out prompts, against what the base policy solved."""

    every: int = 20
    """Steps between measurements; 0: never."""
    answers: int = 32
    """Answers per held-out prompt (n of the unbiased Pass@k)."""
    ks: list[int] = field(default_factory=lambda: [1, 4, 16, 32])
    kl_to_base: bool = True
    """Score the held-out answers with the base policy (starts a reference)."""
    stop_if: list[str] = field(default_factory=list)
    """Rules `metric < number` or `metric > number` on monitored values, for example "retention < 0.8"."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "monitor.every", "must not be negative", self.every)
        require(self.answers > 0, "monitor.answers", "must be positive", self.answers)
        require(
            bool(self.ks) and all(0 < k <= self.answers for k in self.ks),
            "monitor.ks",
            f"each k must be between 1 and monitor.answers ({self.answers})",
            list(self.ks),
        )
        for rule in self.stop_if:
            parse_stop_rule(rule)


def parse_stop_rule(rule: str) -> tuple[str, str, float]:
    """Split "metric < number" into its three parts; raises ValueError on anything else."""
    parts = rule.split()
    message = 'must read "metric < number" or "metric > number"'
    require(len(parts) == 3 and parts[1] in ("<", ">"), "monitor.stop_if", message, rule)
    try:
        return parts[0], parts[1], float(parts[2])
    except ValueError:
        raise ValueError(f"monitor.stop_if: {message}, got {rule!r}") from None


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    every: int = 20
    """Steps between checkpoints; the last step always has one. 0: only the last."""
    keep_last: int = 2
    best_metric: str = "pass@1"
    """Monitored value whose best checkpoint is kept besides; empty: none."""

    def __post_init__(self) -> None:
        require(self.every >= 0, "checkpoint.every", "must not be negative", self.every)
        require(self.keep_last > 0, "checkpoint.keep_last", "must be positive", self.keep_last)


@dataclass(frozen=True, kw_only=True)
class LogbookConfig:
    wandb: Literal["online", "offline", "disabled"] = "disabled"
    wandb_project: str = "breadth"
    tensorboard: bool = False
    console: bool = True
    trajectories_every: int = 10
    """Steps between samples written to trajectories.jsonl; 0: never."""
    trajectories: int = 8
    """Trajectories per sample."""

    def __post_init__(self) -> None:
        require(
            self.trajectories_every >= 0, "logbook.trajectories_every", "must not be negative", self.trajectories_every
        )
        require(self.trajectories > 0, "logbook.trajectories", "must be positive", self.trajectories)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    checkpoints: list[str] = field(default_factory=list)
    """`name=directory` or `directory` of Hugging Face policies; empty: `policy.path`."""
    answers: int = 128
    ks: list[int] = field(default_factory=lambda: [1, 4, 16, 64, 128])
    temperature: float = 1.0
    output: str = ""
    """Directory of the results; empty: `<run directory>/evaluation`."""

    def __post_init__(self) -> None:
        require(self.answers > 0, "evaluate.answers", "must be positive", self.answers)
        require(self.temperature >= 0.01, "evaluate.temperature", "must be at least 0.01", self.temperature)
        require(
            bool(self.ks) and all(0 < k <= self.answers for k in self.ks),
            "evaluate.ks",
            f"each k must be between 1 and evaluate.answers ({self.answers})",
            list(self.ks),
        )
