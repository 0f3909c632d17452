"""Copy the metrics, sampled answers and alerts of a run into an MLflow run, on the server of MLFLOW_TRACKING_URI."""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

RUN_ID = "breadth_id"
"""Tag that holds the run's id, by which a resumed run finds its MLflow run."""


class MlflowSink:
    """An MLflow run. Names have `_at_` for the `@` that MLflow refuses: `heldout/pass_at_1`."""

    def __init__(self, *, project: str, run_id: str, run_name: str, settings: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient, entities

        self._client, self._metric = MlflowClient(), entities.Metric
        known = self._client.get_experiment_by_name(project)
        experiment = known.experiment_id if known else self._client.create_experiment(project)
        found = self._client.search_runs([experiment], f"tags.{RUN_ID} = '{run_id}'")
        run = found[0] if found else self._client.create_run(experiment, run_name=run_name, tags={RUN_ID: run_id})
        self._run = run.info.run_id
        self._client.update_run(self._run, status="RUNNING")
        if not found:
            params = [entities.Param(key, str(value)[:500]) for key, value in _flat(settings)]
            for first in range(0, len(params), 100):  # MLflow takes 100 at a time
                self._client.log_batch(self._run, params=params[first : first + 100])
        self.location = f"run {self._run} of experiment {project}"

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        metrics = [self._metric(_plain(name), value, now, step) for name, value in finite.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def table(self, step: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self._client.log_text(self._run, json.dumps(list(rows), indent=1), f"{name}/step-{step:06d}.json")

    def alert(self, title: str, text: str) -> None:
        self._client.set_tag(self._run, f"alert {_plain(title)}", text[:500])

    def close(self, failed: bool = False) -> None:
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


def _plain(name: str) -> str:
    return re.sub(r"[^\w\-. /]", "_", name.replace("@", "_at_"))


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
