"""The sinks of a run: open those of the settings, forward each call to all of them, and turn off one that raises."""

from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from configs.logbook import LogbookConfig
from orchestrator.sinks import wandb_run
from orchestrator.sinks.own_thread import OwnThread
from orchestrator.sinks.sink import Sink
from orchestrator.sinks.tensorboard_events import TensorboardSink

CONSOLE = "console"


class Copies:
    """Sinks by name.

    Args:
        report: called with level, title and text of what the user must know about a sink.
    """

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        self.sinks: dict[str, Sink] = {}
        self.failed = 0
        """Number of sinks that were turned off."""
        self.report = report
        self._locations: dict[str, str] = {}
        self._reported: set[str] = set()

    def open(self, name: str, start: Callable[[], Sink]) -> None:
        """Add a sink. If it cannot be started, report that it is turned off."""
        try:
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

    def close(self) -> None:
        """Close all sinks, the console last, and report again where the copies are."""
        for name in [name for name in self.sinks if name != CONSOLE]:
            self.forward(lambda sink: sink.close(), names={name})
            if name in self.sinks and name in self._locations:
                self.report("info", name, self._locations[name])
        self.forward(lambda sink: sink.close(), names={CONSOLE})
        self.sinks.clear()

    def _turn_off(self, name: str, error: Exception) -> None:
        self.sinks.pop(name, None)
        self.failed += 1
        location = f" ({self._locations[name]})" if name in self._locations else ""
        self.report("warning", name, f"turned off after {type(error).__name__}: {error}{location}")


def open_sinks(
    copies: Copies,
    config: LogbookConfig,
    run_dir: Path,
    *,
    run_id: str,
    run_name: str,
    settings: Mapping[str, Any],
    resume_step: int | None,
) -> None:
    """Open the sinks of the settings, but for the console.

    Args:
        run_id: id of the W&B run.
        resume_step: step of the checkpoint that the run resumes from, None for a new run.
    """
    if config.tensorboard:
        purge = None if resume_step is None else resume_step + 1
        copies.open("tensorboard", lambda: TensorboardSink(run_dir / "tensorboard", first_step=purge))
    mode = config.wandb
    if mode == "disabled":
        return

    def start() -> wandb_run.WandbSink:
        return wandb_run.WandbSink(
            run_dir,
            mode=mode,
            project=config.wandb_project,
            run_id=run_id,
            run_name=run_name,
            settings=settings,
            first_step=-1 if resume_step is None else resume_step,
        )

    def in_thread() -> OwnThread[wandb_run.WandbSink]:
        return OwnThread(
            "wandb",
            start,
            wake=wandb_run.wake_service,
            abandon=wandb_run.end_service,
            start_timeout_s=wandb_run.START_TIMEOUT_S,
            close_timeout_s=wandb_run.CLOSE_TIMEOUT_S,
        )

    copies.open("wandb", in_thread)
    thread = copies.sinks.get("wandb")
    if isinstance(thread, OwnThread):
        if thread.sink.online_error:
            reason = f"the online run failed to start, so the run is written offline: {thread.sink.online_error}"
            copies.report("warning", "wandb", reason)
        copies.tell_location("wandb", thread.sink.location)
