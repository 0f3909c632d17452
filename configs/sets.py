"""Known sets of problems, `configs/sets/*.yaml`: each is a task by name, with the options of the task dataset.

`task=NAME` chooses one, as `method=NAME` chooses a method. `load` puts its options below those that are given.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent / "sets"
FURTHER = (("evaluate", "tasks"), ("monitor", "also"))
"""Sections of further tasks, by names of the user's own."""


@dataclass(frozen=True, kw_only=True)
class KnownSet:
    """One published set of problems."""

    about: str
    """What it holds, and where it was published."""
    license: str
    """License of its rows, as its repository states it."""
    columns: list[str]
    """The columns of its rows that are used."""
    extraction: str
    """`task.extraction`."""
    max_prompt_tokens: int
    """Smallest `sampling.max_prompt_tokens`, as `max_new_tokens`."""
    max_new_tokens: int
    """Smallest `sampling.max_new_tokens`; a preset of a scale may have more."""
    options: dict[str, Any] = field(default_factory=dict)
    """`task.options` of the task dataset. Without a `path` it is for evaluation only."""

    @property
    def trains(self) -> bool:
        """Whether it has rows for training."""
        return bool(self.options.get("path"))

    def settings(self, scale: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a run on it.

        Args:
            scale: the settings of the preset of the scale.
        """
        there = scale.get("sampling", {})
        limits = {
            name: max(getattr(self, name), there.get(name, 0)) for name in ("max_prompt_tokens", "max_new_tokens")
        }
        return {"task": self.task(), "sampling": limits}

    def task(self) -> dict[str, Any]:
        """Return the settings of a task on it. One without rows for training is measured on all of its rows."""
        found = {"extraction": self.extraction, "options": dict(self.options)}
        return found if self.trains else found | {"heldout_prompts": self.options["heldout_rows"]}


def set_names() -> list[str]:
    """Return the names of the known sets."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


@cache
def known_set(name: str) -> KnownSet:
    """Read a known set."""
    read = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    assert read.keys() <= {each.name for each in fields(KnownSet)}, f"{name}.yaml: unknown keys"
    return KnownSet(**read)


def task_word(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return NAME of the last word `task=NAME`, or "", and the other words: a text could have no options beside it."""
    named = [word for word in words if re.fullmatch(r"task=([\w-]+|\?)", word)]
    return (named[-1].removeprefix("task=") if named else ""), [word for word in words if word not in named]


def name_task(chosen: str, words: dict[str, Any], file: dict[str, Any]) -> str:
    """Return the name of the task of a run, "" if neither words nor file name it, and write it into their `task.name`.

    A word `task=NAME` for another task than the file's removes the file's section, whose options are of its own task.

    Args:
        chosen: NAME of the word `task=NAME`, or "".
        words, file: settings, changed in place. In a file, a section `task` that is a text is the name of the task.
    """
    if isinstance(file.get("task"), str):
        file["task"] = {"name": file["task"]}
    sections = [layer.setdefault("task", {}) for layer in (words, file)]
    if not all(isinstance(section, dict) for section in sections):
        return ""  # It is refused as any other value in the place of a section.
    if chosen:
        words["task"]["name"] = chosen
        if file["task"].get("name", chosen) != chosen:
            file["task"] = {}
    return str(next((layer["task"]["name"] for layer in (words, file) if layer["task"].get("name")), ""))


def further_sets(words: dict[str, Any], file: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the further tasks that are known sets, for a layer below words and file.

    A section of the file whose task the words replace is removed, since its options are of its own task.

    Args:
        words, file: settings, which are not checked yet; the file's are changed in place.
    """
    found: dict[str, Any] = {}
    for path in FURTHER:
        given = section_at(words, path), section_at(file, path)
        for own in {**given[1], **given[0]}:
            names = [one["name"] for each in given if isinstance(one := each.get(own), dict) and "name" in one]
            if len(names) == 2 and names[0] != names[1]:
                del given[1][own]
            if names and names[0] in set_names():
                found.setdefault(path[0], {}).setdefault(path[1], {})[own] = known_set(names[0]).task()
    return found


def section_at(layer: Any, path: Sequence[str]) -> dict[str, Any]:
    """Return the section at a path of settings that are not checked yet; empty if there is none."""
    for key in path:
        layer = layer.get(key) if isinstance(layer, dict) else None
    return layer if isinstance(layer, dict) else {}


def with_sets(plain: dict[str, Any]) -> None:
    """Put the options of each known set that the settings name below the options that are given for it, in place."""
    others = ((other, "task") for other in plain["inspect_task"]["others"].values())
    further = ((task, "name") for path in FURTHER for task in section_at(plain, path).values())
    for section, key in ((plain["task"], "name"), (plain["replay"], "task"), *others, *further):
        _fill(section, key)


def _fill(section: Any, key: str) -> None:
    """Fill in the options of one task, and of the domains of a mixture."""
    if not isinstance(section, dict):
        return
    name, options = section.get(key), section.get("options") or {}
    if name in set_names() and isinstance(options, dict):
        section["options"] = known_set(name).options | options
    if name == "mixture" and isinstance(options, dict) and isinstance(options.get("domains"), list):
        for domain in options["domains"]:
            _fill(domain, "name")
