"""Folders of evaluations: `<run directory>/evaluations/NAME`. An evaluation that has ended is never replaced."""

import fcntl
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import date
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

from configs.checks import require
from orchestrator.manifest import MANIFEST, SETTINGS, hold_policy
from orchestrator.report.inputs import CHECKPOINTS, EVALUATIONS, RESULTS

WATCHED = "watched.json"
"""File of an evaluation that watches a run which has not ended: digests of the checkpoints that were measured, by name.
They may be gone since."""
HELD = ".held-"
"""Beginning of the name of a folder, beside the evaluations, with the checkpoints that a job is measuring."""
LOCK = ".lock"
"""File of an evaluation that its job holds locked."""


def check_name(run_dir: Path, name: str) -> None:
    """Raise ValueError if the run has an evaluation of this name that has ended, or that another job is making, before
    an hour of answers is sampled for it."""
    folder = run_dir / EVALUATIONS / name
    rule = f"must be new in {str(run_dir / EVALUATIONS)!r}, or that of an evaluation that was interrupted"
    require(not name or _is_free(folder), "evaluate.name", rule, name)


def new_folder(run_dir: Path, name: str, settings: str = "") -> Path:
    """Return the folder of a new evaluation, or of an interrupted one that goes on.

    Args:
        name: of the evaluation. Empty: today's date and a number, such as `2026-01-31-2`, or that of the interrupted
            evaluation with the same settings.
        settings: of the evaluation, as YAML.
    """
    root = run_dir / EVALUATIONS
    if name:
        assert _is_free(root / name), f"the evaluation {name} was made since check_name"
        folder = root / name
    else:
        begun = [path.parent for path in sorted(root.glob(f"*/{SETTINGS}")) if path.read_text() == settings]
        dated = (root / f"{date.today().isoformat()}-{number}" for number in count(1))
        folder = next(filter(_is_free, begun), None) or next(path for path in dated if not path.exists())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS).write_text(settings)
    return folder


def _is_free(folder: Path) -> bool:
    """Return whether there is no evaluation in a folder, or one that was interrupted."""
    if (folder / RESULTS).exists() and not (folder / WATCHED).exists():
        return False
    if not (folder / LOCK).exists():
        return True
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


@contextmanager
def one_job(folder: Path) -> Iterator[None]:
    """Hold the lock of the folder while the block runs. The lock of a killed job is free.

    Raises:
        ValueError: another job holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(f"evaluate.name: must not be that of a job that is running, got {folder.name!r}") from None
        yield
    (folder / LOCK).unlink(missing_ok=True)


@contextmanager
def held(checkpoints: Mapping[str, str], run_dir: Path, log: Callable[[str], None]) -> Iterator[dict[str, str]]:
    """Yield the directories of policies, of which those of checkpoints stay until the block ends.

    The files of a checkpoint are linked, or copied, into a folder of their own, so that a run that goes on may remove
    it (`checkpoint.keep_last`). One that is gone already is left out with a line. What a killed job held is removed.

    Args:
        checkpoints: policy directories by name, the base first.
        run_dir: the run in which the folder is made.
        log: called with each line of text for the user.

    Raises:
        ValueError: the base is gone, or all others are.
    """
    root = run_dir / EVALUATIONS
    root.mkdir(parents=True, exist_ok=True)
    for stale in root.glob(f"{HELD}*"):
        if (stale / LOCK).exists() and _is_free(stale):
            shutil.rmtree(stale, ignore_errors=True)
    folder = Path(mkdtemp(prefix=HELD, dir=root))
    try:
        with one_job(folder):
            kept: dict[str, str] = {}
            for name, path in checkpoints.items():
                checkpoint = Path(path).parent
                of_run = Path(path).name == "policy" and checkpoint.parent.name == CHECKPOINTS
                # One without a manifest is from another program.
                if not of_run or (Path(path).is_dir() and not (checkpoint / MANIFEST).exists()):
                    kept[name] = path
                elif hold_policy(checkpoint, folder / name):
                    kept[name] = str(folder / name)
                else:
                    log(f"evaluate {name}: left out, because its run has removed {checkpoint} (checkpoint.keep_last)")
            gone = [path for name, path in checkpoints.items() if name not in kept]
            rule = "must name a base and a policy that their run has not removed (checkpoint.keep_last)"
            lost = bool(gone) and (next(iter(checkpoints)) not in kept or len(kept) < 2)
            require(not lost, "evaluate.checkpoints", rule, gone)
            yield kept
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # An evaluation that is refused leaves no folder, as long as there is no other one.
            root.rmdir()
            run_dir.rmdir()


def latest(folders: Iterable[Path]) -> Path | None:
    """Return the folder of the latest evaluation of runs, by its date; None if none has ended.

    Args:
        folders: run directories.
    """
    found = [path for folder in folders for path in folder.glob(f"{EVALUATIONS}/*/{RESULTS}")]
    return max(found, key=_date).parent if found else None


def latest_of_each(folders: Iterable[Path]) -> list[Path]:
    """Return the folder of the latest evaluation of every run that has one, in the order of the runs.

    Those whose results cannot be read are beside it: one of them may be later.
    """
    found: list[Path] = []
    for run in folders:
        dates = {path: _date(path) for path in run.glob(f"{EVALUATIONS}/*/{RESULTS}")}
        ended = sorted(dates, key=lambda path: dates[path])
        found += [path.parent for path in ended if path == ended[-1] or not dates[path][0]]
    return found


def _date(results: Path) -> tuple[str, str]:
    try:
        return str(json.loads(results.read_text())["about"]["date"]), results.parent.name
    except (OSError, ValueError, KeyError, TypeError):
        return "", results.parent.name
