"""Raise alarms about a run whose records show that it learns nothing, collapses, or loses solutions."""

import math
from collections import deque
from collections.abc import Mapping

Values = Mapping[str, float]

SILENT_STEPS = 5
"""Steps in a row with all rewards 0."""
TRUNCATED_STEPS = 3
TRUNCATED = 0.5
"""Fraction of truncated answers that is too high in TRUNCATED_STEPS steps in a row."""
ENTROPY_FRACTION = 0.1
"""Fraction of the first entropies below which the policy has collapsed."""
FIRST_STEPS = 5
"""Steps whose mean entropy is the first entropy of a run."""
RETENTION = 0.9
"""Retention is too low where its whole interval is below this."""


class Alarms:
    """Judge the records of a run, one after the other. An alarm is raised when its condition begins to hold.

    The thresholds are rules of thumb; `docs/metrics.md` says what to do about each.
    """

    def __init__(self) -> None:
        self._recent: deque[Values] = deque(maxlen=max(SILENT_STEPS, TRUNCATED_STEPS))
        self._first_entropies: list[float] = []
        self._raised: set[str] = set()

    def observe(self, values: Values) -> list[tuple[str, str]]:
        """Return title and text of the alarms that the values of a step raise. A step may come in several parts."""
        if "reward" in values or "truncated" in values:
            self._recent.append(values)
        found: dict[str, str] = {}
        judged: set[str] = set()
        for title, needs, judge in (
            ("all rewards are 0", "truncated", self._silent),
            ("most answers are truncated", "truncated", self._truncated),
            ("entropy collapsed", "entropy", self._entropy),
            ("retention fell", "heldout/retention/high", self._retention),
            ("Pass@k fell", "heldout/entropy", self._pass_at_k),
        ):
            if needs in values:
                judged.add(title)
                text = judge(values)
                if text:
                    found[title] = text
        begun = [(title, text) for title, text in found.items() if title not in self._raised]
        self._raised = (self._raised - judged) | found.keys()
        return begun

    def _silent(self, values: Values) -> str:
        last = list(self._recent)[-SILENT_STEPS:]
        if len(last) < SILENT_STEPS or any(each.get("reward", 0.0) != 0 or each.get("reward_std") for each in last):
            return ""
        return (
            f"no answer of the last {SILENT_STEPS} steps got a reward: the task is too hard for this policy, or the "
            "verifier does not accept the form of its answers. Read trajectories.jsonl"
        )

    def _truncated(self, values: Values) -> str:
        last = list(self._recent)[-TRUNCATED_STEPS:]
        if len(last) < TRUNCATED_STEPS or any(each.get("truncated", 0.0) <= TRUNCATED for each in last):
            return ""
        return (
            f"{values['truncated']:.0%} of the answers end at sampling.max_new_tokens, and more than {TRUNCATED:.0%} "
            f"did for {TRUNCATED_STEPS} steps: raise it, or see whether the policy still ends its answers"
        )

    def _entropy(self, values: Values) -> str:
        entropy = values["entropy"]
        if not math.isfinite(entropy):
            return ""
        if len(self._first_entropies) < FIRST_STEPS:
            self._first_entropies.append(entropy)
            return ""
        first = sum(self._first_entropies) / FIRST_STEPS
        if entropy >= ENTROPY_FRACTION * first:
            return ""
        return (
            f"entropy is {entropy:.3g} nats per token, below {ENTROPY_FRACTION:.0%} of the {first:.3g} of the first "
            "steps: the policy hardly explores any more. Lower learner.learning_rate, or raise a divergence term"
        )

    def _retention(self, values: Values) -> str:
        high = values["heldout/retention/high"]
        if not high < RETENTION:  # also where it is not defined
            return ""
        return (
            f"retention is {values['heldout/retention']:.2f} (at most {high:.2f}): the policy no longer solves prompts "
            "that the base solved. Raise the coefficient of the divergence, or use one that covers the reference"
        )

    def _pass_at_k(self, values: Values) -> str:
        prefix = "heldout/change/pass@"
        ks = [int(name.removeprefix(prefix)) for name in values if name.removeprefix(prefix).isdigit()]
        if not ks or not values[f"{prefix}{max(ks)}/high"] < 0:
            return ""
        k = max(ks)
        change, low, high = (values[f"{prefix}{k}{end}"] for end in ("", "/low", "/high"))
        return f"Pass@{k} changed by {change:+.3f} ({low:+.3f} to {high:+.3f}) since the base: solutions are lost"
