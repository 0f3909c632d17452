"""Copy the metrics, sampled answers and alerts of a run into a Trackio run, local or on TRACKIO_SPACE_ID."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.sinks.wandb_sections import in_section


class TrackioSink:
    """A Trackio run of the run's name, with the names of W&B. A resumed run continues it."""

    def __init__(self, *, project: str, run_name: str, group: str | None, settings: Mapping[str, Any]) -> None:
        import trackio

        self._trackio = trackio
        self._run = trackio.init(
            project=project,
            name=run_name,
            group=group,
            config=dict(settings),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.location = f"run {run_name} of project {project}; show it with: trackio show --project {project}"

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({in_section(name): value for name, value in values.items() if math.isfinite(value)}, step=step)

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        table = self._trackio.Table(columns=[*rows[0]], data=[list(row.values()) for row in rows])
        self._run.log({name: table}, step=step)

    def alert(self, title: str, text: str) -> None:
        self._run.alert(title, text)

    def close(self, failed: bool = False) -> None:
        self._run.finish()
