"""An evaluation in W&B: a run of its own job type with one record per policy, in the group of the training runs."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configs.config import Config
from configs.logbook import LogbookConfig
from orchestrator.sinks.evaluation_run import copy_evaluation
from orchestrator.watch.bootstrap import Interval
from tests.orchestrator.sinks.test_wandb_run import history, inspect

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
    assert (run["job_type"], run["run_group"], run["display_name"]) == ("evaluate", "countdown grpo", "first last")
    (table,) = folder.glob("wandb/offline-run-*/files/media/table/evaluation_*.table.json")
    assert [row[:3] for row in json.loads(table.read_text())["data"]] == [
        ["base", "pass@1", 0.5],
        ["step 20", "pass@1", 0.75],
    ]
    assert len(told) == 2 and all("upload with: wandb sync" in line for line in told)


def test_an_evaluation_without_wandb_writes_nothing(tmp_path: Path) -> None:
    copy_evaluation(Config(), tmp_path, VALUES, lambda line: None)
    assert list(tmp_path.iterdir()) == []
