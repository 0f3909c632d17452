"""The W&B sink: an offline run reads back whole, and no state of W&B's service holds up training."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from logbook_runs import events, group, open_logbook

from configs.logbook import LogbookConfig
from orchestrator.sinks import wandb_run
from orchestrator.sinks.wandb_sections import in_section
from orchestrator.watch.logbook import read_records
from orchestrator.watch.measurement import measure
from orchestrator.watch.passk import summary
from tests.orchestrator.sinks.interpreter import run_in_new_interpreter
from tests.orchestrator.sinks.wandb_server import wandb_server


@pytest.fixture
def stopped_wandb_service() -> Iterator[None]:
    """Stop W&B's background service after the test.

    W&B stops it in an atexit hook otherwise, which prints a traceback after pytest's summary if the service has died.
    """
    import wandb

    yield
    wandb.teardown()


def inspect(run_dir: Path) -> list[dict[str, Any]]:
    """Records of the only W&B transaction log below `run_dir`."""
    (log,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    return read_log(log)


def read_log(log: Path) -> list[dict[str, Any]]:
    """Records of a W&B transaction log, read by W&B's own tool."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def number(value: Any) -> Any:
    """A number as metrics.jsonl has it: W&B writes NaN as a text, and metrics.jsonl as null."""
    return None if value == "NaN" else value


