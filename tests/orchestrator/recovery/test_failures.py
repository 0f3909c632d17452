"""What is kept of a failed run, and the line that says where."""

from pathlib import Path

import pytest

from actors.machine.scratch import SCRATCH
from orchestrator.recovery.failures import failure


def test_the_logs_of_ray_are_kept_and_named_only_where_the_run_has_started_its_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch, run_dir = tmp_path / "scratch", tmp_path / "run"
    scratch.mkdir()
    monkeypatch.setenv(SCRATCH, str(scratch))
    *_, line = str(failure(run_dir, RuntimeError("learner 0: update failed"))).splitlines()
    assert line.startswith("The traceback is in ") and Path(line.rpartition(" ")[2], "traceback.txt").is_file()
    logs = scratch / "ray" / "session_2026" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("a line")
    *_, line = str(failure(run_dir / "other", RuntimeError("learner 0: update failed"))).splitlines()
    assert line.startswith("The traceback and the logs of Ray are in ")
    assert Path(line.rpartition(" ")[2], "raylet.out").read_text() == "a line"
