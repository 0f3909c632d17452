"""The lock of a run in its remote place."""

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.config import Config
from orchestrator.recovery.run_lock import LOCK, Held
from orchestrator.remote_runs import lock
from orchestrator.remote_runs.fetch import fetch_run
from orchestrator.remote_runs.lock import RemoteLock, RunLocks
from orchestrator.remote_runs.mirror import Copying, Mirror
from orchestrator.remote_runs.store import Store, StoreError

OTHER = {"host": "b", "pid": 7, "since": "2026-01-01 00:00:00 UTC", "beat": 3, "token": "other"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    monkeypatch.setattr(lock, "SILENCE_S", 20.0)


def hold(store: Store, lines: list[str] | None = None) -> RemoteLock:
    return RemoteLock(store, (lines if lines is not None else []).append)


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def machine(folder: Path, url: str) -> Config:
    (folder / "first").mkdir(parents=True)
    return replace(Config(), name="first", runs=str(folder), mirror=url)


def test_a_run_that_another_machine_trains_is_refused_and_free_when_that_one_has_ended(
    place: str, tmp_path: Path
) -> None:
    lines: list[str] = []
    here, there = (machine(tmp_path / name, place) for name in ("here", "there"))
    with RunLocks(here, lines.append) as first:
        first.check()
        with pytest.raises(
            Held, match=rf"^name: must be a run that no process holds, got {place}/first, which process "
        ):
            RunLocks(there, lines.append).__enter__()
        first.check()
    assert "waiting 20 s for a heartbeat" in lines[0]
    with RunLocks(there, lines.append) as second:
        second.check()
    assert len(lines) == 1, "a run that was released is taken at once"


def test_a_run_whose_machine_is_gone_is_taken_after_the_silence(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "SILENCE_S", 0.3)
    Store(place).write(LOCK, json.dumps(OTHER).encode())
    began = time.monotonic()
    with hold(Store(place)):
        assert time.monotonic() - began >= 0.3
        assert json.loads(Store(place).read(LOCK))["pid"] != 7
    assert LOCK not in Store(place).sizes()


def test_a_holder_learns_that_another_machine_has_taken_the_run_and_copies_nothing_more(
    place: str, tmp_path: Path
) -> None:
    alerts: list[str] = []
    store = Store(place)
    (tmp_path / "run").mkdir()
    with hold(store) as held:
        copying = Copying(Mirror(tmp_path / "run", store), *[lambda title, text: alerts.append(text)] * 2, held)
        (tmp_path / "run" / "metrics.jsonl").write_text("1\n")
        assert copying._pass() == []
        store.write(LOCK, json.dumps(OTHER).encode())
        wait_for(lambda: held.lost)
        with pytest.raises(RuntimeError, match=rf"^the run {place} was taken over: which process 7 on b has held"):
            held.check()
        (tmp_path / "run" / "metrics.jsonl").write_text("1\n2\n")
        began = time.monotonic()
        copying._thread.start()
        copying.finish(60.0)
        assert time.monotonic() - began < 30 and store.read("metrics.jsonl") == b"1\n"
    assert json.loads(store.read(LOCK)) == OTHER, "the lock of the other one stays"


def test_a_holder_that_could_not_renew_its_lock_copies_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"file://{tmp_path}/store")
    with hold(store) as held:
        held.require_fresh()
        with monkeypatch.context() as patched:
            patched.setattr(Store, "write", lambda *arguments: (_ for _ in ()).throw(StoreError("gone")))
            patched.setattr(lock, "SILENCE_S", 0.2)

            def stale() -> bool:
                with contextlib.suppress(StoreError):
                    held.require_fresh()
                    return False
                return True

            wait_for(stale)
        held.check()
        wait_for(lambda: not stale())


def test_a_lock_that_was_released_by_another_one_meanwhile_is_lost(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path}/store")
    held = hold(store)
    held._renewed -= 30.0
    held._beat()
    with pytest.raises(RuntimeError, match="taken over: which another process holds"):
        held.check()


def test_a_line_that_is_half_written_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"file://{tmp_path}/store")
    store.write(LOCK, b'{"host": "b", "pi')
    monkeypatch.setattr(lock, "SILENCE_S", 0.2)
    with hold(store) as held:
        held.check()


def test_a_lock_is_neither_copied_nor_fetched(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/store/first"
    run_dir = tmp_path / "here" / "first"
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text("steps: 4\n")
    (run_dir / LOCK).write_text("of this machine")
    Mirror(run_dir, Store(url)).sync()
    assert LOCK not in Store(url).sizes()
    Store(url).write(LOCK, json.dumps(OTHER).encode())
    there = fetch_run(url, lambda line: None, folder=tmp_path / "there")
    assert not (there / LOCK).exists() and (there / "config.yaml").is_file()


def test_a_place_that_does_not_answer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file in the place of the folder")
    with pytest.raises(ValueError, match=r"^runs: must be a place that this user can read and write, got 'file://"):
        hold(Store(f"file://{tmp_path}/store")).__enter__()
