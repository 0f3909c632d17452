"""Hints in the errors of unknown settings: the setting of another trainer, a part of a full key, or a mistyped one."""

from collections.abc import Sequence
from typing import Any

from configs.checks import nearest_name
from configs.other_trainers import counterparts

MOST = 3
"""Keys that a hint offers at most."""


def leaf(key: str, value: Any) -> tuple[str, Any]:
    """Return the full key and the value of the first plain setting below a key: `a`, {b: {c: 1}} is `a.b.c`, 1."""
    while isinstance(value, dict) and value:
        inner, value = next(iter(value.items()))
        key = f"{key}.{inner}"
    return key, value


def hint(key: str, prefix: str, siblings: Sequence[str], own: Sequence[str]) -> str:
    """Return what to write instead of an unknown key, in parentheses after a space, or an empty string.

    Args:
        key: the full key, as the user types it.
        prefix: the part of `key` that exists: empty, or a section with a dot at its end.
        siblings: the names that exist below `prefix`.
        own: all full keys of the settings here.
    """
    return (
        (_spelled(key, prefix, siblings, 0.9) if prefix else "")
        or other_trainers(key)
        or _spelled(key, prefix, siblings, 0.75)
        or _by_its_end(key, own)
        or other_trainers(key.rpartition(".")[2])
        or _spelled(key, prefix, siblings, 0.4)
    )


def other_trainers(key: str) -> str:
    """Return the hint for a setting of another trainer."""
    found = counterparts(key)
    words = []
    for row in list(dict.fromkeys(row for _, row in found))[:MOST]:
        names = ", ".join(name for name, of in found if of is row)
        here = f"here {row.ours}" if row.ours else "not a setting here"
        words.append(f"{names}: {here}{f', {row.note}' if row.note else ''}")
    return f" ({'; '.join(words)})" if words else ""


def _by_its_end(key: str, own: Sequence[str]) -> str:
    """Return the hint for the last part of a full key: `group_size` for `sampling.group_size`."""
    last = nearest_name(key.rpartition(".")[2], [name.rpartition(".")[2] for name in own], cutoff=0.85)
    found = [name for name in own if last and name.endswith(f".{last}")]
    if len(found) > MOST:
        found = [name for name in found if name.count(".") == min(one.count(".") for one in found)]
    return f" (did you mean {' or '.join(repr(name) for name in found)}?)" if 0 < len(found) <= MOST else ""


def _spelled(key: str, prefix: str, siblings: Sequence[str], cutoff: float) -> str:
    """Return the hint for a mistyped part after `prefix`."""
    part, dot, rest = key.removeprefix(prefix).partition(".")
    close = nearest_name(part, siblings, cutoff)
    return f" (did you mean '{prefix}{close}{dot}{rest}'?)" if close else ""
