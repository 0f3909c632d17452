"""Copies of a run in a store: what is copied and removed, failures, the end, and a run that is fetched again."""

import asyncio
import contextlib
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from configs.config import Config
from orchestrator.manifest import MANIFEST, STATE, verify, write_manifest
from orchestrator.remote_runs import fetch, mirror
from orchestrator.remote_runs.fetch import fetch_run
from orchestrator.remote_runs.mirror import Mirror, copy_now, mirrored
from orchestrator.remote_runs.store import Store, StoreError


def checkpoint(run_dir: Path, step: int, text: str = "weights") -> Path:
    folder = run_dir / "checkpoints" / f"step-{step:06d}"
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "model.safetensors").write_text(f"{text} {step}")
    (folder / STATE).write_text('{"best": {"step": 2, "value": 0.5}}')
    write_manifest(folder)
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "here" / "first"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("steps: 4\n")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    checkpoint(folder, 2)
    return folder


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"file://{tmp_path}/store/first"


class Recorder(Store):
    """A store that records the order of its calls, and fails for the names in `broken`."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.puts: list[str] = []
        self.broken: set[str] = set()

    def put(self, source: Path, name: str, limit_s: float = 60.0) -> None:
        if any(part in name for part in self.broken):
            raise StoreError("the server is gone")
        self.puts.append(name)
        super().put(source, name, limit_s)


def test_only_what_changed_is_copied_and_a_manifest_comes_last(run_dir: Path, url: str) -> None:
    store = Recorder(url)
    copies = Mirror(run_dir, store)
    (run_dir / ".config.yaml.partial").write_text("half")
    assert copies.sync() == []
    assert store.puts[-1] == f"checkpoints/step-000002/{MANIFEST}" and len(store.puts) == 5
    assert not any("partial" in name for name in store.puts)
    store.puts.clear()
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2}\n')
    copies.sync(last=True)
    assert store.puts == ["metrics.jsonl"]
    assert store.read("metrics.jsonl") == (run_dir / "metrics.jsonl").read_bytes()


def test_a_checkpoint_whose_files_could_not_be_copied_has_no_manifest_there(run_dir: Path, url: str) -> None:
    store = Recorder(url)
    store.broken = {"model.safetensors"}
    copies = Mirror(run_dir, store)
    [error] = copies.sync()
    assert "model.safetensors: the server is gone" in error and copies.failures == 1
    assert not any(name.endswith(MANIFEST) for name in store.sizes())
    store.broken = set()
    assert copies.sync(last=True) == [] and copies.pending() == []
    assert f"checkpoints/step-000002/{MANIFEST}" in store.sizes()


def test_a_pruned_checkpoint_is_removed_there_and_those_of_other_machines_stay(run_dir: Path, url: str) -> None:
    store = Store(url)
    other = checkpoint(run_dir.parent / "other", 1)
    for file in other.rglob("*.*"):
        store.put(file, f"checkpoints/step-000001/{file.relative_to(other)}")
    copies = Mirror(run_dir, store)
    copies.sync()
    for path in sorted((run_dir / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    checkpoint(run_dir, 4)
    copies.sync(last=True)
    steps = {name.split("/")[1] for name in store.sizes() if name.startswith("checkpoints")}
    assert steps == {"step-000001", "step-000004"}


def test_a_resumed_run_does_not_copy_its_checkpoints_again(run_dir: Path, url: str) -> None:
    Mirror(run_dir, Store(url)).sync()
    again = Recorder(url)
    copies = Mirror(run_dir, again)
    copies.adopt()
    copies.sync()
    assert sorted(again.puts) == ["config.yaml", "metrics.jsonl"]


def settings(tmp_path: Path) -> Config:
    return replace(Config(), name="first", runs=str(tmp_path / "here"), mirror=f"file://{tmp_path}/store")


def test_the_run_goes_on_beside_the_copies_and_waits_for_the_last_ones(
    run_dir: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PERIOD_S", 0.05)
    alerts: list[tuple[str, str]] = []

    async def train() -> None:
        async with mirrored(settings(tmp_path), run_dir, lambda *alert: alerts.append(alert), lambda *note: None):
            deadline = time.monotonic() + 20
            while "config.yaml" not in Store(url).sizes():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            (run_dir / "last.txt").write_text("written at the end")

    asyncio.run(train())
    assert Store(url).read("last.txt") == b"written at the end" and alerts == []


def test_a_store_that_is_gone_is_an_alert_and_ends_nothing(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PERIOD_S", 0.05)
    monkeypatch.setattr(mirror, "FINISH_S", 1.5)
    (tmp_path / "store").write_text("a file in the place of the folder")
    alerts: list[str] = []

    async def train() -> None:
        async with mirrored(
            settings(tmp_path), run_dir, lambda title, text: alerts.append(text), lambda title, text: None
        ):
            await asyncio.sleep(0.3)

    began = time.monotonic()
    asyncio.run(train())
    assert time.monotonic() - began < 20
    assert "could not be copied to file://" in alerts[0] and "the run goes on" in alerts[0]
    assert "files are not in file://" in alerts[-1] and str(run_dir) in alerts[-1]


def test_copying_goes_on_beside_checkpoints_that_are_written_and_removed(run_dir: Path, url: str) -> None:
    copies, ends, failed = Mirror(run_dir, Store(url)), threading.Event(), []

    def change() -> None:
        while not ends.is_set():
            shutil.rmtree(checkpoint(run_dir, 9))

    def copy() -> None:
        deadline = time.monotonic() + 1.0
        try:
            while time.monotonic() < deadline:
                copies.pending()
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=target) for target in (change, copy)]
    for thread in threads:
        thread.start()
    threads[1].join(30)
    ends.set()
    threads[0].join(30)
    assert failed == []


def test_a_pass_that_fails_unexpectedly_is_an_alert_and_the_next_one_copies(
    run_dir: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    copying = mirror.Copying(Mirror(run_dir, Store(url)), *[lambda title, text: told.append(text)] * 2)
    with monkeypatch.context() as patched:
        patched.setattr(Mirror, "pending", lambda self: 1 / 0)
        assert copying._pass()
    assert not copying._pass()
    assert "ZeroDivisionError" in told[0] and "are copied" in told[1]


def test_that_a_store_works_again_is_no_alert(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PERIOD_S", 0.05)
    store, alerts, notes = tmp_path / "store", list[str](), list[str]()
    store.write_text("a file in the place of the folder")

    async def train() -> None:
        async with mirrored(
            settings(tmp_path), run_dir, lambda title, text: alerts.append(text), lambda title, text: notes.append(text)
        ):
            while not alerts:
                await asyncio.sleep(0.05)
            store.unlink()

    asyncio.run(train())
    assert len(alerts) == 1 and len(notes) == 1 and "files are copied to file://" in notes[0]


def test_a_store_that_hangs_delays_the_end_by_its_limit_alone(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "PERIOD_S", 0.01)
    monkeypatch.setattr(mirror, "FINISH_S", 0.5)
    monkeypatch.setattr(Store, "put", lambda *arguments: time.sleep(60))
    alerts: list[str] = []

    async def train() -> None:
        async with mirrored(
            settings(tmp_path), run_dir, lambda title, text: alerts.append(text), lambda title, text: None
        ):
            await asyncio.sleep(0.2)

    began = time.monotonic()
    asyncio.run(train())
    assert time.monotonic() - began < 20 and "files are not in" in alerts[-1]


def test_a_fetched_run_has_its_records_and_its_newest_whole_checkpoint(run_dir: Path, url: str, tmp_path: Path) -> None:
    checkpoint(run_dir, 4)
    Mirror(run_dir, Store(url)).sync()
    lines: list[str] = []
    there = fetch_run(url, lines.append, checkpoint="last", folder=tmp_path / "there")
    assert there == tmp_path / "there" / "first"
    assert (there / "metrics.jsonl").read_text() == (run_dir / "metrics.jsonl").read_text()
    assert [path.name for path in (there / "checkpoints").iterdir()] == ["step-000004"]
    verify(there / "checkpoints" / "step-000004")
    assert "fetching checkpoint step-000004" in lines[0]
    for which, name in (("best", "step-000002"), ("2", "step-000002"), ("step-000004", "step-000004")):
        fetch_run(url, lines.append, checkpoint=which, folder=tmp_path / which)
        assert [path.name for path in (tmp_path / which / "first" / "checkpoints").iterdir()] == [name]


def test_a_broken_checkpoint_of_the_store_is_named_and_the_one_before_it_is_fetched(
    run_dir: Path, url: str, tmp_path: Path
) -> None:
    newest = checkpoint(run_dir, 4)
    store = Store(url)
    Mirror(run_dir, store).sync()
    (newest / "policy" / "model.safetensors").write_text("changed!")
    store.put(newest / "policy" / "model.safetensors", "checkpoints/step-000004/policy/model.safetensors")
    lines: list[str] = []
    there = fetch_run(url, lines.append, checkpoint="last", folder=tmp_path / "there")
    names = [path.name for path in (there / "checkpoints").iterdir() if not path.name.startswith(".")]
    assert names == ["step-000002"] and any("is not what was written" in line for line in lines)


def test_a_broken_local_checkpoint_is_fetched_again(run_dir: Path, url: str) -> None:
    checkpoint(run_dir, 4)
    Mirror(run_dir, Store(url)).sync()
    weights = run_dir / "checkpoints" / "step-000004" / "policy" / "model.safetensors"
    weights.write_text("cut sh")
    fetch_run(url, lambda line: None, checkpoint="last", folder=run_dir.parent)
    assert weights.read_text() == "weights 4"
    verify(run_dir / "checkpoints" / "step-000004")


def test_a_local_run_that_is_ahead_of_the_store_is_left_as_it_is(run_dir: Path, url: str, tmp_path: Path) -> None:
    Mirror(run_dir, Store(url)).sync()
    checkpoint(run_dir, 4)
    (run_dir / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    fetch_run(url, lambda line: None, checkpoint="last", folder=run_dir.parent)
    assert (run_dir / "metrics.jsonl").read_text().count("\n") == 2
    (run_dir / "metrics.jsonl").write_text("")
    fetch_run(url, lambda line: None, folder=run_dir.parent)
    assert (run_dir / "metrics.jsonl").read_text() == '{"step": 1}\n', "the store is ahead"


def test_a_run_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^RUN: must be a run with a config.yaml, got 'file://"):
        fetch_run(f"file://{tmp_path}/nowhere", lambda line: None, folder=tmp_path)
    assert not fetch.has_run(f"file://{tmp_path}/nowhere", "runs")


def test_an_evaluation_is_copied_alone(run_dir: Path, url: str) -> None:
    (run_dir / "evaluations" / "a").mkdir(parents=True)
    (run_dir / "evaluations" / "a" / "results.json").write_text("{}")
    lines: list[str] = []
    copy_now(run_dir, url, ("evaluations",), lines.append)
    assert set(Store(url).sizes()) == {"evaluations/a/results.json"} and lines == [f"copied evaluations to {url}"]


def test_a_name_that_leads_out_of_the_run_is_not_written(run_dir: Path, url: str, tmp_path: Path) -> None:
    store = Store(url)
    Mirror(run_dir, store).sync()

    class Hostile(Store):
        def sizes(self) -> dict[str, int]:
            return super().sizes() | {"../outside.txt": 1}

    with contextlib.suppress(StoreError):
        fetch._fetch_records(Hostile(url), Hostile(url).sizes(), tmp_path / "there" / "first")
    assert not (tmp_path / "there" / "outside.txt").exists()
