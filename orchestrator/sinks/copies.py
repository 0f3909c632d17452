"""The sinks of a run: open those of the settings, forward each call to all of them, and turn off one that raises."""

import secrets
from collections.abc import Callable, Container, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

from configs.logbook import LogbookConfig
from orchestrator.console.record import CONSOLE_LOG
from orchestrator.console.screen import Screen
from orchestrator.sinks import wandb_run
from orchestrator.sinks.console_log import ConsoleLog
from orchestrator.sinks.mlflow_run import MlflowSink
from orchestrator.sinks.own_thread import OwnThread
from orchestrator.sinks.sink import Sink
from orchestrator.sinks.tensorboard_events import TensorboardSink
from orchestrator.sinks.trackio_run import TrackioSink

CONSOLE = "console"
SERVICES = ("wandb", "mlflow", "trackio")
"""Sinks that talk to a service."""


WANDB_ID = "wandb_id"
"""File of a run directory with the run's id in W&B and MLflow, for a resume before the first checkpoint."""


def own_id(run_dir: Path, *, resumed: bool) -> str:
    """Return the id that the run has in W&B and MLflow: a new one, which is kept, unless it is resumed and has one."""
    path = run_dir / WANDB_ID
    kept = path.read_text().strip() if resumed and path.is_file() else ""
    if not kept:
        kept = secrets.token_hex(4)
        path.write_text(kept)
    return kept


class Copies:
    """Sinks by name.

    Args:
        report: called with level, title and text of what the user must know about a sink.
        screen: shows that a sink with a service is being opened or closed, which may take long.
    """

    def __init__(self, report: Callable[[str, str, str], None], screen: Screen | None = None) -> None:
        self.sinks: dict[str, Sink] = {}
        self.failed = 0
        """Number of sinks that were turned off."""
        self.report, self._screen = report, screen
        self._locations: dict[str, str] = {}
        self._reported: set[str] = set()

    def open(self, name: str, start: Callable[[], Sink]) -> None:
        """Add a sink. If it cannot be started, report that it is turned off."""
        try:
            with self._shown("opening", name):
                self.sinks[name] = start()
        except Exception as error:
            self._turn_off(name, error)

    def tell_location(self, name: str, location: str) -> None:
        """Report where a copy is, now and again when it ends."""
        self._locations[name] = location
        self.report("info", name, location)

    def forward(self, act: Callable[[Sink], None], names: Container[str] | None = None) -> None:
        """Call `act` with every sink, or with those of these names."""
        for name, sink in list(self.sinks.items()):
            try:
                if names is None or name in names:
                    act(sink)
            except Exception as error:  # No exception of a sink may end the run.
                self._turn_off(name, error)

    def files(self, step: int, kind: str, path: Path) -> None:
        """Copy a directory or a file to W&B."""
        self.forward(lambda sink: sink.files(step, kind, path) if isinstance(sink, OwnThread) else None, {"wandb"})

    def count_dropped(self) -> dict[str, float]:
        """Return the calls dropped since the start of the process by each sink with a queue, as metrics.

        The first drop of a sink is reported: what it copies to does not keep up, or is frozen.
        """
        queued = {name: sink for name, sink in self.sinks.items() if isinstance(sink, OwnThread)}
        for name, sink in queued.items():
            if sink.dropped and name not in self._reported:
                self._reported.add(name)
                self.report("warning", name, "it does not take the records as fast as they come, so some are dropped")
        return {f"sinks/{name}/dropped": float(sink.dropped) for name, sink in queued.items()}

    def close(self, failed: bool = False) -> None:
        """Close all sinks, and report again where the copies are.

        The console is the first, so that W&B's copy of it has how the run ended; it still shows these reports.

        Args:
            failed: whether the run ended with an error.
        """
        for name in sorted(self.sinks, key=lambda name: name != CONSOLE):
            with self._shown("closing", name):
                self.forward(lambda sink: sink.close(failed), names={name})
            if name in self.sinks and name in self._locations:
                self.report("info", name, self._locations[name])
        self.sinks.clear()

    def _shown(self, doing: str, name: str) -> AbstractContextManager[Any]:
        return self._screen.phase(f"{doing} {name}", "") if self._screen and name in SERVICES else nullcontext()

    def _turn_off(self, name: str, error: Exception) -> None:
        self.sinks.pop(name, None)
        self.failed += 1
        location = f" ({self._locations[name]})" if name in self._locations else ""
        self.report("warning", name, f"turned off after {type(error).__name__}: {error}{location}")


def _nothing(*arguments: Any) -> None:
    """Do nothing: this sink has no process of its own, and copies no file."""


def open_sinks(
    copies: Copies,
    config: LogbookConfig,
    run_dir: Path,
    *,
    run_id: str,
    run_name: str,
    settings: Mapping[str, Any],
    resume_step: int | None,
    job_type: Literal["train", "evaluate", "report"] = "train",
    log_from: int | None = None,
) -> None:
    """Open the sinks of the settings, but for the console.

    Args:
        run_id: id of the run in W&B and MLflow.
        resume_step: step of the checkpoint that the run resumes from, None for a new run.
        log_from: bytes of console.log in `run_dir` before the lines that W&B gets; None: it gets none.
    """
    if config.tensorboard:
        purge = None if resume_step is None else resume_step + 1
        copies.open("tensorboard", lambda: TensorboardSink(run_dir / "tensorboard", first_step=purge))

    finishing = wandb_run.UPLOAD_TIMEOUT_S if config.wandb_artifacts else wandb_run.FINISH_TIMEOUT_S
    mode, project = config.wandb, config.wandb_project
    named: dict[str, Any] = {"project": project, "run_name": run_name, "settings": settings}
    if config.mlflow:
        _open_in_thread(copies, "mlflow", lambda: MlflowSink(run_id=run_id, **named))
    if config.trackio:
        group, _ = wandb_run.labels(settings)
        _open_in_thread(copies, "trackio", lambda: TrackioSink(group=group, **named))
    if mode != "disabled":
        log = None if log_from is None else ConsoleLog(run_dir / CONSOLE_LOG, log_from)
        named |= {"run_id": run_id, "job_type": job_type, "log": log}
        _open_in_thread(
            copies,
            "wandb",
            lambda: wandb_run.WandbSink(run_dir, mode=mode, finish_timeout_s=finishing, **named),
            finishing_s=finishing,
            idle=wandb_run.WandbSink.copy_log,
            wake=wandb_run.wake_service,
            abandon=wandb_run.end_service,
        )


def _open_in_thread(
    copies: Copies,
    name: str,
    start: Callable[[], Any],
    *,
    finishing_s: float = wandb_run.FINISH_TIMEOUT_S,
    idle: Callable[[Any], None] = _nothing,
    wake: Callable[[], None] = _nothing,
    abandon: Callable[[], None] = _nothing,
) -> None:
    """Open a sink that talks to a service, and report where it is."""
    limits = {
        "start_timeout_s": wandb_run.START_TIMEOUT_S,
        "close_timeout_s": finishing_s + wandb_run.CLOSE_TIMEOUT_S,
    }
    copies.open(name, lambda: OwnThread(name, start, idle=idle, wake=wake, abandon=abandon, **limits))
    thread = copies.sinks.get(name)
    if isinstance(thread, OwnThread):
        error = getattr(thread.sink, "online_error", "")
        if error:
            reason = f"the online run failed to start, so the run is written offline: {error}"
            copies.report("warning", name, reason)
        copies.tell_location(name, thread.sink.location)
