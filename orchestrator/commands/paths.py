"""Make the paths of the settings absolute, and change the values of settings that are paths to read.

A run then uses the same folders on every node, and in a Ray job, whose working directory is temporary.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from configs.config import Config
from configs.heldout_task import HeldOutTaskConfig
from configs.hub import policy_name, rows_name
from orchestrator.remote_runs.place import check_url, is_url, work_folder
from rewards.user_functions import with_file
from tasks.registry import Changes, Resolve, map_paths, task_of

ROOT = Path(__file__).resolve().parents[2]
JOB_FOLDER = re.compile(r".*/working_dir_files/_ray_pkg_[0-9a-f]+/")
"""Where Ray unpacks the working directory of a job. Each content has a folder of its own."""


def absolute(cfg: Config) -> Config:
    """Return the settings with every path absolute. Names of repositories of the Hugging Face Hub stay as they are.

    A relative path of something to read is looked up in the working directory, then in the project's own folder, which
    holds the committed policies. `runs` is relative to the working directory; in a Ray job, whose working directory is
    removed at its end, to the home directory. If it is a URL, `mirror` is the URL, and `runs` the local folder of that
    place. Other outputs are relative to the working directory. The policies of `evaluate.checkpoints` are found by
    `orchestrator/evaluation/policies.py`, as they may be checkpoints of a run.

    Raises:
        ValueError: there is no task of this name.
    """
    task_of(cfg.task.name)  # refuses an unknown name, before anything is looked up
    in_ray_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    place = cfg.runs.rstrip("/") if is_url(cfg.runs) else ""
    mirror = place or cfg.mirror.rstrip("/")
    if mirror:
        check_url("runs" if place else "mirror", mirror)
    runs = work_folder(place) if place else (Path.home() if in_ray_job else Path.cwd()) / cfg.runs
    rewards = {
        name: replace(reward, verifier=_existing_verifier("", reward.verifier))
        for name, reward in cfg.objective.rewards.items()
    }
    cfg = replace(
        cfg,
        runs=str(runs),
        mirror=mirror,
        objective=replace(cfg.objective, rewards=rewards),
        task=replace(cfg.task, verifier=_existing_verifier("", cfg.task.verifier)),
        rehearsal=replace(cfg.rehearsal, path=_below(Path.cwd(), cfg.rehearsal.path)),
        warm_start=replace(cfg.warm_start, output=_below(Path.cwd(), cfg.warm_start.output)),
    )
    changes = Changes(path=lambda setting, path: existing(path), rows=_existing_rows, verifier=_existing_verifier)
    return with_inputs(cfg, lambda setting, path: existing(path) if policy_name(path) is None else path, changes)


def with_inputs(cfg: Config, policy: Resolve, changes: Changes) -> Config:
    """Return the settings with `policy` applied to each path of a policy, and `changes` to the options of each task.

    Paths that are empty, which stand for another one, stay as they are.
    """

    def changed(setting: str, path: str) -> str:
        return policy(setting, path) if path else ""

    references = {
        name: replace(
            reference,
            path=changed(f"references.{name}.path", reference.path),
            soup={changed(f"references.{name}.soup", path): weight for path, weight in reference.soup.items()},
        )
        for name, reference in cfg.references.items()
    }
    others = {
        name: replace(
            other, options=map_paths(other.task, other.options, changes, f"inspect_task.others.{name}.options")
        )
        for name, other in cfg.inspect_task.others.items()
    }
    return replace(
        cfg,
        policy=replace(cfg.policy, path=changed("policy.path", cfg.policy.path)),
        reference_path=changed("reference_path", cfg.reference_path),
        references=references,
        task=replace(cfg.task, options=map_paths(cfg.task.name, cfg.task.options, changes)),
        replay=replace(cfg.replay, options=map_paths(cfg.replay.task, cfg.replay.options, changes, "replay.options")),
        inspect_task=replace(cfg.inspect_task, others=others),
        monitor=replace(cfg.monitor, also=_further_tasks(cfg.monitor.also, changes, "monitor.also")),
        evaluate=replace(cfg.evaluate, tasks=_further_tasks(cfg.evaluate.tasks, changes, "evaluate.tasks")),
    )


def _further_tasks(
    tasks: Mapping[str, HeldOutTaskConfig], changes: Changes, setting: str
) -> dict[str, HeldOutTaskConfig]:
    return {
        name: replace(
            task,
            options=map_paths(task.name, task.options, changes, f"{setting}.{name}.options"),
            verifier=_existing_verifier("", task.verifier),
        )
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
    sent = JOB_FOLDER.match(path)
    if sent and (Path.cwd() / path[sent.end() :]).exists():  # recorded by an earlier job of the run
        return str(Path.cwd() / path[sent.end() :])
    if not given.is_absolute() and not given.exists() and (ROOT / given).exists():
        return str(ROOT / given)
    return str(given.absolute())


def _existing_rows(setting: str, path: str) -> str:
    """Return the absolute path of rows; the name of a dataset of the Hub stays as it is."""
    here = existing(path)
    return path if rows_name(path) is not None and not Path(here).exists() else here


def _existing_verifier(setting: str, name: str) -> str:
    """Return the name of a verifier, with an absolute path if it is the name of a function in a file."""
    return with_file(name, existing)


def _below(folder: Path, path: str) -> str:
    """Return the absolute path of an output, relative to `folder`."""
    return str(folder / Path(path).expanduser()) if path else ""
