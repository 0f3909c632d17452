"""Checkpoints are written whole or not at all; a broken one is reported and the one before it is used."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from objectives.coefficient.controllers import ObjectiveState
from objectives.coefficient.safe import SafeState
from orchestrator import checkpoint
from orchestrator.checkpoint import Writer, latest, prune, read
from orchestrator.checkpoint import find as find_checkpoint
from orchestrator.manifest import MANIFEST, BrokenCheckpoint
from orchestrator.state import Best, RunState

ROOT = Path(__file__).resolve().parents[2]
FILES = ("policy/model.safetensors", "policy/config.json", "optimizer/rank-00000-of-00001.safetensors", "state.json")


def state(step: int, **changes: Any) -> RunState:
    empty = RunState(
        step=step,
        position=0,
        trained=(),
        measured=True,
        objective=ObjectiveState(coefficients={}),
        drift={},
        wandb_id="",
        best=None,
    )
    return replace(empty, **changes)


async def save_learner(folder: str) -> None:
    for place, name in enumerate(FILES[:-1]):
        path = Path(folder) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([place]) * 100)


async def at_once() -> None:
    """The roles have written their files when `save_learner` returns."""


async def write(
    root: Path,
    state: RunState,
    save_roles: Callable[[str], Awaitable[None]],
    failed: Callable[[Exception], None] = pytest.fail,  # type: ignore[assignment]
) -> None:
    async with Writer(root, keep_last=99, failed=failed) as writer:
        await writer.begin(state, save_roles, at_once)


def save(root: Path, *steps: int, **changes: Any) -> Path:
    for step in steps:
        asyncio.run(write(root, state(step, **changes), save_learner))
    return root / f"step-{steps[-1]:06d}"


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


WHOLE = {
    "position": 1280,
    "trained": (1281, 1284),
    "measured": False,
    "objective": ObjectiveState(coefficients={"divergence": 0.1}, safe={"divergence": SafeState(rewards=(0.5, 1.0))}),
    "drift": {"slow": 0.02},
    "wandb_id": "1f0c22ab",
    "best": Best(step=20, value=0.41),
}
"""Every field of a state with a value of its own."""


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 40, **WHOLE)
    assert path == tmp_path / "checkpoints" / "step-000040"
    found = read(path)
    assert found.path == path
    assert found.policy == path / "policy"
    assert found.state == state(40, **WHOLE)
    assert names(tmp_path / "checkpoints") == ["step-000040"], "nothing is left beside it"


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_in_any_file_is_named_and_the_previous_checkpoint_is_used(name: str, tmp_path: Path) -> None:
    save(tmp_path, 10)
    broken = save(tmp_path, 20)
    flip_a_byte(broken / name)
    said: list[str] = []
    found = latest(tmp_path, said.append)
    assert found is not None and found.state == state(10)
    [line] = said
    assert str(broken) in line and name in line and "SHA-256" in line


def test_a_flipped_byte_anywhere_in_the_manifest_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path, 1) / MANIFEST
    whole = path.read_bytes()
    entries = json.loads(whole)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(BrokenCheckpoint, match="step-000001"):
            read(path.parent)
    path.write_bytes(whole)
    assert read(path.parent).state == state(1)
    assert set(entries) == set(FILES)


@pytest.mark.parametrize("manifest", ["", "{", "[]", "null", '"x"', "{}", "\xff", '{"policy/config.json": "00"}'])
def test_a_manifest_that_does_not_list_the_files_of_its_checkpoint_is_reported(manifest: str, tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / MANIFEST).write_text(manifest, encoding="latin-1")
    with pytest.raises(BrokenCheckpoint, match=rf"^checkpoint {path}: its {MANIFEST} "):
        read(path)


def test_a_truncated_manifest_is_reported(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text[: len(text) // 2])
    with pytest.raises(BrokenCheckpoint, match=rf"{MANIFEST} cannot be read"):
        read(path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / name).unlink()
    with pytest.raises(BrokenCheckpoint, match=rf"step-000001: {name} is missing$"):
        read(path)


def test_a_file_that_was_not_written_with_the_checkpoint_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "policy" / "model-00002.safetensors").write_bytes(b"of another run")
    with pytest.raises(BrokenCheckpoint, match=r"policy/model-00002\.safetensors is not in manifest\.json$"):
        read(path)


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch], ids=["an empty folder", "a file"])
def test_a_file_or_folder_with_the_name_of_a_checkpoint_that_is_none_is_reported_and_skipped(
    make: Any, tmp_path: Path
) -> None:
    save(tmp_path, 10)
    make(tmp_path / "step-000020")
    said: list[str] = []
    found = latest(tmp_path, said.append)
    assert found is not None and found.state == state(10)
    assert len(said) == 1 and "step-000020" in said[0]


def test_a_killed_writer_leaves_only_a_partial_folder_that_pruning_removes(tmp_path: Path) -> None:
    save(tmp_path, 10)

    async def killed(folder: str) -> None:
        await save_learner(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(write(tmp_path, state(20), killed))
    said: list[str] = []
    found = latest(tmp_path, said.append)
    assert found is not None and found.state == state(10)
    assert said == [], "what is half written is not taken for a broken checkpoint"
    [partial] = [name for name in names(tmp_path) if name != "step-000010"]
    assert partial.startswith(".step-000020.") and partial.endswith(".partial")
    prune(tmp_path, keep_last=1, best_step=None)
    assert names(tmp_path) == ["step-000010"]


def test_files_of_a_failed_write_are_not_in_the_next(tmp_path: Path) -> None:
    async def killed(folder: str) -> None:
        (Path(folder) / "leftover").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(write(tmp_path, state(20), killed))
    path = save(tmp_path, 20)
    assert not (path / "leftover").exists()
    assert read(path).state == state(20)
    assert names(tmp_path) == ["step-000020"]


def test_a_renamed_checkpoint_is_broken(tmp_path: Path) -> None:
    path = save(tmp_path, 20).rename(tmp_path / "step-000030")
    with pytest.raises(BrokenCheckpoint, match=r"step-000030: state\.json is that of step 20$"):
        read(path)


def test_the_same_step_written_again_replaces_the_first(tmp_path: Path) -> None:
    save(tmp_path, 20, position=1)
    (tmp_path / "step-000020" / "policy" / "old").touch()
    path = save(tmp_path, 20, position=2)
    assert read(path).state == state(20, position=2)
    assert names(tmp_path) == ["step-000020"]


@pytest.mark.parametrize(
    ("keep_last", "best_step", "kept"),
    [(2, None, [30, 40]), (1, 20, [20, 40]), (2, 30, [30, 40]), (9, 10, [10, 20, 30, 40]), (1, 25, [40])],
)
def test_pruning_keeps_the_newest_and_the_best(
    keep_last: int, best_step: int | None, kept: list[int], tmp_path: Path
) -> None:
    save(tmp_path, 10, 20, 30, 40)
    (tmp_path / "notes").mkdir()
    prune(tmp_path, keep_last, best_step)
    assert names(tmp_path) == ["notes", *(f"step-{step:06d}" for step in kept)]


def test_the_newest_is_found_by_number(tmp_path: Path) -> None:
    save(tmp_path, 9, 100, 20)
    found = latest(tmp_path, pytest.fail)
    assert found is not None and found.state == state(100)


def test_where_every_checkpoint_is_broken_none_is_found_and_resuming_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    for step in (10, 20):
        flip_a_byte(save(root, step) / "state.json")
    said: list[str] = []
    assert latest(root, said.append) is None
    assert [f"step-{step:06d}" in line for step, line in zip((20, 10), said, strict=True)] == [True, True]
    with pytest.raises(ValueError, match=r"^checkpoints: at least one must be whole, got only broken ones"):
        find_checkpoint(tmp_path, said.append)


def test_without_checkpoints_there_is_none_and_without_a_run_resuming_is_refused(tmp_path: Path) -> None:
    assert latest(tmp_path / "nowhere", pytest.fail) is None
    assert find_checkpoint(tmp_path, pytest.fail) is None, "the run was killed before its first checkpoint"
    shutil.rmtree(tmp_path)
    with pytest.raises(ValueError, match=r"^name: must be an existing run to resume"):
        find_checkpoint(tmp_path, pytest.fail)


def test_training_goes_on_while_a_checkpoint_is_written_and_the_next_waits(tmp_path: Path) -> None:
    async def run() -> None:
        written = asyncio.Event()
        async with Writer(tmp_path, keep_last=1, failed=pytest.fail) as writer:
            await writer.begin(state(10), save_learner, at_once)
            await writer.begin(state(20), save_learner, lambda: event(written))  # type: ignore[arg-type]
            assert [name for name in names(tmp_path) if "partial" not in name] == ["step-000010"]
            third = asyncio.create_task(writer.begin(state(30), save_learner, at_once))
            await asyncio.sleep(0.05)
            assert not third.done() and not any("000030" in name for name in names(tmp_path))
            written.set()
            await third
            assert read(tmp_path / "step-000020").state == state(20)
        assert names(tmp_path) == ["step-000030"], "the end waits for the last one, and old ones are removed"

    async def event(written: asyncio.Event) -> None:
        await written.wait()

    asyncio.run(asyncio.wait_for(run(), 15))


def test_hashing_flushing_and_pruning_run_off_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def noting(name: str) -> Callable[..., None]:
        function = getattr(checkpoint, name)

        def noted(*arguments: Any) -> None:
            threads.append(threading.get_ident())
            function(*arguments)

        return noted

    for name in ("write_manifest", "finish_folder", "prune"):
        monkeypatch.setattr(checkpoint, name, noting(name))
    save(tmp_path, 10)
    assert len(threads) == 3 and threading.get_ident() not in threads


def test_a_checkpoint_that_cannot_be_written_is_an_error_at_once_and_the_one_before_stays(tmp_path: Path) -> None:
    async def full() -> None:
        raise OSError("no space left on device")

    async def run() -> None:
        failures: list[Exception] = []
        async with Writer(tmp_path, keep_last=1, failed=failures.append) as writer:
            await writer.begin(state(10), save_learner, at_once)
            await writer.begin(state(20), save_learner, full)
            while not failures:
                await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match=r"step-0000[24]0 could not be written: no space"):
                writer.check()
            with pytest.raises(RuntimeError, match=r"step-0000[24]0 could not be written: no space"):
                await writer.begin(state(30), save_learner, at_once)
        with pytest.raises(RuntimeError, match=r"step-0000[24]0 could not be written: no space"):
            async with Writer(tmp_path, keep_last=1, failed=failures.append) as writer:
                await writer.begin(state(40), save_learner, full)

    asyncio.run(asyncio.wait_for(run(), 15))
    found = latest(tmp_path, pytest.fail)
    assert found is not None and found.state == state(10)


@pytest.mark.parametrize(
    ("written", "missing"),
    [
        ((), "optimizer/rank-00000-of-00001.safetensors"),
        (("optimizer/rank-00001-of-00002.safetensors",), "optimizer/rank-00000-of-00002.safetensors"),
        (("optimizer/rank-00000-of-00001.safetensors",), "policy/model.safetensors"),
        (
            ("optimizer/rank-00000-of-00001.safetensors", "policy/model-00002-of-00002.safetensors"),
            "policy/model.safetensors.index.json",
        ),
    ],
)
def test_a_checkpoint_without_the_files_of_a_node_that_does_not_share_the_folder_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: tuple[str, ...], missing: str
) -> None:
    monkeypatch.setattr(checkpoint, "SEEN_S", 0.1)

    async def elsewhere(folder: str) -> None:
        for name in written:
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).touch()

    save(tmp_path, 10)
    rule = rf"step-000020 could not be written: {missing} is not on \S+; all nodes must share the run directory"
    with pytest.raises(RuntimeError, match=rule):
        asyncio.run(write(tmp_path, state(20), elsewhere, failed=lambda error: None))
    found = latest(tmp_path, pytest.fail)
    assert found is not None and found.state == state(10)


def test_the_files_of_another_node_are_waited_for(tmp_path: Path) -> None:
    late: list[threading.Timer] = []

    async def save_late(folder: str) -> None:
        late.append(threading.Timer(0.4, lambda: asyncio.run(save_learner(folder))))
        late[0].start()

    asyncio.run(write(tmp_path, state(10), save_late))
    assert read(tmp_path / "step-000010").state == state(10)


def test_an_error_of_the_run_waits_for_the_checkpoint_and_a_cancellation_does_not(tmp_path: Path) -> None:
    async def later() -> None:
        await asyncio.sleep(0.05)

    async def never() -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        with pytest.raises(RuntimeError, match="diverged"):
            async with Writer(tmp_path, keep_last=1, failed=pytest.fail) as writer:
                await writer.begin(state(10), save_learner, later)
                raise RuntimeError("diverged")
        with pytest.raises(KeyboardInterrupt):
            async with Writer(tmp_path, keep_last=1, failed=pytest.fail) as writer:
                await writer.begin(state(20), save_learner, never)
                raise KeyboardInterrupt

    asyncio.run(asyncio.wait_for(run(), 15))
    found = latest(tmp_path, pytest.fail)
    assert found is not None and found.state == state(10)


def test_a_process_killed_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, signal, sys; from pathlib import Path\n"
        "from orchestrator.checkpoint import Writer; from tests.orchestrator import test_checkpoint as t\n"
        "async def killed(): os.kill(os.getpid(), signal.SIGKILL)\n"
        "async def run():\n"
        "    writer = Writer(Path(sys.argv[1]), keep_last=1, failed=print)\n"
        "    await writer.begin(t.state(10), t.save_learner, t.at_once)\n"
        "    await writer.begin(t.state(20), t.save_learner, killed)\n"
        "    await writer.finish()\n"
        "asyncio.run(run())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL
    found = latest(tmp_path, pytest.fail)
    assert found is not None and found.state == state(10) and len(names(tmp_path)) == 2
    save(tmp_path, 20)
    prune(tmp_path, keep_last=1, best_step=None)
    assert names(tmp_path) == ["step-000020"], "what the killed one left is gone"


def test_an_initial_state_without_wandb_id_and_best_is_read_back() -> None:
    initial = state(0, wandb_id=None)
    assert RunState.from_json(initial.to_json()) == initial


SAVED = json.loads(state(20, **WHOLE).to_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        (
            "[]",
            "must be an object with the keys step, position, trained, measured, objective, drift, wandb_id, best, got ",
        ),
        (json.dumps({k: v for k, v in SAVED.items() if k != "drift"}), "must be an object with the keys step"),
        (json.dumps(SAVED | {"epoch": 1}), "must be an object with the keys step"),
        (json.dumps(SAVED | {"step": -1}), "step: must be an integer of at least 0, got -1"),
        (json.dumps(SAVED | {"step": True}), "step: must be an integer of at least 0, got True"),
        (json.dumps(SAVED | {"position": 1.5}), "position: must be an integer of at least 0, got 1.5"),
        (json.dumps(SAVED | {"trained": [3, -1]}), r"trained: must be a list of integers of at least 0, got \[3, -1\]"),
        (json.dumps(SAVED | {"measured": 1}), "measured: must be true or false, got 1"),
        (json.dumps(SAVED | {"drift": {"slow": None}}), "drift: must be an object of numbers, got "),
        (json.dumps(SAVED | {"wandb_id": 7}), "wandb_id: must be a string or null, got 7"),
        (json.dumps(SAVED | {"best": {"step": 1}}), "best: must be null, or an integer step and a value, got "),
        (json.dumps(SAVED | {"best": {}}), "best: must be null, or an integer step and a value, got {}"),
        ("[" * 100_000, "must be JSON, nested less deeply, got "),
        (
            json.dumps(SAVED | {"objective": SAVED["objective"] | {"coefficients": {"divergence": "x"}}}),
            "objective: must have numbers as coefficients, got ",
        ),
        (json.dumps(SAVED | {"best": "x"}), "best: must be null, or an integer step and a value, got 'x'"),
        (json.dumps(SAVED | {"objective": {}}), r"objective: must be a saved ObjectiveState \(KeyError"),
        (json.dumps(SAVED | {"objective": None}), r"objective: must be a saved ObjectiveState \(TypeError"),
    ],
)
def test_a_malformed_state_is_named_by_its_field_and_the_previous_checkpoint_is_used(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        RunState.from_json(text)
    save(tmp_path, 10)
    monkeypatch.setattr(RunState, "to_json", lambda state: text)
    broken = save(tmp_path, 20)
    said: list[str] = []
    found = latest(tmp_path, said.append)
    assert found is not None and found.state == state(10)
    [line] = said
    assert line.startswith(f"checkpoint {broken}: state.json is malformed: ") and line.endswith("the one before it")
