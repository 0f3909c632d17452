"""The logbook: metrics.jsonl is complete whatever happens, and a sink that fails does not stop the run."""

import json
import math
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from logbook_runs import events, group, open_logbook

from configs.logbook import LogbookConfig
from orchestrator.watch.logbook import encode, measurement_path, read_records, truncate_records
from orchestrator.watch.measurement import Measurement, measure
from orchestrator.watch.passk import summary


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
    assert logbook.copies.failed == 0


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
    lines = [line for line in capsys.readouterr().out.splitlines() if "Pass@32" in line]
    assert [re.findall(r"Pass@32 \S+ \S+", line) for line in lines] == [["Pass@32 0.750 (-0.219)"]] * 2
    assert lines[0].split()[:3] == ["3/4", "held", "out"] and lines[1].startswith("last measured: ")


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
    assert logbook.copies.failed == 1
    assert len(read_records(tmp_path / "metrics.jsonl")) == 2


def test_the_tokens_of_all_steps_are_summed_up_also_across_a_resume(tmp_path: Path) -> None:
    logbook = open_logbook(tmp_path)
    logbook.write(0, {"heldout/pass@1": 0.5})
    logbook.write(1, {"tokens": 100.0})
    logbook.write(2, {"tokens": 10.0})
    logbook.write(2, {"heldout/pass@1": 0.5})
    logbook.write(3, {"tokens": 1000.0})
    logbook.close()
    resumed = open_logbook(tmp_path, resume_step=2)
    resumed.write(2, {"heldout/pass@1": 0.5})
    resumed.write(3, {"tokens": 7.0})
    resumed.close()
    totals = [record.get("tokens_total") for record in read_records(tmp_path / "metrics.jsonl")]
    assert totals == [0.0, 100.0, 110.0, 117.0]


def test_a_run_resumed_before_its_first_checkpoint_keeps_its_wandb_id(
    tmp_path: Path,
) -> None:
    first = open_logbook(tmp_path)
    first.close()
    resumed = open_logbook(tmp_path, resume_step=0)
    resumed.close()
    new = open_logbook(tmp_path)
    new.close()
    assert resumed.wandb_id == first.wandb_id != new.wandb_id
