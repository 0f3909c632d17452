"""Load the settings of a run: defaults <- method <- scale <- set <- policy <- file <- key=value, later ones winning.

Method, scale and set are presets, YAML files: `method=NAME`, `scale=NAME`, and `task=NAME` for a known set of problems.

The layer of the policy exists only for the committed policies: `tasks/base_policies/settings.yaml`.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.checks import nearest, shown
from configs.config import Config
from configs.hints import hint, leaf
from configs.policy import PolicyConfig
from configs.sets import further_sets, known_set, name_task, section_at, set_names, task_word, with_sets

HERE = Path(__file__).resolve().parent
COMMITTED = HERE.parent / "tasks" / "base_policies"
"""Folder of the committed policies, and of the settings that were tuned for them."""
TRUNCATED = (
    "must be left out: truncated sampling biases every importance ratio (the learner's log-probs cover the whole "
    "vocabulary), and no correction here accounts for it. Measurements may be truncated: monitor.sampling.{key}, "
    "evaluate.samplings.NAME.{key}"
)
REFUSED_KEYS = {f"sampling.{key}": TRUNCATED.format(key=key) for key in ("top_p", "top_k", "min_p")}
"""Settings of other systems that have no correct counterpart here, with the reason."""
NAMED_SECTIONS = (("references",), ("objective", "terms"), ("objective", "rewards"), ("evaluate", "samplings"))
"""Sections whose keys are names of the user's own; `NAME: null` removes what an earlier layer put there."""
OWN_NAME = re.compile("[A-Za-z0-9_-]+")
"""Names of the user's own. They are parts of setting keys, metric names and paths in a checkpoint."""


def load(overrides: Sequence[str] = (), file: str | None = None) -> Config:
    """Return the settings of one run.

    Args:
        overrides: `key=value` words; `method=NAME` and `scale=NAME` among them, or in the file, choose the presets.
        file: a YAML file. One that sets every section, as the config.yaml of a run does, is used without presets.

    Raises:
        ValueError: an unknown key, a value of the wrong type or out of range, or a missing preset or file. The message
            starts with the full key, as the user types it.
    """
    chosen, overrides = task_word(overrides)
    last = _read_overrides(overrides)
    from_file = _read(Path(file)) if file else {}
    names = {kind: str(last.get(kind) or from_file.get(kind) or getattr(Config, kind)) for kind in ("method", "scale")}
    whole = {field.name for field in fields(Config)} <= from_file.keys()
    for kind, name in names.items():
        if whole and name != from_file[kind]:
            rule = f"must be {from_file[kind]!r} or left out, because {file} sets every section and is used without"
            raise ValueError(f"{kind}: {rule} presets, got {name!r}")
        if kind == "method" and name != from_file.get(kind, name) and from_file.get("objective"):
            rule = f"must be {from_file[kind]!r} or left out, because {file} sets an objective for that method"
            raise ValueError(f"{kind}: {rule}, got {name!r}")
    task = name_task(chosen, last, from_file)
    presets_ = [] if whole else [_read(preset(kind, name)) for kind, name in names.items()]
    if not whole:
        method, scale = presets_
        if "lag" in method:  # one that the method's mathematics needs
            presets_[1] = {key: value for key, value in scale.items() if key != "lag"}
        if task in set_names():
            presets_.append(known_set(task).settings(scale))
        path = next((layer["policy"]["path"] for layer in (last, from_file) if _has_path(layer)), PolicyConfig.path)
        presets_.append(committed_settings(path, names["method"]))
    elif task in set_names() and "name" not in from_file["task"]:  # the words chose another task than the file
        presets_.append({"task": known_set(task).task()})
    presets_.append(further_sets(last, from_file))
    layers = [*presets_, from_file, last, dict(names)]
    for layer in layers:
        _refuse_unknown_keys(layer, Config, "")
    for path in NAMED_SECTIONS:
        _remove_nulls(layers, path)
    try:
        merged = OmegaConf.merge(_defaults(), *(OmegaConf.create(layer) for layer in layers))
        plain: Any = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from None
    with_sets(plain)
    config = _build(Config, plain, "")
    assert isinstance(config, Config)
    return config


def check_keys(overrides: Sequence[str]) -> None:
    """Raise ValueError for a word whose key is no setting. The values are not checked."""
    _refuse_unknown_keys(_read_overrides(overrides), Config, "")


def _has_path(layer: dict[str, Any]) -> bool:
    section = layer.get("policy")
    return isinstance(section, dict) and isinstance(section.get("path"), str)


def committed_settings(path: str, method: str) -> dict[str, Any]:
    """Return the default settings of a run of `method` from the policy in `path`: none unless it is a committed one."""
    folder = Path(path).expanduser()
    # As `orchestrator.commands.paths` looks a relative path up: in the working directory, then in the project.
    folder = folder if folder.is_absolute() or folder.exists() else HERE.parent / folder
    if folder.resolve().parent != COMMITTED:
        return {}
    settings = _read(COMMITTED / "settings.yaml")
    of_method = settings.pop("methods").get(method, {})
    merged: Any = OmegaConf.to_container(OmegaConf.merge(settings, of_method))
    return merged


@cache
def _defaults() -> Any:
    """Return the schema; merging copies it, so that it is never changed."""
    return OmegaConf.structured(Config)


def presets(kind: str) -> list[str]:
    """Return the names of the presets of a kind, "method" or "scale"."""
    return sorted(path.stem for path in (HERE / f"{kind}s").glob("*.yaml"))


