"""The logbook: metrics.jsonl is complete whatever happens, and a sink that fails does not stop the run."""

import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console as Terminal

from configs.logbook import LogbookConfig
from orchestrator.watch.console import Console
from orchestrator.watch.logbook import Logbook, encode, measurement_path, read_records, truncate_records
from orchestrator.watch.measurement import Measurement, measure
from orchestrator.watch.passk import summary
from trajectories.trajectory import Grade, Group, Prompt, Trajectory

PLAIN = LogbookConfig(console=False)


def open_logbook(run_dir: Path, config: LogbookConfig = PLAIN, **changes: Any) -> Logbook:
    arguments: dict[str, Any] = {
        "run_name": "test",
        "settings": {"seed": 3},
        "total_steps": 4,
        "wandb_id": None,
        "render": lambda tokens: f"tokens {tokens}",
        "resume_step": None,
    }
    return Logbook(run_dir, config, **{**arguments, **changes})


def group(prompt: str = "1,2=3:", answers: tuple[str, ...] = ("1+2", "2-1")) -> Group:
    trajectories = tuple(
        Trajectory(
            prompt_id=prompt,
            sample_index=i,
            tokens=np.arange(5, dtype=np.int32),
            mask=np.array([False, False, True, True, True]),
            logp_sampler=np.array([0, 0, -0.5, -0.5, -0.5], dtype=np.float32),
            first_version=7,
            last_version=8,
            finish_reason="stop",
            seed=i,
            text=answer,
            grade=Grade(reward=float(answer == "1+2"), status="correct" if answer == "1+2" else "wrong"),
        )
        for i, answer in enumerate(answers)
    )
    return Group(
        prompt=Prompt(id=prompt, position=0, text=prompt, verifier="countdown", problem={}), trajectories=trajectories
    )


