"""Runs in remote places, by the commands: trained, resumed on another machine, evaluated, reported, exported."""

import json
from pathlib import Path

import pytest
from answer_lines import row

from orchestrator.commands.cli import main
from orchestrator.commands.pages.report import default_output
from orchestrator.remote_runs import lock
from orchestrator.remote_runs.place import work_folder
from orchestrator.remote_runs.store import Store
from orchestrator.watch.logbook import read_records

SMALL = (
    "placement.kind=in_process",
    "generator.engine=transformers",
    "generator.max_sequences=512",
    "sampling.max_new_tokens=6",
    "task.heldout_prompts=4",
    "logbook.console=false",
    "groups_per_step=2",
    "sampling.group_size=2",
    "monitor.every=0",
    "checkpoint.every=1",
)


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, ...]:
    """The home directories of two machines; the first is this one."""
    homes = tuple(tmp_path / name for name in ("machine_1", "machine_2"))
    for home in homes:
        home.mkdir()
    monkeypatch.setenv("HOME", str(homes[0]))
    return homes


def test_a_run_is_resumed_on_a_machine_that_has_never_seen_it(
    place: str, machines: tuple[Path, ...], tiny_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ["train", *SMALL, f"policy.path={tiny_policy}", f"runs={place}", "name=first"]
    assert main([*train, "steps=2"]) == 0
    there = set(Store(f"{place}/first").sizes())
    assert {"config.yaml", "metrics.jsonl", "events.jsonl", "checkpoints/step-000002/manifest.json"} <= there
    monkeypatch.setenv("HOME", str(machines[1]))
    assert main([*train, "steps=2"]) == 2, "the name is taken there, though not on this machine"
    assert main(["train", "--resume", "name=first", f"runs={place}", "steps=4"]) == 0
    run_dir = work_folder(place) / "first"
    assert run_dir.is_relative_to(machines[1])
    assert [record["step"] for record in read_records(run_dir / "metrics.jsonl")] == [1, 2, 3, 4]
    assert Store(f"{place}/first").read("metrics.jsonl") == (run_dir / "metrics.jsonl").read_bytes()
    steps = {name.split("/")[1] for name in Store(f"{place}/first").sizes() if name.startswith("checkpoints/")}
    assert {"step-000003", "step-000004"} <= steps


def test_a_run_that_another_machine_trains_is_not_resumed(
    place: str,
    machines: tuple[Path, ...],
    tiny_policy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    train = ["train", *SMALL, f"policy.path={tiny_policy}", f"runs={place}", "name=first"]
    assert main([*train, "steps=1"]) == 0
    monkeypatch.setenv("HOME", str(machines[1]))
    with lock.RemoteLock(Store(f"{place}/first"), lambda line: None):
        assert main([*train, "--resume", "steps=2"]) == 2
        assert f"breadth: name: must be a run that no process holds, got {place}/first, " in capsys.readouterr().err
    assert main([*train, "--resume", "steps=2"]) == 0


def test_a_run_is_resumed_with_a_file_of_settings_on_a_machine_that_has_never_seen_it(
    place: str, machines: tuple[Path, ...], tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"name: first\nruns: {place}\n")
    train = ["train", "--config", str(file), *SMALL, f"policy.path={tiny_policy}"]
    assert main([*train, "steps=1"]) == 0
    monkeypatch.setenv("HOME", str(machines[1]))
    assert main([*train, "--resume", "steps=2"]) == 0
    assert [record["step"] for record in read_records(work_folder(place) / "first" / "metrics.jsonl")] == [1, 2]


def test_a_run_that_failed_before_its_first_copy_is_resumed_on_its_machine(
    place: str, machines: tuple[Path, ...], tiny_policy: Path
) -> None:
    words = [*SMALL, f"policy.path={tiny_policy}", f"runs={place}", "name=first"]
    assert main(["train", *words, "steps=1"]) == 0
    store = Store(f"{place}/first")
    for name in store.sizes():
        store.remove(name)
    assert main(["train", "--resume", *words, "steps=2"]) == 0
    assert {"config.yaml", "checkpoints/step-000002/manifest.json"} <= set(store.sizes())


@pytest.mark.slow
def test_a_run_with_restarts_goes_on_on_a_machine_that_has_never_seen_it(
    machines: tuple[Path, ...], tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"file://{tmp_path}/store"
    train = ["train", "--restarts", "1", *SMALL, f"policy.path={tiny_policy}", f"runs={place}", "name=first"]
    assert main([*train, "steps=1"]) == 0
    monkeypatch.setenv("HOME", str(machines[1]))
    assert main([*train, "steps=2"]) == 0
    assert [record["step"] for record in read_records(work_folder(place) / "first" / "metrics.jsonl")] == [1, 2]


@pytest.mark.slow
def test_a_remote_run_is_evaluated_reported_and_exported(
    place: str, machines: tuple[Path, ...], tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = ["train", *SMALL, f"policy.path={tiny_policy}", f"runs={place}", "name=first", "steps=1"]
    assert main(train) == 0
    monkeypatch.setenv("HOME", str(machines[1]))
    evaluate = ["evaluate", f"{place}/first", "evaluate.answers=4", "evaluate.ks=[1,4]", "evaluate.name=a"]
    assert main(evaluate) == 0
    assert "evaluations/a/results.json" in Store(f"{place}/first").sizes()
    assert main(["report", f"{place}/first"]) == 0
    assert b"<html" in Store(f"{place}/first").read("report.html")
    assert main(["export", f"{place}/first", "--output", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "config.json").is_file()


def test_the_answers_of_a_remote_run_are_viewed(
    place: str, machines: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Store(f"{place}/first")
    for name, text in (("config.yaml", "name: first\n"), ("trajectories.jsonl", json.dumps(row(3)) + "\n")):
        (tmp_path / name).write_text(text)
        run.put(tmp_path / name, name)
    assert main(["view", f"{place}/first", "--terminal"]) == 0
    assert "step 3  sums/train/3" in capsys.readouterr().out
    assert main(["view", f"{place}/first", "--export", str(tmp_path / "page.html")]) == 0
    assert "<title>Answers of first</title>" in (tmp_path / "page.html").read_text()
    assert main(["view", f"{place}/absent", "--terminal"]) == 2
    assert "RUN: must be a run with a config.yaml, got" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_refused_before_the_run(
    machines: tuple[Path, ...], tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    words = [*SMALL, f"policy.path={tiny_policy}", f"runs=file://{tmp_path}/file", "name=first"]
    assert main(["train", *words]) == 2
    assert "runs: must be a place that this user can write to, got" in capsys.readouterr().err


def test_the_page_of_one_run_lies_in_it_and_that_of_several_has_their_names() -> None:
    a, b, other = Path("runs/a"), Path("runs/b"), Path("elsewhere/b")
    assert default_output(["runs/a"], {"a": a}, None) == Path("runs/a/report.html")
    assert default_output([], {}, Path("runs/a/evaluations/x")) == Path("runs/a/evaluations/x/report.html")
    both = default_output(["runs/a", "runs/b"], {"a": a, "b": b}, None)
    assert both == Path("runs/report-a-b.html")
    apart = default_output(["runs/a", "elsewhere/b"], {"a": a, "b": other}, None)
    assert apart.parent == Path("runs") and apart.name.startswith("report-a-b-") and apart != both
    many = {f"run_{number}": Path(f"runs/run_{number}") for number in range(60)}
    fewer = dict(list(many.items())[:59])
    assert default_output([], many, None) != default_output([], fewer, None)
    assert len(default_output([], many, None).name) < 140
    remote = default_output(["s3://b/runs/a", "runs/b"], {"a": a, "b": b}, None)
    assert remote.parent == Path() and remote.name.startswith("report-a-b-")


@pytest.mark.parametrize(
    "pairs",
    [
        (("runs/a", "runs/b-c"), ("runs/a-b", "runs/c")),
        (("s3://one/runs/a", "s3://one/runs/b"), ("s3://two/runs/a", "s3://two/runs/b")),
    ],
)
def test_the_pages_of_other_runs_have_other_names(pairs: tuple[tuple[str, str], tuple[str, str]]) -> None:
    def page(given: tuple[str, str]) -> Path:
        places = [work_folder(run.rpartition("/")[0]) if "://" in run else Path("runs") for run in given]
        names = [run.rpartition("/")[2] for run in given]
        return default_output(given, {name: place / name for name, place in zip(names, places, strict=True)}, None)

    assert page(pairs[0]) != page(pairs[1])
    assert page(pairs[0]) == page(pairs[0]), "that of the same runs is replaced"
