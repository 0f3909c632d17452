"""Check that a resumed run continues under the settings it was started with. Importing this loads no torch or Ray."""

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict
from glob import glob
from pathlib import Path
from typing import Any

from configs.config import Config
from configs.explain import value_words
from configs.hub import policy_name, rows_name
from configs.load import load
from configs.resume import MAY_CHANGE, may_change
from orchestrator.manifest import BrokenCheckpoint, file_digest, saved, step_of, verify
from orchestrator.remote_runs.place import work_folder
from orchestrator.submission.runtime import SUBMIT_VARIABLE
from rewards.user_functions import in_file, split_name
from tasks.options import PATH, options_with
from tasks.registry import TASKS

ABSENT = object()
"""Value of a setting that one of two runs does not have, such as one of a divergence term."""
SHOWN = 4
"""Number of changed settings that an error lists."""


def resume_command(cfg: Config, *changes: str) -> str:
    """Return the command that continues the run, from any working directory: in a submitted job, as another one."""
    remote = cfg.mirror and Path(cfg.runs) == work_folder(cfg.mirror)
    words = ["train", "--resume", f"name={cfg.name}", f"runs={cfg.mirror if remote else cfg.runs}", *changes]
    return f"{os.environ.get(SUBMIT_VARIABLE, 'breadth')} {shlex.join(words)}"


def nothing_left(cfg: Config, run_dir: Path) -> str:
    """Return the line for the user if a whole checkpoint has all steps of the run; empty if there is something to
    train."""
    for path in reversed(saved(run_dir / "checkpoints")):
        done = step_of(path)
        if done < cfg.steps:
            break
        try:
            verify(path)
        except BrokenCheckpoint:  # It is reported when the checkpoint to resume from is searched.
            continue
        return (
            f"steps: all {cfg.steps} are done, the last checkpoint is of step {done}; nothing to train. To go on: "
            + resume_command(cfg, f"steps={2 * done}")
        )
    return ""


def check_resumed_settings(cfg: Config, record: Path, report: Callable[[str], None]) -> None:
    """Check that the settings of a resumed run differ from those of its steps so far only where they may.

    A path to read may differ if the old one is gone or both hold the same files, since a run may continue on another
    machine.

    Args:
        record: the file with the settings of the steps so far.
        report: is called with a line for each path whose old place is gone.

    Raises:
        ValueError: other settings differ; names them with both values.
    """
    before = load([], str(record))
    refused = []
    for key, old, new in differences(asdict(before), asdict(cfg)):
        if not may_change(key) and not (_is_path(key) and _moved(key, old, new, report)):
            refused.append(f"{key}: must stay {words(old)} in a resumed run, got {words(new)}")
    if refused:
        more = f"; and {len(refused) - SHOWN} more" if len(refused) > SHOWN else ""
        raise ValueError(
            f"{'; '.join(refused[:SHOWN])}{more}. A resumed run may change only {', '.join(MAY_CHANGE)}. To train on "
            "under other settings, start a new run (name=NEW) with policy.path=CHECKPOINT/policy"
        )


def differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key, earlier value and present value of every setting that differs between two nested mappings."""
    if not (isinstance(before, dict) and isinstance(now, dict)):
        if before != now:
            yield path, before, now
        return
    for key in dict.fromkeys([*before, *now]):
        yield from differences(before.get(key, ABSENT), now.get(key, ABSENT), f"{path}.{key}".lstrip("."))


def _is_path(key: str) -> bool:
    """Return whether a setting is a path to read, or a function in a file."""
    options = [name for schema, _ in TASKS.values() for name in options_with(schema, PATH)]
    return key.rpartition(".")[2] in ("path", "reference_path", "verifier", *options)


def _moved(key: str, old: Any, new: Any, report: Callable[[str], None]) -> bool:
    """Return whether two different paths may stand for the same files."""
    if not (isinstance(old, str) and isinstance(new, str) and old and new):
        return False
    if _on_hub(old) and _on_hub(new):
        return False  # Of two revisions, each is what it is.
    if in_file(old) and in_file(new):
        if split_name(old)[1] != split_name(new)[1]:
            return False
        old, new = split_name(old)[0], split_name(new)[0]
    before = _contents(old)
    if not before:
        report(f"{key}: {old} is gone; {new} is read in its place")
    return not before or before == _contents(new)


def _on_hub(path: str) -> bool:
    return policy_name(path) is not None or rows_name(path) is not None


def _contents(path: str) -> list[tuple[str, str]]:
    """Return names and SHA-256 of the files of a folder, or of those that a path or a pattern matches."""
    folder = Path(path)
    if folder.is_dir():
        return [(str(p.relative_to(folder)), file_digest(p)) for p in sorted(folder.rglob("*")) if p.is_file()]
    return [(Path(p).name, file_digest(Path(p))) for p in sorted(glob(path))]


def words(value: Any) -> str:
    """Return a value as YAML shows it; of a mapping, its first entry."""
    if value is ABSENT:
        return "unset"
    if isinstance(value, dict):
        [first, *more] = [f"{key}: {words(inner)}" for key, inner in value.items()] or [""]
        return "{" + first + ", ..." * bool(more) + "}"
    return value_words(value)
