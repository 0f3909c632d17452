"""Options of tasks: convert them from the settings, declare paths, and name them in errors as the user wrote them."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.checks import nearest, shown

PATH = {"path": True}
"""Metadata of an option that is the path of something to read."""
ROWS = {**PATH, "rows": True}
"""Metadata of an option that is the path of rows, or the name of a dataset of the Hugging Face Hub."""
VERIFIER = {"verifier": True}
"""Metadata of an option that is the name of a verifier."""
KINDS: dict[Any, str] = {
    int: "a whole number",
    int | None: "a whole number or null",
    float: "a number",
    str: "a string",
    list[str]: "a list of strings",
    dict[str, Any]: "a mapping",
}
"""How errors describe the type of an option."""
SETTING = re.compile(r"(?<![\w.])task\.(name|options)\b")
"""The settings that a task's errors name."""
IN_SECTION = re.compile(r"(?<![\w.])task\.(?=(name|options|extraction|heldout_prompts)\b)")
"""Beginning of the settings of a task that errors name."""


def parse(schema: type, given: Any, where: str = "task.options") -> Any:
    """Convert options from the settings to the dataclass `schema`.

    Args:
        given: mapping of option names to values.
        where: the setting that `given` comes from, for errors.

    Raises:
        ValueError: an option is unknown or its value is not allowed; names the option, with `where` before it.
    """
    if not isinstance(given, dict):
        raise ValueError(
            f"{where}: must be a mapping of {', '.join(f.name for f in fields(schema))}, got {shown(given)}"
        )
    known, hints = [each.name for each in fields(schema)], get_type_hints(schema)
    options = OmegaConf.structured(schema)
    for key, value in given.items():
        if key not in known:
            hint = nearest(str(key), known) or f" (the options are {', '.join(known)})"
            raise ValueError(f"{where}.{key}: unknown option{hint}, got {shown(value)}")
        if get_origin(hints[key]) is list and is_dataclass(get_args(hints[key])[0]):
            if not isinstance(value, list):
                raise ValueError(f"{where}.{key}: must be a list, got {shown(value)}")
            for index, item in enumerate(value):
                parse(get_args(hints[key])[0], item, f"{where}.{key}[{index}]")
        try:
            options = OmegaConf.merge(options, {key: value})
        except (OmegaConfBaseException, TypeError):
            raise ValueError(f"{where}.{key}: must be {KINDS[hints[key]]}, got {shown(value)}") from None
    try:
        return OmegaConf.to_object(options)
    except OmegaConfBaseException as error:
        raise ValueError(f"{where}.{error.full_key}: {str(error).splitlines()[0]}") from None


def options_with(schema: type, mark: Mapping[str, bool]) -> list[str]:
    """Return the names of the options that are declared with the metadata `mark`: PATH or VERIFIER."""
    return [each.name for each in fields(schema) if mark.items() <= each.metadata.items()]


@contextmanager
def settings_named(name: str, options: str) -> Iterator[None]:
    """Replace `task.name` and `task.options` in a ValueError by the settings that the user wrote.

    A task can be configured in several settings, but its errors always contain `task.name` and `task.options`.

    Args:
        name: replaces `task.name`, for example `replay.task`.
        options: replaces `task.options`, for example `replay.options`.
    """
    try:
        yield
    except ValueError as error:
        names = {"name": name, "options": options}
        raise ValueError(SETTING.sub(lambda found: names[found[1]], str(error))) from None


@contextmanager
def section_named(where: str) -> Iterator[None]:
    """Name the section of a task beside the run's own in a ValueError: in the settings of the task, or before the text.

    Args:
        where: the section, for example `monitor.also.NAME`.
    """
    try:
        yield
    except ValueError as error:
        text = IN_SECTION.sub(f"{where}.", str(error))
        raise ValueError(text if text.startswith(where) else f"{where}: {text}") from None
