"""Make the paths of the settings absolute.

A run then uses the same folders on every node, and in a Ray job, whose working directory is temporary.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.config import Config
from configs.heldout_task import HeldOutTaskConfig
from rewards.user_functions import with_file
from tasks.registry import map_paths

ROOT = Path(__file__).resolve().parents[2]


def absolute(cfg: Config) -> Config:
    """Return the settings with every path absolute.

    A relative path of something to read is looked up in the working directory, then in the project's own folder, which
    holds the committed policies. `runs` is relative to the working directory; in a Ray job, whose working directory is
    removed at its end, to the home directory. Other outputs are relative to the working directory. The policies of
    `evaluate.checkpoints` are found by `orchestrator/evaluation/policies.py`, as they may be checkpoints of a run.
    """
    in_ray_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    runs = (Path.home() if in_ray_job else Path.cwd()) / cfg.runs
    rewards = {
        name: replace(reward, verifier=_existing_verifier(reward.verifier))
        for name, reward in cfg.objective.rewards.items()
    }
    return replace(
        cfg,
        runs=str(runs),
        objective=replace(cfg.objective, rewards=rewards),
        policy=replace(cfg.policy, path=existing(cfg.policy.path)),
        reference_path=existing(cfg.reference_path),
        references={
            name: replace(
                reference,
                path=existing(reference.path),
                soup={existing(path): weight for path, weight in reference.soup.items()},
            )
            for name, reference in cfg.references.items()
        },
        task=replace(
            cfg.task,
            options=_paths(cfg.task.name, cfg.task.options),
            verifier=_existing_verifier(cfg.task.verifier),
        ),
        monitor=replace(cfg.monitor, also=_further_tasks(cfg.monitor.also)),
        evaluate=replace(cfg.evaluate, tasks=_further_tasks(cfg.evaluate.tasks)),
        rehearsal=replace(cfg.rehearsal, path=_below(Path.cwd(), cfg.rehearsal.path)),
        replay=replace(cfg.replay, options=_paths(cfg.replay.task, cfg.replay.options)),
        inspect_task=replace(
            cfg.inspect_task,
            others={
                name: replace(other, options=_paths(other.task, other.options))
                for name, other in cfg.inspect_task.others.items()
            },
        ),
        warm_start=replace(cfg.warm_start, output=_below(Path.cwd(), cfg.warm_start.output)),
    )


def _further_tasks(tasks: Mapping[str, HeldOutTaskConfig]) -> dict[str, HeldOutTaskConfig]:
    return {
        name: replace(task, options=_paths(task.name, task.options), verifier=_existing_verifier(task.verifier))
        for name, task in tasks.items()
    }


def split_name(item: str) -> tuple[str, str]:
    """Split `name=path` into name and path; the name is empty for a path alone.

    A name holds no slash, so `dir/a=b` is a path.
    """
    name, equals, path = item.partition("=")
    return (name, path) if equals and "/" not in name else ("", item)


def existing(path: str) -> str:
    """Return the absolute path of something to read."""
    if not path:
        return ""
    given = Path(path).expanduser()
    if not given.is_absolute() and not given.exists() and (ROOT / given).exists():
        return str(ROOT / given)
    return str(given.absolute())


def _existing_verifier(name: str) -> str:
    """Return the name of a verifier, with an absolute path if it is the name of a function in a file."""
    return with_file(name, existing)


def _paths(task: str, options: dict[str, Any]) -> dict[str, Any]:
    return map_paths(task, options, existing, _existing_verifier)


def _below(folder: Path, path: str) -> str:
    """Return the absolute path of an output, relative to `folder`."""
    return str(folder / Path(path).expanduser()) if path else ""