def to_yaml(config: Config) -> str:
    """Return all settings as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def section_of(hint: Any) -> type | None:
    """Return the dataclass of a field that is a section, or a dict of sections; None for a plain value."""
    inner = get_args(hint)[1] if get_origin(hint) is dict else hint
    return inner if is_dataclass(inner) and isinstance(inner, type) else None


def _build(schema: type, values: dict[str, Any], path: str) -> Any:
    """Construct a section from plain values, inner sections first. Put `path` before what its own checks raise."""
    hints = get_type_hints(schema)
    built: dict[str, Any] = {}
    for name, value in values.items():
        section = section_of(hints[name])
        if value == "???":
            raise ValueError(f"{path}{name}: must be given, got nothing")
        if section is None:
            built[name] = value
        elif get_origin(hints[name]) is dict:
            built[name] = {key: _build(section, inner, f"{path}{name}.{key}.") for key, inner in value.items()}
        else:
            built[name] = _build(section, value, f"{path}{name}.")
    try:
        return schema(**built)
    except ValueError as error:
        raise ValueError(f"{path}{error}") from None


def preset(kind: str, name: str) -> Path:
    """Return the file of a preset. Raises ValueError if there is none."""
    known = presets(kind)
    if name not in known:
        described = ", which `breadth methods` describes" if kind == "method" else ""
        raise ValueError(f"{kind}: must be one of {', '.join(known)}{nearest(name, known)}{described}, got {name!r}")
    return HERE / f"{kind}s" / f"{name}.yaml"


def _read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    read: Any = OmegaConf.create()
    for item in overrides:
        if not item.partition("=")[0].strip() or "=" not in item:
            raise ValueError(f"override: must read key=value, got {item!r}")
        try:
            # `method=?` asks for the allowed values; YAML would read `?` as the mark of a mapping's key.
            read.merge_with_dotlist([f"{item[:-1]}'?'" if item.endswith("=?") else item])
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"override: must read key=value with a YAML value, got {item!r} ({reason})") from None
    plain: Any = OmegaConf.to_container(read)
    return plain


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"config file: must exist, got {str(path)!r}")
    try:
        read: Any = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # the YAML reader raises its own classes for a malformed file
        raise ValueError(f"config file {path}: must be YAML, got {error}") from None
    if not isinstance(read, dict):
        raise ValueError(f"config file {path}: must be a mapping, got {read!r}")
    return read


def _remove_nulls(layers: Sequence[dict[str, Any]], path: tuple[str, ...]) -> None:
    """Remove every entry of a named section that a later layer sets to null, and the nulls themselves."""
    sections = [section_at(layer, path) for layer in layers]
    for number, section in enumerate(sections):
        for name in [name for name, value in section.items() if value is None]:
            for earlier in sections[: number + 1]:
                earlier.pop(name, None)


def keys(schema: type = Config, prefix: str = "") -> Iterator[str]:
    """Yield the full key of every setting, with NAME for a name of the user's own."""
    for name, hint_ in get_type_hints(schema).items():
        section = section_of(hint_)
        if section is None:
            yield f"{prefix}{name}"
        else:
            yield from keys(section, f"{prefix}{name}.NAME." if get_origin(hint_) is dict else f"{prefix}{name}.")


def _refuse(name: str, value: Any, prefix: str, siblings: Sequence[str]) -> NoReturn:
    """Raise ValueError for an unknown key, with what to write instead."""
    key, got = leaf(name, value)
    last = key.rpartition(".")[2]
    for refused, reason in REFUSED_KEYS.items():
        if last == refused.rpartition(".")[2]:
            raise ValueError(f"{key}: {reason}, got {shown(got)}")
    raise ValueError(f"{key}: unknown key{hint(key, prefix, siblings, list(keys()))}, got {shown(got)}")


def _not_a_section(name: str, schema: type, node: Any) -> str:
    """Return the error of a value in the place of a section: which of its settings the value may be meant for."""
    if not name:
        return "config: must be a mapping"
    names = [field.name for field in fields(schema)]
    main = next((each for each in ("name", "path", "kind", "engine") if each in names), "")
    if main and isinstance(node, str):
        return f"{name}: must be a section of settings (did you mean {name}.{main}={node}?)"
    return f"{name}: must be a section of the settings {', '.join(names)}"


def _refuse_unknown_keys(node: Any, schema: type, prefix: str) -> None:
    """Raise ValueError for a key that the schema lacks, with the nearest known one."""
    if not isinstance(node, dict):
        raise ValueError(f"{_not_a_section(prefix.rstrip('.'), schema, node)}, got {shown(node)}")
    hints = get_type_hints(schema)
    known = [f.name for f in fields(schema)]
    for key, value in node.items():
        name = f"{prefix}{key}"
        if key not in known:
            _refuse(name, value, prefix, known)
        if value == "???" or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{name}: must be a value, and a finite one, got {value!r}")
        section, kind = section_of(hints[key]), get_origin(hints[key])
        # OmegaConf raises TypeError for a list in the place of a mapping, and for the reverse.
        if kind is dict and not isinstance(value, dict):
            raise ValueError(f"{name}: must be a mapping, got {shown(value)}")
        if kind is list and not isinstance(value, list):
            raise ValueError(f"{name}: must be a list, got {shown(value)}")
        if section is None and kind not in (dict, list) and isinstance(value, dict | list):
            raise ValueError(f"{name}: must be a single value, got {shown(value)}")
        if section is None:
            continue
        if kind is not dict:
            _refuse_unknown_keys(value, section, f"{name}.")
            continue
        for own, inner in value.items():
            if not isinstance(own, str) or not OWN_NAME.fullmatch(own):
                raise ValueError(f"{name}: must have names of letters, digits, '_' and '-', got {own!r}")
            if inner is not None:
                _refuse_unknown_keys(inner, section, f"{name}.{own}.")
