"""The breadth monitor: how often Pass@k is measured while training, and when to stop."""

from dataclasses import dataclass, field

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
