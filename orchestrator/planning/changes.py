"""Change settings by their keys, and say the change as the user would type it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from configs.config import Config

Change = tuple[str, Config]
"""The change as words, and the settings with it."""


def changed(cfg: Config, values: Mapping[str, Any]) -> Config:
    """Return the settings with other values of some keys, such as `placement.generators`.

    Raises:
        ValueError: they contradict other settings.
    """
    sections: dict[str, Any] = {}
    for key, value in values.items():
        section, dot, name = key.rpartition(".")
        if dot:
            sections[section] = replace(sections.get(section, getattr(cfg, section)), **{name: value})
        else:
            sections[key] = value
    return replace(cfg, **sections)


def change(cfg: Config, values: Mapping[str, Any]) -> Change:
    """Return other values of some keys as words, and the settings with them. Raises as `changed`.

    Example: the words are "placement.learners=16 learner.offload_states=true"
    """
    words = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in values.items()]
    return " ".join(words), changed(cfg, values)
