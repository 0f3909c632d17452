"""Read the record of a run, its config.yaml: the settings with which its policies are measured as they were trained."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from actors.policy_files.folder import policy_folder
from configs.config import Config
from configs.hub import policy_name
from configs.load import load
from orchestrator.commands.paths import existing
from orchestrator.manifest import MANIFEST, SETTINGS, folder_name

NOT_COMPARED = (
    "policy.path",
    "policy.dtype",
    "task.heldout_prompts",
    "sampling.group_size",
    "sampling.max_prompt_tokens",
    "sampling.max_refills",
    "sampling.mixed_with",
    "sampling.mixture",
)
"""Settings of policy, task and sampling that change neither a prompt, nor an answer to it, nor its grade."""


def split_run(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the run that the words of a command line name, or "", and the other words, which read key=value.

    Raises:
        ValueError: the words name more than one run.
    """
    named = [word.removeprefix("run=") for word in words if "=" not in word or word.startswith("run=")]
    if len(named) > 1:
        raise ValueError(f"run: must be one run, with others in evaluate.checkpoints=[last,DIRECTORY], got {named}")
    return "".join(named), [word for word in words if "=" in word and not word.startswith("run=")]


def find_run(run: str, runs: str) -> Path:
    """Return the directory of a run, given as a directory or as a name in `runs`.

    Raises:
        ValueError: neither has a record.
    """
    candidates = [Path(run).expanduser().absolute(), Path(runs) / run]
    for folder in candidates:
        if (folder / SETTINGS).is_file() and not (folder / MANIFEST).exists():  # a checkpoint has both
            return folder
    places = " or ".join(str(folder / SETTINGS) for folder in candidates)
    raise ValueError(f"run: must be the directory or the name of a run with a record, {places}, got {run!r}")


def settings_of(run_dir: Path, words: Sequence[str]) -> Config:
    """Return the settings of a run, changed by the words, for an evaluation of it.

    `evaluate.checkpoints`, `evaluate.name` and `evaluate.watch` are those of the words alone. `runs` and `name` are the
    place of the directory, which may have been moved.
    """
    given = [word.partition("=")[0] for word in words]
    moved = [key for key in given if key in ("runs", "name")]
    if moved:
        raise ValueError(f"{moved[0]}: must be left out for a run, whose directory holds its evaluations, got {words}")
    unmixed = [*words, "sampling.mixed_with=''"]  # A measurement samples from the policy alone.
    cfg = load(unmixed, str(run_dir / SETTINGS))
    own = replace(
        cfg.evaluate,
        checkpoints=cfg.evaluate.checkpoints if "evaluate.checkpoints" in given else [],
        name=cfg.evaluate.name if "evaluate.name" in given else "",
        watch=cfg.evaluate.watch if "evaluate.watch" in given else "",
    )
    return replace(cfg, runs=str(run_dir.parent), name=run_dir.name, evaluate=own)


Which = Literal["last", "best"]
CHECKPOINTS: tuple[Which, ...] = ("last", "best")


@dataclass(frozen=True)
class Place:
    """Where the policy of one item of `evaluate.checkpoints` is."""

    name: str
    """Its name unless the item has one."""
    folder: Path
    """Directory of the policy, or of the run whose checkpoint it is."""
    which: Which | None = None
    """The checkpoint of the run; None: a directory of a policy."""
    hub: str = ""
    """Its name on the Hugging Face Hub, if it has one."""


def located(path: str, run_dir: Path | None) -> Place:
    """Return the place of a policy: a directory of a policy, of a checkpoint, or of a run, whose last checkpoint it is.

    Args:
        run_dir: the run that is evaluated, of which also `last`, `best`, a step, or the name of a checkpoint is a
            place.
    """
    if run_dir is not None:
        for which in CHECKPOINTS:
            if path == which:
                return Place(which, run_dir, which)
        name = folder_name(int(path)) if path.isdigit() else path
        folder = run_dir / "checkpoints" / name
        removed = path.removeprefix("step-").isdigit() and not Path(path).exists()
        if path.isdigit() or removed or ("/" not in path and folder.is_dir()):
            return Place(name, folder / "policy")
    repository = policy_name(path)
    if repository is not None and not Path(existing(path)).exists():
        return Place(repository.repository.rpartition("/")[2], policy_folder(path, "evaluate.checkpoints"), hub=path)
    folder = Path(existing(path))
    if (folder / SETTINGS).is_file() and (folder / "checkpoints").is_dir():
        return Place(folder.name, folder, "last")
    if (folder / "policy").is_dir():
        return Place(folder.name, folder / "policy")
    return Place(folder.parent.name if folder.name == "policy" else folder.name, folder)


def check_records(cfg: Config, checkpoints: Mapping[str, str], words: Sequence[str]) -> None:
    """Check that policies that come from runs are measured as they were trained: prompt form, task, verifier, sampling.

    Args:
        checkpoints: policy directories by name.
        words: `key=value` words of the command line; the user may measure under other settings by naming them.

    Raises:
        ValueError: the record of a run has another value than the evaluation, and no word sets it.
    """
    given = [word.partition("=")[0] for word in words]
    here = dict(_compared(cfg))
    for name, path in checkpoints.items():
        record = _record_of(Path(path))
        if record is None:
            continue
        there = dict(_compared(load([], str(record))))
        unequal = [key for key in {**here, **there} if here.get(key) != there.get(key) and not _told(key, given)]
        if unequal:
            run = Path(path).parent.parent.parent
            differences = ", ".join(f"{key}={there.get(key)!r} instead of {here.get(key)!r}" for key in unequal)
            raise ValueError(
                "evaluate.checkpoints: policies must come from runs with the prompt form, task, verifier and sampling "
                f"under which they are measured, got {name} of {run}, which was trained with {differences}. "
                f"`breadth evaluate {run}` measures it as it was trained; to measure all policies otherwise, "
                f"set {' and '.join(unequal)} on the command line"
            )


def _record_of(policy: Path) -> Path | None:
    """Return the settings of the checkpoint that holds this policy directory, else those of its run; None if it is not
    of a run."""
    if policy.name == "policy" and policy.parent.parent.name == "checkpoints":
        records = [folder / SETTINGS for folder in (policy.parent, policy.parent.parent.parent)]
        return next((record for record in records if record.is_file()), None)
    return None


def _compared(cfg: Config) -> Iterator[tuple[str, Any]]:
    """Yield every setting that changes prompts, answers or grades, each option of the task apart."""
    for section in ("policy", "task", "sampling"):
        for key, value in asdict(getattr(cfg, section)).items():
            path = f"{section}.{key}"
            if path == "task.options":
                yield from ((f"{path}.{option}", chosen) for option, chosen in value.items())
            elif path not in NOT_COMPARED:
                yield path, value


def _told(key: str, given: Sequence[str]) -> bool:
    """Return whether a word sets the setting `key`, or a section of which it is a part."""
    return any(key == word or key.startswith(f"{word}.") for word in given)
