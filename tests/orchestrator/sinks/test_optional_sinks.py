"""MLflow and Trackio, as packages of the same interface: what they get, how a resume continues, and the refusal."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from logbook_runs import events, group, open_logbook

from configs.config import Config
from configs.logbook import LogbookConfig
from orchestrator.preflight.machine import check_machine

SETTINGS = {"method": "grpo", "scale": "cpu", "task": {"name": "countdown"}, "learner": {"learning_rate": 1e-3}}


class Metric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class Param(NamedTuple):
    key: str
    value: str


class MlflowServer:
    """What an MLflow server keeps, with the methods of MlflowClient that change and read it."""

    def __init__(self) -> None:
        self.experiments: list[str] = []
        self.runs: list[SimpleNamespace] = []

    def get_experiment_by_name(self, name: str) -> Any:
        ids = [str(i) for i, known in enumerate(self.experiments) if known == name]
        return SimpleNamespace(experiment_id=ids[0]) if ids else None

    def create_experiment(self, name: str) -> str:
        self.experiments.append(name)
        return str(len(self.experiments) - 1)

    def search_runs(self, experiment_ids: list[str], filter_string: str) -> list[Any]:
        match = re.fullmatch(r"tags\.(\w+) = '(\w+)'", filter_string)
        assert match and experiment_ids
        return [run for run in self.runs if run.tags.get(match[1]) == match[2]]

    def create_run(self, experiment_id: str, *, run_name: str, tags: dict[str, str]) -> Any:
        info = SimpleNamespace(run_id=f"run{len(self.runs)}")
        run = SimpleNamespace(info=info, name=run_name, tags=dict(tags), metrics=[], params=[], texts={}, status="")
        self.runs.append(run)
        return run

    def _run(self, run_id: str) -> Any:
        return next(run for run in self.runs if run.info.run_id == run_id)

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100 and len(metrics) <= 1000
        for each in (*metrics, *params):
            assert re.fullmatch(r"[\w\-. /:]+", each.key), f"MLflow refuses the name {each.key}"
        self._run(run_id).metrics += metrics
        self._run(run_id).params += params

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self._run(run_id).texts[artifact_file] = text

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._run(run_id).tags[key] = value

    def update_run(self, run_id: str, status: str) -> None:
        self._run(run_id).status = status

    def set_terminated(self, run_id: str, status: str) -> None:
        self._run(run_id).status = status


def write_run(run_dir: Path, config: LogbookConfig, resume_step: int | None, steps: list[int]) -> None:
    logbook = open_logbook(run_dir, config, settings=SETTINGS, wandb_id="abcd1234", resume_step=resume_step)
    for step in steps:
        logbook.write(step, {"reward": step / 4, "heldout/pass@1": 0.5, "bad": math.nan})
    logbook.trajectories(steps[-1], [group()])
    logbook.alert("Pass@k fell", "why")
    logbook.close(failed=steps == [4])
    assert logbook.copies.failed == 0, events(run_dir)


def test_an_mlflow_run_gets_metrics_answers_and_alerts_and_is_continued_by_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, module = MlflowServer(), ModuleType("mlflow")
    module.MlflowClient = lambda: server  # type: ignore[attr-defined]
    module.entities = SimpleNamespace(Metric=Metric, Param=Param)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    config = LogbookConfig(console=False, mlflow=True, trajectories_every=1)
    write_run(tmp_path, config, None, [1, 2])
    write_run(tmp_path, config, 2, [3])
    [run] = server.runs
    assert run.status == "FINISHED"
    write_run(tmp_path, config, 3, [4])
    rewards = [(metric.step, metric.value) for metric in run.metrics if metric.key == "reward"]
    assert rewards == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 1.0)] and run.status == "FAILED"
    assert {metric.key for metric in run.metrics} >= {"heldout/pass_at_1"} and run.tags["alert Pass_at_k fell"] == "why"
    assert [(p.key, p.value) for p in run.params if p.key.startswith("learner")] == [("learner.learning_rate", "0.001")]
    assert [row["answer"] for row in json.loads(run.texts["answers/step-000002.json"])] == ["1+2", "2-1"]
    assert any(event["text"] == "run run0 of experiment breadth" for event in events(tmp_path))


class TrackioRun:
    """A run of Trackio: `log`, `alert` and `finish`."""

    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.alerts: list[tuple[str, str]] = []
        self.finished = 0

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.logged.append((step, metrics))

    def alert(self, title: str, text: str) -> None:
        self.alerts.append((title, text))

    def finish(self) -> None:
        self.finished += 1


def test_a_trackio_run_gets_metrics_answers_and_alerts_under_the_runs_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, module, arguments = TrackioRun(), ModuleType("trackio"), dict[str, Any]()

    def init(**given: Any) -> TrackioRun:
        arguments.update(given)
        return run

    module.init = init  # type: ignore[attr-defined]
    module.Table = lambda columns, data: [dict(zip(columns, row, strict=True)) for row in data]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", module)
    write_run(tmp_path, LogbookConfig(console=False, trackio=True, trajectories_every=1), None, [1, 2])
    assert [(step, logged["rollout/reward"]) for step, logged in run.logged if "rollout/reward" in logged] == [
        (1, 0.25),
        (2, 0.5),
    ]
    assert not any("bad" in name for _, logged in run.logged for name in logged), "Trackio has no NaN"
    assert [row["answer"] for row in run.logged[-1][1]["answers"]] == ["1+2", "2-1"]
    assert run.alerts == [("Pass@k fell", "why")] and run.finished == 1
    assert (arguments["name"], arguments["project"], arguments["resume"]) == ("test", "breadth", "allow")


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_a_sink_whose_package_is_missing_is_refused_with_the_command_that_installs_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    logbook = LogbookConfig(**{name: True})  # type: ignore[arg-type]
    cfg = replace(Config(), runs=str(tmp_path), logbook=logbook)
    message = f"logbook.{name}: must be false where {name} is not installed: pip install {name}, got True"
    with pytest.raises(ValueError, match=re.escape(message)):
        check_machine(cfg)
