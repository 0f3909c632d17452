"""What was given beyond the presets of a run: a method's name alone does not say what is trained."""

from collections.abc import Callable
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

from configs.config import Config
from configs.load import load, presets
from configs.references import ReferenceConfig
from configs.terms import TermConfig
from orchestrator.preflight.resume import differences, words

SHOWN = 6
"""Number of settings that a line lists."""


def report_changed_method(cfg: Config, report: Callable[[str], None]) -> None:
    """Call `report` with a line if the objective is not that of the preset `method`."""
    changed = [f"{key}={words(value)}" for key, value in given_settings(cfg).items() if key.startswith("objective.")]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        report(f"method: {cfg.method} changed by {', '.join(changed[:SHOWN])}{more}")


def given_settings(cfg: Config) -> dict[str, Any]:
    """Return the settings that differ from those of the presets `method` and `scale`, by key."""
    if cfg.method not in presets("method") or cfg.scale not in presets("scale"):
        return {}
    plain = asdict(load([f"method={cfg.method}", f"scale={cfg.scale}"]))
    for name in cfg.objective.terms.keys() - plain["objective"]["terms"].keys():
        plain["objective"]["terms"][name] = _defaults(TermConfig)
    for name in cfg.references.keys() - plain["references"].keys():
        plain["references"][name] = _defaults(ReferenceConfig)
    return {key: value for key, _, value in differences(plain, asdict(cfg))}


def _defaults(schema: type) -> dict[str, Any]:
    """Return the defaults of a section."""
    found = {}
    for field in fields(schema):
        value = field.default if field.default_factory is MISSING else field.default_factory()
        found[field.name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return found
