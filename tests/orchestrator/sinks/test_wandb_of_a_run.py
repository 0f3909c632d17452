"""A whole run with W&B offline: its file has every value of metrics.jsonl, Pass@k charts and the sampled answers."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.console.record import Record
from orchestrator.console.screen import Screen
from orchestrator.sinks.wandb_sections import in_section
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.orchestrator.in_process import config
from tests.orchestrator.sinks.test_wandb_run import history, inspect, number

SETTINGS = (
    "name=first",
    "method=dph_f",
    "rehearsal.prompts=4",
    "rehearsal.batch=2",
    "rehearsal.threshold=1",
    "task.verifier=toy_verifiers:even",
    "steps=3",
    "monitor.every=2",
    "monitor.answers=4",
    "monitor.ks=[1,4]",
    "logbook.wandb=offline",
    "logbook.trajectories_every=1",
    "logbook.trajectories=4",
)


@pytest.fixture(scope="module")
def run_dir(tiny_policy: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # the grader's workers import toy_verifiers
        cfg = config(tiny_policy, tmp_path_factory.mktemp("runs"), *SETTINGS)
        yield asyncio.run(run_training(cfg, resume=False, log=lambda text: None))


def rows(path: Path) -> list[dict[str, Any]]:
    table = json.loads(path.read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


@pytest.mark.slow
def test_every_value_of_metrics_jsonl_is_in_the_file_that_wandb_sync_uploads(run_dir: Path) -> None:
    steps = history(inspect(run_dir))
    records = read_records(run_dir / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    for record in records:
        written = {name: value for name, value in record.items() if name != "time"}
        shown = {name: number(steps[record["step"]][in_section(name)]) for name in written}
        assert shown == written and len(written) > 5


@pytest.mark.slow
def test_metrics_have_steps_as_axis_and_the_ends_of_intervals_have_no_charts(run_dir: Path) -> None:
    defined = {record["metric"].get("name"): record["metric"] for record in inspect(run_dir) if "metric" in record}
    low = defined["heldout/pass@4/low"]
    assert "hidden" in json.dumps(low) and "hidden" not in json.dumps(defined["heldout/pass@4"])
    assert defined["heldout/pass@4"]["step_metric"] == "step"
    assert "max" in json.dumps(defined["heldout/pass@4"]) and "min" in json.dumps(defined["heldout/retention"])


@pytest.mark.slow
def test_the_sampled_answers_have_what_training_computed_for_them(run_dir: Path) -> None:
    tables = sorted(run_dir.glob("wandb/offline-run-*/files/media/table/answers_*.table.json"))
    sampled = [row for path in tables for row in rows(path)]
    assert [row["step"] for row in sampled] == [1] * 4 + [2] * 4 + [3] * 4, "each table has the rows of its step only"
    assert all(row["token_logps"] and row["status"] and row["advantage"] is not None for row in sampled)
    assert all(row["logp"] < 0 and row["length"] > 0 for row in sampled)


@pytest.mark.slow
def test_each_measurement_has_a_pass_at_k_chart_with_intervals(run_dir: Path) -> None:
    charts = list(run_dir.glob("wandb/offline-run-*/files/media/table/heldout/pass_at_k_table_*.table.json"))
    assert len(charts) == 3, "steps 0, 2 and 3 were measured"
    for path in charts:
        curve = [row for row in rows(path) if row["series"] == "policy"]
        assert [row["k"] for row in curve] == [1, 4]
        assert all(row["low"] <= row["value"] <= row["high"] for row in curve)


@pytest.mark.slow
def test_a_run_that_ends_with_an_error_is_a_failed_run_whose_log_has_the_error(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").touch()
    monkeypatch.setenv("JUDGE_AWAY", str(tmp_path / "away"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    cfg = config(
        tiny_policy,
        tmp_path,
        *("name=failing", "monitor.every=0", "groups_per_step=4", "sampling.group_size=2"),
        *("task.verifier=toy_verifiers:away_from_step_one", "logbook.wandb=offline"),
    )
    with pytest.raises(ValueError, match="the judge is away"):
        asyncio.run(run_training(cfg, resume=False, log=Screen(Record())))
    records = inspect(tmp_path / "failing")
    [ended] = [record["exit"] for record in records if "exit" in record]
    assert ended["exit_code"] == 1
    log = "".join(record["output_logger"]["line"] for record in records if "output_logger" in record)
    assert "started the roles in" in log and "the run ended with ValueError: task.verifier: must judge answers" in log
