"""`breadth train`: train a policy, or continue a run from its last complete checkpoint."""

import argparse
import asyncio
import importlib
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from configs.config import Config
from configs.load import load
from orchestrator.commands.hub import fetched, pinned
from orchestrator.commands.options import load_modules
from orchestrator.commands.paths import absolute
from orchestrator.console.choice import open_screen
from orchestrator.console.libraries import logs_kept
from orchestrator.manifest import SETTINGS, saved
from orchestrator.preflight.beginning import check_beginning
from orchestrator.preflight.machine import check_cluster
from orchestrator.preflight.named import check_training, check_trains
from orchestrator.preflight.resume import resume_command
from orchestrator.recovery.failures import failure, raised_by_breadth
from orchestrator.recovery.restarts import Supervisor
from orchestrator.remote_runs.place import setting_of


def run(options: argparse.Namespace, console: Console) -> int | None:
    """Train with the settings of the command line. With `--resume` they change those of the run's config.yaml."""
    with open_screen(json=options.json) as screen, logs_kept(screen):
        cfg = _settings(options, screen)
        if options.restarts:
            return _supervised(options, cfg, screen)
        run_dir = Path(cfg.runs) / cfg.name
        check_trains(cfg)
        check_cluster(cfg)
        cfg = pinned(cfg, run_dir / SETTINGS if options.resume else None)
        if not check_beginning(cfg, resume=options.resume, report=screen):
            return None
        check_training(fetched(cfg, screen))
        if cfg.mirror:
            _check_mirror(cfg, resume=options.resume)
        screen(f"run directory {run_dir}{f', copied to {cfg.mirror}/{cfg.name}' if cfg.mirror else ''}")
        try:
            # After what can be checked without it, as it loads torch and Ray, which takes seconds.
            [start] = load_modules(cfg, "orchestrator.start", report=screen)
            asyncio.run(start.train_run(cfg, resume=options.resume, log=screen))
        except BaseException as error:
            if isinstance(error, OSError) or (isinstance(error, RuntimeError) and raised_by_breadth(error)):
                raise _advised(failure(run_dir, error), cfg) from error
            _advised(error, cfg)
            raise
    return None


def _advised(error: BaseException, cfg: Config) -> BaseException:
    """Return the error with a note that says how to go on, if there is a checkpoint."""
    if saved(Path(cfg.runs) / cfg.name / "checkpoints"):
        error.add_note(f"To go on from the last checkpoint: {resume_command(cfg)}")
    return error


def _supervised(options: argparse.Namespace, cfg: Config, log: Callable[[str], None]) -> int:
    """Train in a process of its own, which is started again when it fails."""
    if options.restarts < 0:
        raise ValueError(f"--restarts: must be at least 0, got {options.restarts}")
    words = [*options.overrides, *(["--config", options.config] if options.config else [])]
    words += ["--resume"] if options.resume or _in_mirror(cfg) else []
    words += ["--json"] if options.json else []
    return Supervisor(words, Path(cfg.runs) / cfg.name, options.restarts, log).run()


def _in_mirror(cfg: Config) -> bool:
    """Return whether the run has begun in its remote place, perhaps on another machine."""
    if not cfg.mirror:
        return False
    has_run: Callable[[str, str], bool] = importlib.import_module("orchestrator.remote_runs.fetch").has_run
    return has_run(f"{cfg.mirror}/{cfg.name}", setting_of(cfg.runs, cfg.mirror))


def _check_mirror(cfg: Config, *, resume: bool) -> None:
    """Raise ValueError unless the remote place can be written to, and has no run of the name of a new one."""
    setting = setting_of(cfg.runs, cfg.mirror)
    importlib.import_module("orchestrator.remote_runs.store").Store(
        f"{cfg.mirror}/{cfg.name}", setting
    ).check_writable()
    if not resume and _in_mirror(cfg):
        rule = "must be new (or pass --resume to continue)"
        raise ValueError(f"name: {rule}, got {cfg.name!r}, which exists in {cfg.mirror}")


def _settings(options: argparse.Namespace, log: Callable[[str], None]) -> Config:
    """Return the settings, with absolute paths."""
    file = options.config
    if options.resume:
        words = options.overrides
        if file is None:  # Only these: other overrides may be valid on top of the run's own settings alone.
            words = [word for word in words if word.partition("=")[0] in ("runs", "mirror", "name")]
        place = absolute(load(words, file))
        if place.mirror:
            fetching = importlib.import_module("orchestrator.remote_runs.fetch")
            url, folder = f"{place.mirror}/{place.name}", Path(place.runs)
            setting = setting_of(place.runs, place.mirror)
            fetching.fetch_run(url, log, checkpoint="last", folder=folder, setting=setting)
        file = file or str(Path(place.runs) / place.name / SETTINGS)
        if not Path(file).is_file():
            raise ValueError(f"name: must be an existing run to resume, got {str(Path(file).parent)!r}")
    return absolute(load(options.overrides, file))
