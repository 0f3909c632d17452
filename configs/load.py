"""Layers of a config: defaults <- method YAML <- scale YAML <- file <- key=value, later ones winning."""

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.checks import nearest
from configs.config import Config

HERE = Path(__file__).resolve().parent


def load(overrides: Sequence[str] = (), file: str | None = None) -> Config:
    """The config of one run.

    `method=NAME` and `scale=NAME` among the overrides (or in the file) choose the presets. Raises ValueError, naming
    the field, on an unknown key, a value of the wrong type or out of range, or a missing preset or file.
    """
    last = _read_overrides(overrides)
    from_file: Any = _read(Path(file)) if file else OmegaConf.create()
    names = {kind: str(last.get(kind) or from_file.get(kind) or getattr(Config, kind)) for kind in ("method", "scale")}
    layers = [*(_read(_preset(kind, name)) for kind, name in names.items()), from_file, last, OmegaConf.create(names)]
    for layer in layers:
        _refuse_unknown_keys(OmegaConf.to_container(layer), Config, "")
    try:
        config = OmegaConf.to_object(OmegaConf.merge(_defaults(), *layers))
    except OmegaConfBaseException as error:
        raise ValueError(f"{error.full_key or 'config'}: {str(error).splitlines()[0]}") from None
    assert isinstance(config, Config)
    return config


@cache
def _defaults() -> Any:
    """Never changed: merging copies it."""
    return OmegaConf.structured(Config)


def presets(kind: str) -> list[str]:
    """Names of the presets of a kind, "method" or "scale"."""
    return sorted(path.stem for path in (HERE / f"{kind}s").glob("*.yaml"))


def to_yaml(config: Config) -> str:
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _preset(kind: str, name: str) -> Path:
    if name not in presets(kind):
        raise ValueError(
            f"{kind}: must be one of {', '.join(presets(kind))}{nearest(name, presets(kind))}, got {name!r}"
        )
    return HERE / f"{kind}s" / f"{name}.yaml"


def _read_overrides(overrides: Sequence[str]) -> Any:
    read: Any = OmegaConf.create()
    for item in overrides:
        if "=" not in item:
            raise ValueError(f"override: must read key=value, got {item!r}")
        try:
            read.merge_with_dotlist([item])
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"override: must read key=value with a YAML value, got {item!r} ({reason})") from None
    return read


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"config file: must exist, got {str(path)!r}")
    try:
        read = OmegaConf.load(path)
    except Exception as error:  # the YAML reader raises its own classes for a malformed file
        raise ValueError(f"config file {path}: must be YAML, got {error}") from None
    if not OmegaConf.is_dict(read):
        raise ValueError(f"config file {path}: must be a mapping, got {OmegaConf.to_container(read)!r}")
    return read


def _refuse_unknown_keys(node: Any, schema: type, prefix: str) -> None:
    """Unknown keys are told with the nearest known one; a dict-valued field may hold any keys."""
    if not isinstance(node, dict):
        raise ValueError(f"{prefix.rstrip('.') or 'config'}: must be a mapping, got {node!r}")
    hints = get_type_hints(schema)
    known = [f.name for f in fields(schema)]
    for key, value in node.items():
        if key not in known:
            raise ValueError(f"{prefix}{key}: unknown key{nearest(str(key), known)}, got {value!r}")
        if value == "???" or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(f"{prefix}{key}: must be a value, and a finite one, got {value!r}")
        if is_dataclass(hints[key]):
            _refuse_unknown_keys(value, hints[key], f"{prefix}{key}.")  # type: ignore[arg-type]
        elif isinstance(value, dict) and get_origin(hints[key]) is dict and is_dataclass(get_args(hints[key])[1]):
            for name, section in value.items():
                _refuse_unknown_keys(section, get_args(hints[key])[1], f"{prefix}{key}.{name}.")