def history(records: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {record["history"]["item"]["_step"]: record["history"]["item"] for record in records if "history" in record}


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_wandb_service")
def test_an_offline_wandb_run_reads_back_with_metrics_tables_settings_and_alerts(tmp_path: Path) -> None:
    config = LogbookConfig(console=False, wandb="offline", wandb_project="breadth-test", trajectories_every=1)
    logbook = open_logbook(tmp_path, config, wandb_id="abcd1234")
    logbook.write(1, {"reward": 0.25, "divergence": math.nan})
    logbook.trajectories(1, [group(answers=("\ud800", "1+2"))])
    measured = measure([group()], "test", 1, 1.0)
    logbook.measurement(1, summary(measured, [1, 2], measured), measured)
    logbook.write(2, {"reward": 0.5})
    logbook.alert("retention fell" * 10, "0.7 < 0.8")
    logbook.close()
    assert logbook.copies.failed == 0, events(tmp_path)

    records = inspect(tmp_path)
    steps = history(records)
    for record in read_records(tmp_path / "metrics.jsonl"):
        written = {k: v for k, v in record.items() if k != "time"}
        assert written == {name: number(steps[record["step"]][in_section(name)]) for name in written}
    assert math.isnan(float(steps[1]["train/divergence"]))
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/answers_1_*.table.json")
    columns, data = (json.loads(table.read_text())[key] for key in ("columns", "data"))
    assert [row[columns.index("answer")] for row in data] == ["?", "1+2"]
    run = next(record["run"] for record in records if "run" in record)
    assert run["run_id"] == "abcd1234" and run["project"] == "breadth-test"
    assert "seed" in json.dumps(run["config"])
    (alert,) = [record["alert"] for record in records if "alert" in record]
    assert alert["text"] == "0.7 < 0.8"


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_wandb_service")
def test_a_resumed_run_continues_under_the_same_wandb_id(tmp_path: Path) -> None:
    first = open_logbook(tmp_path / "a")
    assert first.wandb_id
    first.write(1, {"reward": 0.0})
    first.close()
    config = LogbookConfig(console=False, wandb="offline")
    second = open_logbook(tmp_path / "a", config, wandb_id=first.wandb_id, resume_step=1)
    second.write(2, {"reward": 0.5})
    second.close()
    run = next(record["run"] for record in inspect(tmp_path / "a") if "run" in record)
    assert run["run_id"] == first.wandb_id == second.wandb_id


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_wandb_service")
def test_the_policy_of_the_last_checkpoint_and_reports_become_artifacts_only_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    for step in (10, 20):
        policy = tmp_path / "run" / "checkpoints" / f"step-{step:06d}" / "policy"
        policy.mkdir(parents=True)
        (policy / "config.json").write_text(f'{{"step": {step}}}')
    (tmp_path / "run" / "report.html").write_text("<html></html>")
    for asked in (False, True):
        config = LogbookConfig(console=False, wandb="offline", wandb_artifacts=asked)
        logbook = open_logbook(tmp_path / "run", config, wandb_id=f"abcd123{asked:d}", resume_step=20)
        logbook.write(21, {"reward": 0.5})
        logbook.close()
        assert logbook.copies.failed == 0, events(tmp_path / "run")
    found = {log.stem: read_log(log) for log in tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")}
    artifacts = {
        name: [record["artifact"] for record in records if "artifact" in record] for name, records in found.items()
    }
    assert artifacts["run-abcd1230"] == []
    assert [(each["type"], each["name"]) for each in artifacts["run-abcd1231"]] == [
        ("model", "test-policy"),
        ("report", "test-report-report"),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_wandb_service")
def test_a_full_table_of_answers_is_followed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_run, "TABLE_ADDITIONS", 2)
    config = LogbookConfig(console=False, wandb="offline", trajectories_every=1)
    logbook = open_logbook(tmp_path, config)
    for step in range(1, 6):
        logbook.write(step, {"reward": 0.5})
        logbook.trajectories(step, [group()])
    logbook.close()
    assert logbook.copies.failed == 0, events(tmp_path)
    names = {step: {name.split(".")[0] for name in record} for step, record in history(inspect(tmp_path)).items()}
    tables = {step: names[step] & {"answers", "answers_2", "answers_3", "answers_4"} for step in names}
    assert tables == {1: {"answers"}, 2: {"answers"}, 3: {"answers_2"}, 4: {"answers_2"}, 5: {"answers_3"}}
    rows = [json.loads(path.read_text())["data"] for path in tmp_path.glob("wandb/off*/files/media/table/answers_*")]
    assert sorted(row[0] for data in rows for row in data) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


@pytest.mark.slow
@pytest.mark.usefixtures("stopped_wandb_service")
def test_wandb_sync_of_an_offline_run_and_its_resume_gives_a_server_every_record(tmp_path: Path) -> None:
    config = LogbookConfig(console=False, wandb="offline")
    for resume, steps in ((None, [0, 1, 2]), (2, [3, 4])):
        logbook = open_logbook(tmp_path / "run", config, wandb_id="abcd1234", resume_step=resume)
        for step in steps:
            logbook.write(step, {"reward": step / 4, "tokens": 10, "heldout/pass@1": 0.5, "heldout/pass@1/low": 0.25})
        logbook.close()
        time.sleep(1.1)  # the names of offline runs have whole seconds
    with wandb_server() as server:
        for folder in sorted((tmp_path / "run" / "wandb").glob("offline-run-*")):
            home = {"HOME": str(tmp_path), "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": server.url}
            command = [sys.executable, "-m", "wandb", "sync", str(folder)]
            subprocess.run(command, env=os.environ | home, capture_output=True, timeout=60, check=True)
    records = read_records(tmp_path / "run" / "metrics.jsonl")
    found = sorted(server.history.values(), key=lambda record: record["_step"])
    assert [record["step"] for record in found] == [0, 1, 2, 3, 4]
    for record, synced in zip(records, found, strict=True):
        written = {name: value for name, value in record.items() if name != "time"}
        assert {name: synced[in_section(name)] for name in written} == written


UNREACHABLE = """
import sys
from pathlib import Path
import orchestrator.sinks.wandb_run
from configs.logbook import LogbookConfig
from orchestrator.watch.logbook import Logbook

orchestrator.sinks.wandb_run.INIT_TIMEOUT_S = 2.0
config = LogbookConfig(console=False, wandb="online")
logbook = Logbook(
    Path(sys.argv[1]),
    config,
    run_name="r",
    settings={},
    total_steps=1,
    wandb_id="abcd1234",
    render=str,
    resume_step=None,
)
logbook.write(1, {"reward": 0.5})
logbook.close()
assert logbook.copies.failed == 0
"""


@pytest.mark.slow
def test_an_unreachable_wandb_server_leaves_an_offline_run_and_never_stops_training(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_in_new_interpreter(
        UNREACHABLE, run_dir, WANDB_BASE_URL="http://127.0.0.1:9", WANDB_API_KEY="0" * 40, HOME=str(tmp_path)
    )
    assert read_records(run_dir / "metrics.jsonl")[0]["reward"] == 0.5
    assert any("the online run failed to start" in event["text"] for event in events(run_dir))
    (log,) = run_dir.glob("wandb/offline-run-*/run-abcd1234.wandb")
    assert log.stat().st_size > 0


@pytest.mark.slow
def test_an_online_run_without_a_key_is_an_offline_run_and_asks_for_nothing(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_in_new_interpreter(UNREACHABLE, run_dir, WANDB_API_KEY="", HOME=str(tmp_path))
    assert any("No API key configured" in event["text"] for event in events(run_dir))
    assert len(list(run_dir.glob("wandb/offline-run-*/run-abcd1234.wandb"))) == 1


SERVICE_DIES = """
import sys, time
from pathlib import Path
import psutil
from configs.logbook import LogbookConfig
from orchestrator.watch.logbook import Logbook

config = LogbookConfig(console=False, wandb="offline")
logbook = Logbook(
    Path(sys.argv[1]),
    config,
    run_name="r",
    settings={},
    total_steps=9,
    wandb_id=None,
    render=str,
    resume_step=None,
)
logbook.write(1, {"reward": 0.1})
(service,) = [child for child in psutil.Process().children() if child.name() == "wandb-core"]
service.kill()
service.wait(10)
step, deadline = 1, time.monotonic() + 10
while not logbook.copies.failed and time.monotonic() < deadline:
    step += 1
    logbook.write(step, {"reward": 0.1})
logbook.write(step + 1, {"reward": 0.2})
logbook.close()
assert logbook.copies.failed == 1
"""


@pytest.mark.slow
def test_a_wandb_sink_whose_service_dies_is_turned_off_and_reported_once(tmp_path: Path) -> None:
    assert run_in_new_interpreter(SERVICE_DIES, tmp_path) == ""
    assert sum("turned off" in event["text"] for event in events(tmp_path)) == 1
    records = read_records(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    assert records[-1]["reward"] == 0.2


FROZEN = """
import contextlib, signal, sys, threading, time
from pathlib import Path
import psutil
import orchestrator.sinks.own_thread
import orchestrator.sinks.wandb_run as wandb_run
from configs.logbook import LogbookConfig
from orchestrator.watch.logbook import Logbook

wandb_run.FINISH_TIMEOUT_S, wandb_run.CLOSE_TIMEOUT_S = 2.0, 0.5
orchestrator.sinks.own_thread.QUEUE_LIMIT = 50
arguments = {"settings": {}, "total_steps": 9, "wandb_id": "abcd1234", "render": str, "resume_step": None}
logbook = Logbook(Path(sys.argv[1]), LogbookConfig(console=False, wandb="offline"), run_name="r", **arguments)
(service,) = wandb_run.services()
values = {f"metric_{i}": 0.5 for i in range(60)}
for step in range(1, 31):
    logbook.write(step, values)
deadline = time.monotonic() + 20
while logbook.copies.sinks["wandb"]._calls.qsize() and time.monotonic() < deadline:
    time.sleep(0.05)
time.sleep(1)  # the service writes down what it has received
service.send_signal(signal.SIGSTOP)
began = time.monotonic()
for step in range(31, 400):
    logbook.write(step, values)
print("the service is frozen, and the process prints")
assert time.monotonic() - began < 60, "each write waited"
assert logbook.copies.count_dropped()["sinks/wandb/dropped"] > 0

def stay_frozen():
    with contextlib.suppress(psutil.NoSuchProcess):
        while service.is_running():
            service.send_signal(signal.SIGSTOP)
            time.sleep(0.001)

if WAKES == 0:
    threading.Thread(target=stay_frozen, daemon=True).start()
began = time.monotonic()
logbook.close()
assert time.monotonic() - began < 30, "the end waited"
assert not service.is_running() and not wandb_run.services()
assert logbook.copies.failed == 1 - WAKES, logbook.copies.failed
"""


@pytest.mark.slow
@pytest.mark.timed
def test_a_wandb_service_frozen_for_good_holds_neither_the_loop_nor_the_end_and_leaves_its_file(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:  # short, as the path of a socket has at most 107 bytes
        assert "Traceback" not in run_in_new_interpreter(FROZEN.replace("WAKES", "0"), tmp_path, TMPDIR=temporary)
        assert not list(Path(temporary).glob("*wandb*"))
    told = [event["text"] for event in events(tmp_path) if event["title"] == "wandb"]
    assert "upload with: wandb sync" in told[0] and "so some are dropped" in told[1]
    assert told[2].startswith("turned off after TimeoutError") and "wandb sync" in told[2] and len(told) == 3
    assert len(read_records(tmp_path / "metrics.jsonl")) == 399
    steps = history(inspect(tmp_path))
    assert all(steps[step]["train/metric_7"] == 0.5 for step in range(1, 5)), sorted(steps)


@pytest.mark.slow
@pytest.mark.timed
def test_a_frozen_wandb_service_is_woken_at_the_end_and_writes_what_it_was_given(tmp_path: Path) -> None:
    assert run_in_new_interpreter(FROZEN.replace("WAKES", "1"), tmp_path) == ""
    steps = history(inspect(tmp_path))
    dropped = max(record["sinks/wandb/dropped"] for record in read_records(tmp_path / "metrics.jsonl"))
    assert dropped > 100 and set(range(1, 60)) <= set(steps)
