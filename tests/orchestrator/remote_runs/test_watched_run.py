"""A job that watches a run in a remote place, from a machine that is not the run's: what it measures and fetches."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.commands.cli import main
from orchestrator.evaluation import following
from orchestrator.remote_runs import watched
from orchestrator.remote_runs.mirror import Mirror
from orchestrator.remote_runs.place import work_folder
from orchestrator.remote_runs.store import Store, StoreError
from orchestrator.remote_runs.watched import RemoteRun
from orchestrator.report.evaluation import read_evaluation
from tests.orchestrator.evaluation.test_following import FakeRun


@pytest.fixture
def run(tiny_policy: Path, tmp_path: Path) -> FakeRun:
    """A run on the first machine."""
    return FakeRun(tiny_policy, tmp_path)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory of the machine that watches."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(following, "POLL_S", 0.05)
    monkeypatch.setattr(watched, "RETRY_S", 0.01)
    return tmp_path / "home"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def test_the_checkpoints_of_a_remote_run_are_fetched_as_they_come_and_no_more_of_them_than_is_measured(
    place: str, run: FakeRun, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{place}/run"
    mirror, output = Mirror(run.folder, Store(url)), work_folder(place) / "run" / "evaluations" / "watched"
    series = output / "series.json"
    first = run.checkpoint(2)
    mirror.sync(last=True)

    def goes_on() -> None:
        until(lambda: series.exists() and "step-000002" in series.read_text())
        run.checkpoint(4)
        shutil.rmtree(first)  # checkpoint.keep_last
        mirror.sync(last=True)
        run.checkpoint(6)
        mirror.sync(last=True)

    got: list[str] = []
    get = Store.get

    def recorded(store: Store, name: str, target: Path) -> None:
        got.append(name)
        get(store, name, target)

    monkeypatch.setattr(Store, "get", recorded)
    trainer = threading.Thread(target=goes_on)
    trainer.start()
    words = ["evaluate.name=watched", "evaluate.tasks.more.heldout_prompts=1", "evaluate.watch_patience_s=60"]
    assert main(["evaluate", f"evaluate.watch={url}", *words]) == 0
    trainer.join()
    assert "watch: run has ended, and all of its checkpoints are measured" in capsys.readouterr().err
    evaluation = read_evaluation(output)
    assert evaluation.names == ["base", "step-000002", "step-000004", "step-000006"]
    assert evaluation.about["paths"]["step-000004"].endswith("run/checkpoints/step-000004/policy")
    fetched = [name for name in got if name.startswith("checkpoints/")]
    assert len(fetched) == len(set(fetched)), "none twice"
    assert {name.split("/")[2] for name in fetched} == {"policy"}, "not the state of the optimizer"
    assert not (work_folder(place) / "run" / "checkpoints").exists() and not (output / following.COPIES).exists()
    assert "evaluations/watched/results.json" in Store(url).sizes()


@pytest.fixture
def remote(run: FakeRun, home: Path, tmp_path: Path) -> tuple[RemoteRun, list[str]]:
    """The run in a store, with one checkpoint, and the lines for the user."""
    run.checkpoint(2)
    url, lines = f"file://{tmp_path}/store/run", list[str]()
    Mirror(run.folder, Store(url)).sync(last=True)
    return RemoteRun(url, run.folder, tmp_path / "records", 0.3, lines.append), lines


def test_a_store_that_does_not_answer_is_asked_again_for_as_long_as_the_job_is_patient(
    remote: tuple[RemoteRun, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched_run, lines = remote
    asyncio.run(watched_run.look())
    [checkpoint] = watched_run.checkpoints()
    get, calls = Store.get, list[str]()

    def failing(store: Store, name: str, target: Path) -> None:
        calls.append(name)
        if len(calls) < 4:
            raise StoreError("the server is gone")
        get(store, name, target)

    def gone(store: Store, *names: object) -> None:
        raise StoreError("the server is gone")

    copy = tmp_path / "copy"
    monkeypatch.setattr(Store, "get", failing)
    assert asyncio.run(watched_run.hold(checkpoint, copy)) == ""
    assert (copy / "config.json").read_bytes() == (checkpoint / "policy" / "config.json").read_bytes()
    assert len(lines) == 1 and "does not answer, and is asked again: the server is gone" in lines[0]
    monkeypatch.setattr(Store, "get", gone)
    monkeypatch.setattr(Store, "sizes", gone)
    asyncio.run(watched_run.look())
    assert watched_run.checkpoints() == [checkpoint] and len(lines) == 1
    with pytest.raises(ValueError, match=r"^evaluate\.watch: must be a place that can be read, got 'file://"):
        asyncio.run(watched_run.hold(checkpoint, copy))


def test_a_checkpoint_that_is_removed_or_damaged_in_the_store_is_not_held_and_the_folder_of_the_run_is_left_alone(
    remote: tuple[RemoteRun, list[str]], run: FakeRun, tmp_path: Path
) -> None:
    watched_run, _ = remote
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")}
    asyncio.run(watched_run.look())
    [checkpoint] = watched_run.checkpoints()
    stored = tmp_path / "store" / "run" / "checkpoints" / "step-000002"
    (stored / "policy" / "config.json").write_text("{}")
    reason = asyncio.run(watched_run.hold(checkpoint, tmp_path / "copy"))
    assert reason.endswith("policy/config.json is not what was written (SHA-256 differs)")
    (stored / "manifest.json").write_text('{"policy/../../../escaped": ""}')
    assert "has a file outside of it" in asyncio.run(watched_run.hold(checkpoint, tmp_path / "copy"))
    shutil.rmtree(stored)
    assert asyncio.run(watched_run.hold(checkpoint, tmp_path / "copy")) == watched.REMOVED
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*")} == before
