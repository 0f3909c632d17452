"""Copy the metrics, sampled answers, Pass@k curves, console lines and alerts of a run into a W&B run.

W&B's library sends all data to a service process (`wandb-core`), which writes the run's file and uploads it. A service
that is frozen holds up every call, so this sink runs in an `OwnThread`, and `end_service` ends its process.
"""

import contextlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import psutil

from orchestrator.sinks.console_log import ConsoleLog
from orchestrator.sinks.wandb_charts import curve_rows
from orchestrator.sinks.wandb_sections import STEP, in_section, is_bound, summary_of

INIT_TIMEOUT_S = 20.0
"""Longest wait for the W&B server at the start of a run."""
START_TIMEOUT_S = 2 * INIT_TIMEOUT_S + 20.0
"""Longest wait for an online run that fails and the offline run after it. Only a frozen service takes longer."""
FINISH_TIMEOUT_S = 30.0
"""Longest wait for unsent data at the end of a run. The rest stays on disk for `wandb sync`."""
CLOSE_TIMEOUT_S = 15.0
"""Longest further wait for the end of the run and of W&B's service. Only a frozen service takes longer."""
UPLOAD_TIMEOUT_S = 3600.0
"""FINISH_TIMEOUT_S of a run with artifacts."""
TABLE_ROWS = 2_000
"""Most rows of a table, which is kept in memory. Further ones begin the next table."""
TABLE_ADDITIONS = 100
"""Most additions to a table: W&B shows the rows of the last 100."""
SERVICE = "wandb-core"


