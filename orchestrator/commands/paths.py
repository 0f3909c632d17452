"""Absolute paths, so that a run means the same folders on every node and in a Ray job's scratch directory."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.config import Config

ROOT = Path(__file__).resolve().parents[2]
TASK_PATHS = ("path", "heldout_path", "database_dir")
"""Options of tasks that are paths."""


def absolute(cfg: Config) -> Config:
    """The config with every path absolute.

    A relative path of something to read is looked for from the working directory, then from the project's own folder
    (the committed policies). `runs` counts from the working directory; in a Ray job, whose working directory is
    removed with it, from the home directory.
    """
    in_ray_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    runs = (Path.home() if in_ray_job else Path.cwd()) / cfg.runs
    checkpoints = []
    for item in cfg.evaluate.checkpoints:
        name, path = split_name(item)
        checkpoints.append(f"{name}={_existing(path)}" if name else _existing(path))
    return replace(
        cfg,
        runs=str(runs),
        policy=replace(cfg.policy, path=_existing(cfg.policy.path)),
        reference_path=_existing(cfg.reference_path),
        references={
            name: replace(
                reference,
                path=_existing(reference.path),
                soup={_existing(path): weight for path, weight in reference.soup.items()},
            )
            for name, reference in cfg.references.items()
        },
        task=replace(cfg.task, options=_options(cfg.task.options)),
        rehearsal=replace(cfg.rehearsal, path=_below(Path.cwd(), cfg.rehearsal.path)),
        replay=replace(cfg.replay, options=_options(cfg.replay.options)),
        evaluate=replace(cfg.evaluate, checkpoints=checkpoints, output=_below(runs, cfg.evaluate.output)),
        warm_start=replace(cfg.warm_start, output=_below(Path.cwd(), cfg.warm_start.output)),
    )


def split_name(item: str) -> tuple[str, str]:
    """`name=path` or `path` alone, whose name is empty. A name holds no slash, a path with "=" in it does."""
    name, equals, path = item.partition("=")
    return (name, path) if equals and "/" not in name else ("", item)


def _options(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a task, and of a mixture's parts; what has no known form is left for the task to refuse."""
    found = {k: _existing(v) if k in TASK_PATHS and isinstance(v, str) else v for k, v in options.items()}
    if isinstance(found.get("parts"), list):
        found["parts"] = [_part(part) for part in found["parts"]]
    return found


def _part(part: Any) -> Any:
    inner = part.get("options") if isinstance(part, dict) else None
    return part | {"options": _options(inner)} if isinstance(inner, dict) else part


def _existing(path: str) -> str:
    if not path:
        return ""
    local = Path(path).expanduser()
    if not local.is_absolute() and not local.exists() and (ROOT / local).exists():
        return str(ROOT / local)
    return str(local.absolute())


def _below(folder: Path, path: str) -> str:
    return str(folder / Path(path).expanduser()) if path else ""
