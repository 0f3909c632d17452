"""Check that what the settings name exists: task, options, verifier, policies and files.

Loads no torch, Ray or vLLM. The commands call these functions before they import the modules that start roles, which
takes seconds, so that a wrong name is refused at once.
"""

from pathlib import Path

from actors.policy_files.folder import check_policy_folder
from configs.checks import require
from configs.config import Config
from configs.task import TaskConfig
from orchestrator.evaluation.selection import check_places
from orchestrator.placement import check_transfer
from orchestrator.preflight.gradient import check_gradient
from orchestrator.preflight.machine import has_gpu
from rewards.registry import check as check_verifier
from tasks.options import section_named, settings_named
from tasks.registry import check_options
from tasks.source import evaluation_only


def check_training(cfg: Config) -> None:
    """Raise ValueError, naming the setting, for a run that names what does not exist, that nothing would train, or
    whose weights would not get to the generators."""
    check_presampling(cfg)
    for name, task in cfg.monitor.also.items():
        check_further_task(task, f"monitor.also.{name}")
    check_gradient(cfg)
    check_transfer(cfg)
    path = cfg.rehearsal.path
    if cfg.objective.rehearses and path and not Path(path).is_file():
        raise ValueError(f"rehearsal.path: must be a parquet file made by `breadth presample`, got {path!r}")


def check_presampling(cfg: Config) -> None:
    """Raise ValueError, naming the setting, for a task, verifier, policy or reference that does not exist."""
    check_trains(cfg)
    check_task(cfg)
    check_policy_folder(cfg.policy.path)
    check_references(cfg)


def check_evaluation(cfg: Config, run_dir: Path | None) -> None:
    """Raise ValueError, naming the setting, for a task, verifier or policy that does not exist.

    Args:
        run_dir: the run that is evaluated; None: policies alone.
    """
    check_task(cfg)
    if not cfg.evaluate.checkpoints:
        check_policy_folder(cfg.policy.path)
    check_places(cfg.evaluate.checkpoints, run_dir)
    for name, task in cfg.evaluate.tasks.items():
        check_further_task(task, f"evaluate.tasks.{name}")


def check_trains(cfg: Config) -> None:
    """Raise ValueError if the task has rows for evaluation only. Looks nothing up."""
    path, heldout = (cfg.task.options.get(name, "") for name in ("path", "heldout_path"))
    if heldout and not path:
        raise ValueError(evaluation_only(cfg.task.name, heldout))


def check_task(cfg: Config) -> None:
    """Raise ValueError, naming the setting, unless the task, its options and `task.verifier` exist."""
    check_options(cfg.task)
    if cfg.task.verifier:
        check_verifier(cfg.task.verifier)
    for name, reward in cfg.objective.rewards.items():
        if reward.verifier:
            check_verifier(reward.verifier, f"objective.rewards.{name}.verifier")


def check_further_task(task: TaskConfig, where: str) -> None:
    """Raise ValueError unless a task other than the run's, its options and its verifier exist.

    Args:
        where: the section of the task, for errors.
    """
    with section_named(where):
        check_options(task)
    if task.verifier:
        check_verifier(task.verifier, f"{where}.verifier")


def check_inspection(cfg: Config) -> None:
    """Raise ValueError, naming the setting, for a task, another set, a policy or a device that does not exist."""
    check_task(cfg)
    for name, other in cfg.inspect_task.others.items():
        where = f"inspect_task.others.{name}"
        with settings_named(f"{where}.task", f"{where}.options"):
            check_options(TaskConfig(name=other.task, options=other.options))
    check_policy_folder(cfg.policy.path)
    rule = "must be 'cpu' on a machine without a GPU: this process reads the prompts"
    require(cfg.placement.device != "gpu" or has_gpu(), "placement.device", rule, cfg.placement.device)


def check_new_policy(output: str) -> None:
    """Raise ValueError unless `warm_start.output` is a new or empty directory, or a policy's, which is replaced."""
    if not output:
        raise ValueError("warm_start.output: must be the path of the directory to write, got ''")
    folder = Path(output)
    policy = (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))
    replaceable = not folder.exists() or (folder.is_dir() and (policy or not any(folder.iterdir())))
    require(replaceable, "warm_start.output", "must be new, empty, or a policy to replace", output)


def check_references(cfg: Config) -> None:
    """Raise ValueError, naming the setting, unless each reference of the settings is a directory of a policy."""
    if cfg.reference_path:
        check_policy_folder(cfg.reference_path, "reference_path")
    for name, reference in cfg.references.items():
        if reference.path:
            check_policy_folder(reference.path, f"references.{name}.path")
        for path in reference.soup:
            check_policy_folder(path, f"references.{name}.soup")