class WandbSink:
    """A W&B run. If the server does not answer within INIT_TIMEOUT_S at the start, the run is an offline run.

    Args:
        folder: directory in which W&B makes `wandb/`.
        settings: of the run, stored as its config; `method`, `scale` and `task.name` become tags and the group.
        log: lines of the console, which become the log of the W&B run; None: it has no log.
        finish_timeout_s: longest wait for unsent data at the end of the run.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["online", "offline"],
        project: str,
        run_id: str,
        run_name: str,
        settings: Mapping[str, Any],
        log: ConsoleLog | None,
        finish_timeout_s: float = FINISH_TIMEOUT_S,
        job_type: Literal["train", "evaluate", "report"] = "train",
    ) -> None:
        import wandb

        self.online_error = ""
        """Why an online run became an offline one; empty if it did not."""
        group, tags = labels(settings)
        self._own_service = not services()
        arguments: dict[str, Any] = {
            "dir": folder,
            "project": project,
            "id": run_id,
            "name": run_name,
            "group": group,
            "tags": tags,
            "job_type": job_type,
            "config": dict(settings),
            "resume": "allow",
            # W&B's own copy of the output misses what was printed before, and all that rich prints in a terminal.
            "settings": wandb.Settings(
                silent=True, console="off", init_timeout=INIT_TIMEOUT_S, finish_timeout=finish_timeout_s
            ),
        }
        # Silent from the start: without a key, W&B would ask for one on a terminal, and the run would wait.
        wandb.setup(wandb.Settings(silent=True))
        try:
            self._run = wandb.init(mode=mode, **arguments)
        except wandb.Error as error:
            if mode == "offline":
                raise
            self.online_error = f"{type(error).__name__}: {error}"
            # W&B's background service keeps the run id of the failed attempt until the service ends.
            wandb.teardown()
            self._run = wandb.init(mode="offline", **arguments)
        self._wandb, self._console = wandb, log
        self._table, self._table_key = wandb.Table(columns=[]), ""
        self._tables, self._additions = 0, 0
        self._defined: set[str] = set()
        # W&B takes each of its own steps once. After a resume they go on where its history ends, so that no record is
        # refused; charts have `step` as axis, where repeated steps lie on each other.
        self._shift: int | None = None
        self._run.define_metric(STEP, hidden=True)
        self._run.define_metric("*", step_metric=STEP)
        offline = mode == "offline" or bool(self.online_error)
        folder_of_run = Path(self._run.dir).parent
        self.location = f"offline in {folder_of_run}; upload with: wandb sync {folder_of_run}"
        """Where the run is, as the user is told at its start and at its end."""
        if not offline:
            self.location = f"online at {self._run.url}"

    def write(self, step: int, values: Mapping[str, float]) -> None:
        named = {in_section(name): value for name, value in values.items()}
        for name, shown in zip(values, named, strict=True):
            if name not in self._defined:
                self._defined.add(name)
                self._run.define_metric(shown, step_metric=STEP, summary=summary_of(name), hidden=is_bound(name))
        self._log(step, named)
        self.copy_log()
        curve = curve_rows(step, values)
        if curve:
            self._log(step, {"heldout/pass_at_k": self._chart(curve)})

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, at most TABLE_ROWS, to the table NAME or, when it is full, NAME_2 and so on; W&B gets only them."""
        rows = rows[:TABLE_ROWS]
        full = self._additions == TABLE_ADDITIONS or len(self._table.data) + len(rows) > TABLE_ROWS
        if full or not self._table_key:
            self._begin_table(name, rows[0])
        for row in rows:
            self._table.add_data(*(row.get(str(column)) for column in self._table.columns))
        self._additions += 1
        self._log(step, {self._table_key: self._table})

    def _begin_table(self, name: str, row: Mapping[str, Any]) -> None:
        """Begin the next table, in a resumed run behind those that W&B has."""
        key = ""
        while not key or (self._run.resumed and self._run.summary.get(key) is not None):
            self._tables += 1
            key = name if self._tables == 1 else f"{name}_{self._tables}"
        self._table = self._wandb.Table(columns=[*row], log_mode="INCREMENTAL", allow_mixed_types=True)
        self._table_key, self._additions = key, 0

    def alert(self, title: str, text: str) -> None:
        self._run.alert(title=title, text=text, level="WARN")

    def copy_log(self) -> None:
        """Copy the new lines of the console."""
        while self._console and (lines := self._console.new_lines()):
            self._run.write_logs(lines)

    def files(self, step: int, kind: str, path: Path) -> None:
        """Upload a directory or a file as the next version of the artifact `RUN-KIND`."""
        name = re.sub(r"[^\w.-]", "-", f"{self._run.name}-{kind}")
        kind_in_wandb = "model" if kind == "policy" else "report"
        artifact = self._wandb.Artifact(name, type=kind_in_wandb, metadata={"step": step})
        if path.is_dir():
            artifact.add_dir(str(path))
        else:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact, aliases=["latest", f"step-{step}"])

    def close(self, failed: bool = False) -> None:
        """Finish the run, as finished or as failed, and end W&B's service if this run has started it."""
        self.copy_log()
        self._run.finish(exit_code=int(failed))
        if self._own_service:
            with contextlib.suppress(SystemExit):  # W&B exits with the service's status if it is not 0
                self._wandb.teardown()

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if self._shift is None:
            self._shift = max(self._run.starting_step - step, 0)
        self._run.log({STEP: step, **values}, step=step + self._shift)

    def _chart(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Return the chart of Pass@k over k: W&B's own preset for lines, over a table that also has the intervals."""
        table = self._wandb.Table(columns=[*rows[0]], data=[list(row.values()) for row in rows])
        return self._wandb.plot_table(
            "wandb/lineseries/v0",
            table,
            {"step": "k", "lineKey": "series", "lineVal": "value"},
            {"title": "Pass@k of held-out prompts, with 95 % intervals", "xname": "k"},
        )


def labels(settings: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """Return the W&B group of a run and its tags, both of its task, method and scale."""
    task = settings.get("task", {}).get("name")
    method, scale = settings.get("method"), settings.get("scale")
    tags = [f"{kind}:{name}"[:64] for kind, name in (("method", method), ("scale", scale), ("task", task)) if name]
    return " ".join(name for name in (task, method, scale) if name) or None, tags


def services() -> list[psutil.Process]:
    """Return the processes of W&B's service that this process has started."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if child.name() == SERVICE:
                found.append(child)
    return found


def wake_service() -> None:
    """Let the W&B service that this process has started continue, if it was stopped by a signal."""
    for service in services():
        with contextlib.suppress(psutil.Error):
            service.resume()


def end_service() -> None:
    """End the W&B service that this process has started, also if it is frozen, and let W&B's library forget it.

    The run's file stays, for `wandb sync`. The service writes it in blocks of 32 KiB and does so at no signal, so the
    last block is lost.
    """
    found = services()
    below = [process for service in found for process in _children(service)]
    for process in [*found, *below]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs([*found, *below], timeout=2.0)
    # Else the library would wait for its service again when the process exits.
    forgetting = threading.Thread(target=_forget, name="wandb teardown", daemon=True)
    forgetting.start()
    forgetting.join(5.0)
    # A service that is killed leaves its folder of sockets, and its child that measures the machine leaves a socket.
    temporary = Path(tempfile.gettempdir())
    for sockets in temporary.glob(f"wandb-{os.getpid()}-*"):
        shutil.rmtree(sockets, ignore_errors=True)
    for service in found:
        for socket in temporary.glob(f"wandb_symon-{service.pid}-*.sock"):
            socket.unlink(missing_ok=True)


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _forget() -> None:
    import wandb

    with contextlib.suppress(Exception, SystemExit):
        wandb.teardown()