def events(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_every_step_is_one_line_of_strict_json_and_nan_becomes_null(tmp_path: Path) -> None:
    logbook = open_logbook(tmp_path)
    logbook.write(1, {"reward": 0.25, "divergence": math.nan, "ratio": math.inf, "tokens": 120})
    logbook.write(2, {"reward": np.float32(0.5)})
    logbook.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not strict JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [record["step"] for record in records] == [1, 2]
    assert records[0]["divergence"] is None and records[0]["ratio"] is None
    assert records[0]["tokens"] == 120 and records[1]["reward"] == 0.5


def test_a_measurement_is_added_to_the_record_of_its_step_and_written_to_a_file(tmp_path: Path) -> None:
    measured = measure([group()], "test", 2, 1.0)
    values = summary(measured, [1, 2], measured)
    logbook = open_logbook(tmp_path)
    logbook.measurement(0, values, measured)
    logbook.write(1, {"reward": 0.1})
    logbook.write(2, {"reward": 0.123456789, "entropy": 0.987654321})
    logbook.measurement(2, values, measured)
    logbook.write(2, {"reward": 1.0, "entropy": 1.0})
    logbook.write(3, {"reward": 0.3})
    logbook.close()
    records = read_records(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert records[2]["reward"] == 1.0
    assert records[2]["heldout/pass@1"] == records[0]["heldout/pass@1"] == 0.5
    assert records[2]["heldout/pass@1/low"] <= 0.5 <= records[2]["heldout/pass@1/high"]
    assert records[2]["heldout/retention"] == 1.0
    assert Measurement.from_json(measurement_path(tmp_path, 2).read_text()) == measured


def test_a_shorter_record_replaces_the_whole_old_line(tmp_path: Path) -> None:
    logbook = open_logbook(tmp_path)
    logbook.write(1, {"reward": 0.123456789})
    logbook.write(1, {"reward": 1})
    logbook.write(2, {"reward": 2})
    logbook.close()
    assert [json.loads(line)["reward"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_resuming_drops_later_records_so_that_no_step_is_missing_or_appears_twice(tmp_path: Path) -> None:
    config = LogbookConfig(console=False, trajectories_every=1, trajectories=2)
    measured = measure([group()], "test", 0, 1.0)
    logbook = open_logbook(tmp_path, config)
    for step in range(1, 5):
        logbook.write(step, {"reward": float(step)})
        logbook.trajectories(step, [group()])
        logbook.measurement(step, summary(measured, [1], None), measured)
    logbook.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')

    logbook = open_logbook(tmp_path, config, resume_step=2)
    logbook.write(3, {"reward": 33.0})
    logbook.trajectories(3, [group()])
    logbook.close()
    records = read_records(tmp_path / "metrics.jsonl")
    assert [(record["step"], record["reward"]) for record in records] == [(1, 1.0), (2, 2.0), (3, 33.0)]
    assert [row["step"] for row in read_records(tmp_path / "trajectories.jsonl")] == [1, 1, 2, 2, 3, 3]
    assert measurement_path(tmp_path, 2).exists() and not measurement_path(tmp_path, 3).exists()
    assert any("line 5 was incomplete" in event["text"] for event in events(tmp_path))
    assert not list(tmp_path.glob("*.partial"))


def test_the_last_record_kept_by_a_resume_can_still_be_added_to(tmp_path: Path) -> None:
    logbook = open_logbook(tmp_path)
    logbook.write(1, {"reward": 0.5})
    logbook.close()
    logbook = open_logbook(tmp_path, resume_step=1)
    logbook.write(1, {"heldout/pass@1": 0.25})
    logbook.close()
    (record,) = read_records(tmp_path / "metrics.jsonl")
    assert record["reward"] == 0.5 and record["heldout/pass@1"] == 0.25


def test_a_complete_last_line_without_a_newline_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(encode({"step": 1}) + encode({"step": 2})[:-1])
    assert truncate_records(path, 2) == []
    assert [record["step"] for record in read_records(path)] == [1, 2]


def test_a_metrics_file_that_ends_before_the_checkpoint_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(encode({"step": 1}))
    assert "the steps between are missing" in truncate_records(path, 3)[0]
    assert "missing" in truncate_records(tmp_path / "absent" / "metrics.jsonl", 3)[0]


def test_a_new_run_refuses_the_directory_of_another(tmp_path: Path) -> None:
    logbook = open_logbook(tmp_path)
    logbook.write(1, {"reward": 0.5})
    logbook.close()
    with pytest.raises(ValueError, match="--resume"):
        open_logbook(tmp_path)


def test_sampled_trajectories_carry_everything_a_reader_needs(tmp_path: Path) -> None:
    logbook = open_logbook(tmp_path, LogbookConfig(console=False, trajectories_every=2, trajectories=3))
    hostile = "\ud800\x00</script>[bold]"
    groups = [group("a"), group("b", (hostile, "1+2")), group("c")]
    for step in (1, 2):
        logbook.trajectories(step, groups)
    logbook.close()
    rows = read_records(tmp_path / "trajectories.jsonl")
    assert [(row["step"], row["prompt_id"]) for row in rows] == [(2, "a"), (2, "b"), (2, "c")]
    assert rows[1]["answer"] == hostile
    assert rows[0]["reward"] == 1.0 and rows[0]["status"] == "correct" and rows[0]["route"] == "explore"
    assert (rows[0]["first_version"], rows[0]["last_version"]) == (7, 8)
    assert (rows[0]["prompt"], rows[0]["rendered"]) == ("a", "tokens [0, 1]")


@pytest.fixture
def stopped_wandb_service() -> Iterator[None]:
    """Stop W&B's background service after the test.

    W&B stops it in an atexit hook otherwise, which prints a traceback after pytest's summary if the service has died.
    """
    import wandb

    yield
    wandb.teardown()


def inspect(run_dir: Path) -> list[dict[str, Any]]:
    """Records of the only W&B transaction log below `run_dir`, read by W&B's own tool."""
    (log,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


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
    assert logbook.failed_sinks == 0, events(tmp_path)

    records = inspect(tmp_path)
    steps = history(records)
    assert steps[1]["reward"] == 0.25 and steps[2]["reward"] == 0.5
    assert steps[1]["heldout/pass@1"] == 0.5
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/trajectories_1_*.table.json")
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


def run_in_new_interpreter(script: str, run_dir: Path, **environment: str) -> None:
    """Run `script` in a new interpreter, which starts a W&B service of its own.

    W&B passes the address of its service to child processes in an environment variable, so that variable is removed.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(run_dir)],
        env={**inherited, "PYTHONPATH": os.getcwd(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


UNREACHABLE = """
import sys
from pathlib import Path
import orchestrator.watch.sinks
from configs.logbook import LogbookConfig
from orchestrator.watch.logbook import Logbook

orchestrator.watch.sinks.INIT_TIMEOUT_S = 2.0
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
assert logbook.failed_sinks == 0
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
while not logbook.failed_sinks and time.monotonic() < deadline:
    step += 1
    logbook.write(step, {"reward": 0.1})
logbook.write(step + 1, {"reward": 0.2})
logbook.close()
assert logbook.failed_sinks == 1
"""


@pytest.mark.slow
def test_a_wandb_sink_whose_service_dies_is_turned_off_and_reported_once(tmp_path: Path) -> None:
    run_in_new_interpreter(SERVICE_DIES, tmp_path)
    assert sum("turned off" in event["text"] for event in events(tmp_path)) == 1
    records = read_records(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    assert records[-1]["reward"] == 0.2


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logbook = open_logbook(tmp_path, LogbookConfig(console=False, tensorboard=True, trajectories_every=1))
    logbook.write(1, {"reward": 0.25})
    logbook.write(2, {"reward": 0.5})
    logbook.trajectories(2, [group()])
    logbook.close()
    reader = EventAccumulator(str(tmp_path / "tensorboard"))
    reader.Reload()
    assert [(event.step, event.value) for event in reader.Scalars("reward")] == [(1, 0.25), (2, 0.5)]
    assert logbook.failed_sinks == 0


def show(terminal: Terminal) -> Console:
    console = Console(run_name="demo", total_steps=10, first_step=0, terminal=terminal)
    details = {"heldout/pass@1/low": 0.2, "heldout/pass@1/sql2": 0.1}
    base = {"heldout/change/pass@1": 0.0, "heldout/change/pass@64": 0.0}
    console.write(0, {"heldout/pass@1": 0.3, "heldout/pass@64": 0.98, "heldout/entropy": 1.0, **details, **base})
    for step in (1, 2):
        waits = {"seconds/wait_generation": 1.0, "seconds/step": 4.0}
        console.write(step, {"reward": 0.4, "entropy": 1.2, "staleness": 0.0, "tokens_per_second": 5120.0, **waits})
    name = "heldout/beyond_sharpening/pass@64"
    margin = {name: -0.06, f"{name}/low": -0.11, f"{name}/high": -0.02}
    changes = {"heldout/change/pass@1": 0.1, "heldout/change/pass@64": -0.08}
    console.write(2, {"heldout/pass@1": 0.4, "heldout/pass@64": 0.9, **changes, **margin})
    return console


def test_outside_a_terminal_each_step_is_one_plain_line() -> None:
    out = io.StringIO()
    console = show(Terminal(file=out, force_terminal=False, width=40))
    console.alert("stop", "[red]retention[/red] < 0.8")
    console.close()
    lines = out.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["step 0/10", "step 1/10", "step 2/10"]
    assert "Pass@1 0.300 (+0.000)" in lines[1] and "waiting 25%" in lines[1] and "tokens/s 5,120" in lines[1]
    assert lines[3] == "stop: [red]retention[/red] < 0.8"
    assert "Pass@1 0.400 (+0.100)" in lines[4] and "Pass@64 0.900 (-0.080)" in lines[4]
    assert "beyond sharpening @64 -0.060 (-0.11 to -0.02)" in lines[4]
    assert len(lines) == 5


def test_the_console_of_a_resumed_run_shows_the_changes_since_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base has Pass@32 .969; what is measured after the resume is compared with it, not with itself."""
    config = LogbookConfig(console=True)
    first = open_logbook(tmp_path, config)
    first.write(0, {"heldout/pass@32": 0.969, "heldout/change/pass@32": 0.0})
    first.write(1, {"heldout/pass@32": 0.9, "heldout/change/pass@32": -0.069})
    first.close()
    capsys.readouterr()
    resumed = open_logbook(tmp_path, config, resume_step=1)
    resumed.write(2, {"reward": 0.5})
    resumed.write(3, {"heldout/pass@32": 0.75, "heldout/change/pass@32": -0.219})
    resumed.close()
    lines = capsys.readouterr().out.splitlines()
    assert [re.findall(r"Pass@32 \S+ \S+", line) for line in lines] == [
        ["Pass@32 0.900 (-0.069)"],
        ["Pass@32 0.750 (-0.219)"],
        ["Pass@32 0.750 (-0.219)"],
    ]
    assert lines[-1].startswith("test ended at step 3/")


def test_without_a_measured_base_no_change_is_shown() -> None:
    out = io.StringIO()
    console = Console(run_name="demo", total_steps=9, first_step=4, terminal=Terminal(file=out, force_terminal=False))
    console.write(5, {"heldout/pass@1": 0.4})
    console.write(6, {"heldout/pass@1": 0.5})
    console.close()
    assert "Pass@1 0.500  " in out.getvalue() and "(" not in out.getvalue()


def test_a_run_that_was_refused_before_its_first_values_prints_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    Console(run_name="demo", total_steps=9, first_step=4, measured={"heldout/pass@1": 0.4}).close()
    assert capsys.readouterr().out == ""


def test_on_a_terminal_the_display_shows_progress_and_the_latest_values() -> None:
    out = io.StringIO()
    console = show(Terminal(file=out, force_terminal=True, width=140, _environ={"TERM": "xterm"}))
    console.close()
    final = out.getvalue()
    for shown in ("2/10", "Pass@64", "0.900 (-0.080)", "25%", "elapsed", "left"):
        assert shown in final


def test_a_broken_standard_output_turns_the_console_off_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        logbook = open_logbook(tmp_path, LogbookConfig(console=True))
        logbook.write(1, {"reward": 0.5})
        logbook.write(2, {"reward": 0.5})
        logbook.close()
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), broken.fileno())
    assert logbook.failed_sinks == 1
    assert len(read_records(tmp_path / "metrics.jsonl")) == 2
