"""Evaluations and reports in W&B: runs of their own job types, in the group of the training runs."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configs.config import Config
from configs.load import to_yaml
from configs.logbook import LogbookConfig
from orchestrator.commands.cli import main
from orchestrator.sinks.evaluation_run import copy_evaluation
from orchestrator.watch.bootstrap import Interval
from tests.orchestrator.in_process import SMALL
from tests.orchestrator.report.test_report import run_directory
from tests.orchestrator.sinks.interpreter import run_in_new_interpreter
from tests.orchestrator.sinks.test_wandb_run import history, inspect
from tests.orchestrator.sinks.wandb_server import wandb_server

VALUES = {
    "base": {"pass@1": Interval(value=0.5, low=0.4, high=0.6, prompts=8)},
    "step 20": {"pass@1": Interval(value=0.75, low=0.6, high=0.9, prompts=8)},
}


@pytest.fixture
def stopped_service() -> Iterator[None]:
    import wandb

    yield
    wandb.teardown()


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_service")
def test_an_evaluation_has_a_record_per_policy_and_a_table(tmp_path: Path) -> None:
    cfg, told = replace(Config(), name="first", logbook=LogbookConfig(wandb="offline")), list[str]()
    folder = tmp_path / "evaluations" / "last"
    folder.mkdir(parents=True)
    copy_evaluation(cfg, folder, VALUES, told.append)
    records = inspect(folder)
    steps = history(records)
    assert [steps[number]["heldout/pass@1"] for number in (0, 1)] == [0.5, 0.75]
    assert steps[1]["heldout/pass@1/low"] == 0.6
    run = next(record["run"] for record in records if "run" in record)
    assert (run["job_type"], run["run_group"], run["display_name"]) == ("evaluate", "countdown grpo cpu", "first last")
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/evaluation_*.table.json")
    assert [row[:3] for row in json.loads(table.read_text())["data"]] == [
        ["base", "pass@1", 0.5],
        ["step 20", "pass@1", 0.75],
    ]
    assert len(told) == 1 and all("upload with: wandb sync" in line for line in told)


EVALUATE = """
import sys
from pathlib import Path
from orchestrator.commands.cli import main

folder = Path(sys.argv[1])
start, tuned = (f"tasks/base_policies/{name}" for name in ("unfinished_countdown", "countdown"))
words = [*WORDS, f"runs={folder}", "name=first", "logbook.wandb=online", f"policy.path={start}"]
assert main(["evaluate", *words, f"evaluate.checkpoints=[base={start},tuned={tuned}]"]) == 0
"""


@pytest.mark.slow
def test_breadth_evaluate_sends_the_values_of_each_policy_to_a_server(tmp_path: Path) -> None:
    words = [*SMALL, "evaluate.name=last", "evaluate.frontier=[]", "evaluate.kl_to_base=false"]
    script = EVALUATE.replace("WORDS", repr(words))
    with wandb_server() as server:
        home = {"HOME": str(tmp_path), "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.url}
        run_in_new_interpreter(script, tmp_path, **home)
    results = json.loads((tmp_path / "first" / "evaluations" / "last" / "results.json").read_text())["policies"]
    records = [record for record in server.history.values() if "heldout/pass@1" in record]
    assert [record["step"] for record in records] == [0, 1]
    for record, policy in zip(records, ("base", "tuned"), strict=True):
        for name in ("pass@1", "pass@4", "maj@4", "change/pass@4"):
            assert record[f"heldout/{name}"] == results[policy]["1.0"][name], name
    created = server.upserts[0]
    assert (created["jobType"], created["displayName"]) == ("evaluate", "first last")
    assert any(name.endswith("-evaluation") for name in server.artifacts), "the table of all values"


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_service")
def test_a_report_becomes_an_artifact_where_a_run_has_asked_for_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    runs = {}
    for name, artifacts in (("silent", False), ("first", True)):
        runs[name] = run_directory(tmp_path / name)
        logbook = LogbookConfig(wandb="offline", wandb_artifacts=artifacts)
        (runs[name] / "config.yaml").write_text(to_yaml(replace(Config(), name=name, logbook=logbook)))
    assert main(["report", str(runs["silent"])]) == 0 and not (runs["silent"] / "wandb").exists()
    assert main(["report", *map(str, runs.values()), "--output", str(tmp_path / "both.html")]) == 0
    records = inspect(runs["first"])
    run = next(record["run"] for record in records if "run" in record)
    assert (run["job_type"], run["run_group"], run["display_name"]) == ("report", "countdown grpo cpu", "first")
    [artifact] = [record["artifact"] for record in records if "artifact" in record]
    assert (artifact["type"], artifact["name"], sorted(artifact["aliases"])) == (
        "report",
        "first-report-both",
        ["latest", "step-5"],
    )


def test_an_evaluation_without_wandb_writes_nothing(tmp_path: Path) -> None:
    copy_evaluation(Config(), tmp_path, VALUES, lambda line: None)
    assert list(tmp_path.iterdir()) == []
