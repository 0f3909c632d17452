"""The breadth monitor: how often Pass@k is measured during training, and when to stop."""

import math
import re
from dataclasses import dataclass, field

from configs.checks import fit_ks, require, require_not_negative, require_positive, require_temperatures
from configs.extraction import check_mode
from configs.heldout import HeldOutSampling
from configs.heldout_task import HeldOutTaskConfig

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
RESERVED = ("change", "beyond_sharpening", "low", "high", "ungraded")
"""Not allowed as names of `also`: the metrics `heldout/NAME/...` of the run's own task have them."""


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Pass@k, retention and expansion on held-out prompts, relative to the base policy."""

    every: int = 20
    """Steps between measurements; 0: no measurements."""
    answers: int = 32
    """Answers per held-out prompt, n of the unbiased Pass@k estimator."""
    ks: list[int] = field(default_factory=lambda: [1, 4, 16, 32])
    """Values of k for Pass@k, each at most `answers`. With fewer answers the default ends there: 1, 4 and 8 for 8.
    Pass@1 is always measured."""
    sampling: HeldOutSampling = field(default_factory=HeldOutSampling)
    """Sampling of the held-out answers."""
    extraction: str = ""
    """Which part of a held-out response is its final answer, as `task.extraction`. Empty: that of training."""
    frontier: list[float] = field(default_factory=lambda: [1.3, 0.6, 0.3, 0.0])
    """Further temperatures at which the base is measured once before the first step, to know what sampling it colder or
    hotter gives (`heldout/beyond_sharpening`). 0: greedy decoding. Empty: not measured. Each costs one measurement, and
    none if the base was measured before with the same settings."""
    also: dict[str, HeldOutTaskConfig] = field(default_factory=dict)
    """Further tasks, by names of your own, whose held-out prompts are measured at the same steps, to see what the
    policy forgets: `also.gsm8k={name: dataset, options: {path: gsm8k.jsonl}}` logs `heldout/gsm8k/pass@1`,
    `heldout/gsm8k/retention` and so on. Each costs one measurement more."""
    kl_to_base: bool = True
    """Measure the KL to the base policy on the held-out answers. This needs the base as a
    reference (`placement.references_on`), and answers that are sampled as in training (`monitor.sampling`), up to their
    length."""
    stop_if: list[str] = field(default_factory=list)
    """Rules `metric < number` or `metric > number` on measured values that stop the run, e.g. "retention < 0.8"."""

    def __post_init__(self) -> None:
        require_not_negative(self, "every")
        require_positive(self, "answers")
        if self.extraction:
            check_mode(self.extraction)
        require_temperatures(self.frontier, "frontier")
        fit_ks(self)
        for name in self.also:
            rule = f"must have names that begin with a letter and are none of {', '.join(RESERVED)}"
            fits = NAME.fullmatch(name) is not None and name not in RESERVED
            require(fits, "also", rule, name)
        for rule in self.stop_if:
            parse_stop_rule(rule)


def parse_stop_rule(rule: str) -> tuple[str, str, float]:
    """Split "metric < number" into metric, sign and number. Raise ValueError on any other form."""
    parts = rule.split()
    message = 'must read "metric < number" or "metric > number"'
    require(len(parts) == 3 and parts[1] in ("<", ">"), "stop_if", message, rule)
    try:
        limit = float(parts[2])
    except ValueError:
        limit = math.nan
    require(math.isfinite(limit), "stop_if", message, rule)
    return parts[0], parts[1], limit
