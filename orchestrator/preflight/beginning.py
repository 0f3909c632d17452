"""What a training command checks first: machine and run directory. Importing this loads no torch, Ray or vLLM."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from configs.checks import require
from configs.config import Config
from orchestrator.manifest import SETTINGS
from orchestrator.preflight.machine import check_machine
from orchestrator.preflight.resume import check_resumed_settings, nothing_left
from orchestrator.recovery.run_lock import Held, require_free

PRESAMPLED = "rehearsal.parquet"
"""File in the directory of a run with the answers it presampled."""


def check_beginning(cfg: Config, *, resume: bool, report: Callable[[str], None]) -> bool:
    """Check machine and run directory, and return whether there is something to train.

    Args:
        report: is called with each line for the user.

    Raises:
        ValueError: the machine lacks something, a new run's name is taken, or there is no run to resume with these
            settings.
    """
    check_machine(cfg)
    run_dir = Path(cfg.runs) / cfg.name
    require_free(run_dir)
    if not resume:
        require_new(cfg)
        return True
    require((run_dir / SETTINGS).is_file(), "name", "must be an existing run to resume", str(run_dir))
    check_resumed_settings(cfg, run_dir / SETTINGS, report=lambda line: None)
    done = nothing_left(cfg, run_dir)
    if done:
        report(done)
    return not done


def require_new(cfg: Config) -> None:
    """Raise ValueError if a run of this name has begun in the folder `runs`."""
    if has_records(Path(cfg.runs) / cfg.name):
        rule = f"must be new (or pass --resume to continue), got {cfg.name!r}, which exists in {cfg.runs}"
        raise ValueError(f"name: {rule}")


def has_records(run_dir: Path) -> bool:
    """Return whether a run has begun in this directory: a step is recorded, or there is a checkpoint."""
    metrics = run_dir / "metrics.jsonl"
    return (metrics.is_file() and metrics.stat().st_size > 0) or any(run_dir.glob("checkpoints/step-*"))


def _as_recorded(cfg: Config, record: Path) -> bool:
    """Return whether these settings could continue a run with the settings of the file `record`."""
    try:
        check_resumed_settings(cfg, record, report=lambda line: None)
    except ValueError:
        return False
    return True


def keeps_presampled(cfg: Config) -> bool:
    """Return whether a new run uses what an earlier run of this name has presampled, if it has."""
    record = Path(cfg.runs) / cfg.name / SETTINGS
    return not record.is_file() or _as_recorded(cfg, record)


@contextmanager
def new_folder(cfg: Config) -> Iterator[None]:
    """Make the directory of a run. Remove it again if the run is refused, by a ValueError, before its first record.

    An earlier run of this name may have ended before its first record. What it presampled is used only under the same
    settings.
    """
    run_dir = Path(cfg.runs) / cfg.name
    made = not run_dir.exists()
    run_dir.mkdir(parents=True, exist_ok=True)
    if not keeps_presampled(cfg):
        (run_dir / PRESAMPLED).unlink(missing_ok=True)
    try:
        yield
    except Held:  # by another new run of this name
        raise
    except ValueError:
        if made and not has_records(run_dir):
            shutil.rmtree(run_dir)
        raise
