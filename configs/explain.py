"""Explain settings: their type, allowed values, default and meaning, read from the dataclasses that declare them.

The meaning of a field is the string below it. `breadth show-config --explain KEY` prints these, and `docs/settings.md`
lists them all.
"""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from configs.checks import nearest
from configs.config import Config
from configs.hints import other_trainers
from configs.load import REFUSED_KEYS, section_of

NAME = "NAME"
"""Stands in a key for a name of the user's own, as in `objective.terms.NAME.alpha`."""


@dataclass(frozen=True)
class Setting:
    """One setting."""

    key: str
    """The full key as the user types it, with NAME for a name of the user's own."""
    type: str
    """Type, or the allowed values."""
    default: str
    """The default as YAML shows it; empty where the setting must be given."""
    meaning: str

    @property
    def section(self) -> str:
        """The key without its last part; empty for a setting of the run itself."""
        return self.key.rpartition(".")[0]


def agree(pattern: str, key: str) -> bool:
    """Return whether two keys are equal as far as the shorter one goes; NAME in `pattern` stands for any name."""
    return all(part in (NAME, given) for part, given in zip(pattern.split("."), key.split("."), strict=False))


def settings(schema: type = Config, path: str = "") -> Iterator[Setting]:
    """Yield every setting below a section, in the order of declaration."""
    hints, meanings = get_type_hints(schema), field_meanings(schema)
    for field in fields(schema):
        hint, key = hints[field.name], f"{path}{field.name}"
        section = section_of(hint)
        if section is None:
            default = "" if field.default is MISSING and field.default_factory is MISSING else _default(field)
            # A field whose values are the names of a table refers to it in its metadata.
            type_ = " | ".join(field.metadata["values"]) if "values" in field.metadata else type_words(hint)
            yield Setting(key=key, type=type_, default=default, meaning=meanings.get(field.name, ""))
        else:
            yield from settings(section, f"{key}.{NAME}." if get_origin(hint) is dict else f"{key}.")


def sections(schema: type = Config, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield key and meaning of every section, the outer before the inner; the run itself has an empty key."""
    yield path, inspect.cleandoc(schema.__doc__ or "")
    for name, hint in get_type_hints(schema).items():
        section = section_of(hint)
        if section is not None:
            inner = f"{name}.{NAME}" if get_origin(hint) is dict else name
            yield from sections(section, f"{path}.{inner}" if path else inner)


def explain(key: str) -> list[Setting]:
    """Return the setting `key`, or all settings of the section `key`.

    Raises:
        ValueError: there is no such setting or section; the message has the nearest one.
    """
    if key in REFUSED_KEYS:
        raise ValueError(f"{key}: {REFUSED_KEYS[key]}")
    everything = list(settings())
    found = [s for s in everything if agree(s.key, key) and key.count(".") <= s.key.count(".")]
    if not found:
        own = [*(name for name, _ in sections()), *(setting.key for setting in everything)]
        hint = other_trainers(key) or nearest(key, own)
        raise ValueError(f"{key}: must be a setting or a section of settings{hint}, got {key!r}")
    return found


@cache
def field_meanings(schema: type) -> dict[str, str]:
    """Return the string below each field of a dataclass, on one line; a field without one is missing."""
    [node] = ast.parse(inspect.cleandoc("\n" + inspect.getsource(schema))).body
    assert isinstance(node, ast.ClassDef)
    found: dict[str, str] = {}
    for base in schema.__bases__:
        found |= field_meanings(base) if is_dataclass(base) else {}
    for statement, below in zip(node.body, node.body[1:], strict=False):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[statement.target.id] = " ".join(text.split())
    return found


def type_words(hint: Any) -> str:
    """Return a type as users read it: `int`, `float or null`, `a | b | c` for the values of a Literal."""
    if get_origin(hint) is Literal:
        return " | ".join(str(value) for value in get_args(hint))
    if NoneType in get_args(hint):
        return f"{' or '.join(type_words(inner) for inner in get_args(hint) if inner is not NoneType)} or null"
    if get_origin(hint) is list:
        inner = get_args(hint)[0]
        return f"list of {'mappings' if is_dataclass(inner) else type_words(inner)}"
    if get_origin(hint) is dict:
        return "mapping" if get_args(hint)[1] is Any else f"mapping of names to {type_words(get_args(hint)[1])}"
    return str(hint.__name__)


def value_words(value: Any) -> str:
    """Return a value as YAML shows it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str) and not value else str(value)


def _default(field: Any) -> str:
    return value_words(field.default if field.default is not MISSING else field.default_factory())
