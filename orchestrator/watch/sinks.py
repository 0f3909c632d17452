"""Copies of the metrics in W&B and TensorBoard. The logbook turns a sink off when it raises."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

INIT_TIMEOUT_S = 20.0
"""Longest wait for the W&B server at the start of a run."""
FINISH_TIMEOUT_S = 30.0
"""Longest wait for unsent data at the end of a run. The rest stays on disk for `wandb sync`."""


class Sink(Protocol):
    """A copy of the metrics, tables and alerts of a run."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Copy the metrics of `step`; a step may be written several times, with different metrics."""

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Copy a table; `rows` is not empty, and all rows have the same keys."""

    def alert(self, title: str, text: str) -> None:
        """Copy an event that needs the user's attention."""

    def close(self) -> None:
        """Send what is not sent yet, and end."""


class WandbSink:
    """A W&B run. If the server does not answer within INIT_TIMEOUT_S at the start, the run is an offline run."""

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["online", "offline"],
        project: str,
        run_id: str,
        run_name: str,
        settings: Mapping[str, Any],
    ) -> None:
        import wandb

        self.online_error = ""
        """Why an online run became an offline one; empty if it did not."""
        arguments: dict[str, Any] = {
            "dir": folder,
            "project": project,
            "id": run_id,
            "name": run_name,
            "config": dict(settings),
            "resume": "allow",
            "settings": wandb.Settings(
                silent=True, console="off", init_timeout=INIT_TIMEOUT_S, finish_timeout=FINISH_TIMEOUT_S
            ),
        }
        try:
            self._run = wandb.init(mode=mode, **arguments)
        except wandb.Error as error:
            if mode == "offline":
                raise
            self.online_error = f"{type(error).__name__}: {error}"
            # W&B's background service keeps the run id of the failed attempt until the service ends.
            wandb.teardown()
            self._run = wandb.init(mode="offline", **arguments)
        self._table = wandb.Table
        offline = mode == "offline" or bool(self.online_error)
        self.location = str(self._run.dir) if offline else str(self._run.url)
        """Folder of an offline run, address of an online one."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        data = [list(row.values()) for row in rows]
        self._run.log({name: self._table(columns=[*rows[0]], data=data)}, step=step)

    def alert(self, title: str, text: str) -> None:
        self._run.alert(title=title, text=text)

    def close(self) -> None:
        self._run.finish()


class TensorboardSink:
    """Event files for TensorBoard. A resumed run passes `first_step`: earlier records from that step on are hidden."""

    def __init__(self, folder: Path, *, first_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        lines = ["\t".join(f"{key}={value!r}" for key, value in row.items()) for row in rows]
        self._writer.add_text(name, "\n\n".join("    " + line for line in lines), step)

    def alert(self, title: str, text: str) -> None:
        self._writer.add_text("alerts", f"    {title!r}: {text!r}")

    def close(self) -> None:
        self._writer.close()
