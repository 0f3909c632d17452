"""Checks of settings: one form of error message for every section."""

import difflib
from collections.abc import Iterable
from typing import Any


def require(ok: bool, field: str, rule: str, value: object) -> None:
    """Raise ValueError unless `ok`.

    A section names its own field only (`low`); `configs.load` puts the section's path before it
    (`objective.clip.low: must be in (0, 1], got 2.0`).
    """
    if not ok:
        raise ValueError(f"{field}: {rule}, got {shown(value)}")


def require_positive(section: object, *fields: str) -> None:
    """Raise ValueError for the first of these fields of a section that is not above 0."""
    for field in fields:
        require(getattr(section, field) > 0, field, "must be positive", getattr(section, field))


def require_not_negative(section: object, *fields: str) -> None:
    """Raise ValueError for the first of these fields of a section that is below 0."""
    for field in fields:
        require(getattr(section, field) >= 0, field, "must not be negative", getattr(section, field))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" with the known name closest to a mistyped one, or an empty string."""
    close = nearest_name(name, known)
    return f" (did you mean {close!r}?)" if close else ""


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.4) -> str:
    """Return the known name closest to a mistyped one, or an empty string. Swapped letters are the closest: `gpro`."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=cutoff)
    return next((other for other in close if sorted(other) == sorted(name)), close[0] if close else "")


def shown(value: object) -> str:
    """Return a value of the settings as errors show it: mappings as YAML writes them, everything else as `repr`."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {shown(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(shown(inner) for inner in value)}]"
    return repr(value)


LOWEST_TEMPERATURE = 0.01
"""vLLM silently replaces a temperature between 0 and this by this, so its log-probs would be those of another
temperature than the learner's."""


FILE_NAME = "without '/', of at most 200 bytes"


def is_file_name(name: str) -> bool:
    """Return whether a file or folder can have this name, also with an ending of a few characters."""
    size = len(name.encode("utf-8", "surrogateescape"))
    return 0 < size <= 200 and "/" not in name and "\0" not in name and name not in (".", "..")


def require_temperatures(values: list[float], field_: str) -> None:
    """Raise ValueError unless all values can be sampled at, and differ."""
    usable = all(value == 0 or LOWEST_TEMPERATURE <= value <= 100 for value in values)
    rule = f"must be different numbers, each 0 (greedy) or between {LOWEST_TEMPERATURE} and 100"
    require(usable and len(set(values)) == len(values), field_, rule, list(values))


def ks_up_to(answers: int) -> list[int]:
    """Return the values of k that are measured by default: the powers of 4 below `answers`, and `answers`."""
    return [4**power for power in range(answers.bit_length()) if 4**power < answers] + [answers]


def fit_ks(section: Any) -> None:
    """Let the default `ks` of a section follow its `answers` down, and raise ValueError for another k above it.

    A list of the default's form (1, 4, 16, ... and its largest value) ends at `answers` if it is longer, so that a
    smaller `answers` needs no other setting, also where the list comes from the record of a run.
    """
    ks, answers = list(section.ks), section.answers
    if ks and ks == ks_up_to(max(ks)) and max(ks) > answers:
        object.__setattr__(section, "ks", ks_up_to(answers))  # the dataclass is frozen
        return
    within = bool(ks) and all(0 < k <= answers for k in ks)
    require(within, "ks", f"each k must be between 1 and answers ({answers})", ks)
