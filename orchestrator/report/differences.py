"""Settings of runs as a reader compares them: those that differ between runs, and those that are not their presets'."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from configs.load import load, to_yaml
from orchestrator.report.style import escaped, table

NAMES = ("name", "runs")
"""Settings that say where a run is, not what it is."""
VALUE_SHOWN = 300
"""Limit on the characters shown of a value."""
NONE = "(none)"
"""Stands for a setting that a run does not have."""


def differences(runs: Mapping[str, Path]) -> str:
    """Return the sections of settings: a table of those that differ between the runs, and one of those that the runs
    share and that are neither defaults nor set by their presets. Nothing without a readable config.yaml.

    Args:
        runs: run directories by name.
    """
    settings = {name: found for name, folder in runs.items() if (found := _read(folder / "config.yaml"))}
    if not settings:
        return ""
    keys = list(dict.fromkeys(key for found in settings.values() for key in found if key not in NAMES))
    rows = {key: [found.get(key, NONE) for found in settings.values()] for key in keys}
    apart = [[key, *values] for key, values in rows.items() if len(set(values)) > 1]
    shared = {key: values[0] for key, values in rows.items() if len(set(values)) == 1}
    return _between(list(settings), apart) + _beside_presets(settings, shared)


def _between(names: list[str], rows: list[list[str]]) -> str:
    if len(names) < 2:
        return ""
    if not rows:
        return '<h2>Settings that differ between the runs</h2>\n<p class="soft">None: only the names differ.</p>\n'
    return table("Settings that differ between the runs", ["setting", *names], rows, words=True)


def _beside_presets(settings: Mapping[str, Mapping[str, str]], shared: Mapping[str, str]) -> str:
    """Return the table of the values in `shared` that no run has from its presets."""
    presets = [_preset(found) for found in settings.values()]
    if not all(presets):
        return ""
    changed = {
        key: value
        for key, value in shared.items()
        if key not in ("method", "scale", "policy.path") and all(preset.get(key) != value for preset in presets)
    }
    of_all = "Settings of all runs" if len(settings) > 1 else "Settings"
    heading = f"{of_all} that differ from the presets"
    named = [(found.get("method", ""), found.get("scale", "")) for found in settings.values()]
    note = "Presets: " + ", ".join(dict.fromkeys(f"method={method} scale={scale}" for method, scale in named)) + "."
    if not changed:
        return f'<h2>{escaped(heading)}</h2>\n<p class="soft">None. {escaped(note)}</p>\n'
    rows = [[key, value, _default(key, presets)] for key, value in changed.items()]
    return table(heading, ["setting", "value", "preset"], rows, note, words=True)


def _default(key: str, presets: list[dict[str, str]]) -> str:
    return " or ".join(dict.fromkeys(preset.get(key, NONE) for preset in presets))


def _preset(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that a run would have from its method, scale and policy alone; empty if one is not known."""
    words = [f"{key}={settings[key]}" for key in ("method", "scale", "policy.path") if settings.get(key)]
    try:
        return _flat(yaml.safe_load(to_yaml(load(words))))
    except ValueError:
        return {}


def _read(path: Path) -> dict[str, str]:
    try:
        plain = yaml.safe_load(path.read_text(errors="replace"))
    except (OSError, yaml.YAMLError):
        return {}
    return _flat(plain) if isinstance(plain, dict) else {}


def _flat(plain: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return values as text by their full keys; an empty section is `{}`."""
    found: dict[str, str] = {}
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            found[f"{prefix}{key}"] = text if len(text) <= VALUE_SHOWN else text[:VALUE_SHOWN] + " ..."
    return found
