"""Runs with a lag: groups in any order, measurements beside training, and what a resumed run does about both."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from configs.load import load
from objectives.diagnostics import Stats
from orchestrator.rollout.collector import Collector
from orchestrator.rollout.window import Slot
from orchestrator.train import Run
from orchestrator.watch import monitor
from orchestrator.watch.bootstrap import Interval
from orchestrator.watch.logbook import measurement_path, read_records
from orchestrator.watch.measurement import Measurement
from tests.orchestrator.test_train import config, stop_after, train
from trajectories.batch import Batch
from trajectories.trajectory import Group

ANY_ORDER = ("lag=2", "take=any_order")
ALL_ANSWERS = ("logbook.trajectories_every=1", "logbook.trajectories=1000")
MEASURED = ("monitor.every=2", "monitor.frontier=[]", "monitor.kl_to_base=false")


class Crash(Exception):
    """Ends a run without a checkpoint."""


def crash_in(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """End the run in this step, after its update."""
    advance = Run.advance

    async def crashing(run: Run, batch: Batch, stats: Stats) -> None:
        await advance(run, batch, stats)
        if run.step == step:
            raise Crash

    monkeypatch.setattr(Run, "advance", crashing)


def places(run_dir: Path) -> dict[int, set[int]]:
    """Return the positions that each step trained on."""
    found: dict[int, set[int]] = {}
    for row in read_records(run_dir / "trajectories.jsonl"):
        found.setdefault(row["step"], set()).add(int(row["prompt_id"].rsplit("/", 1)[1]))
    return found


@pytest.mark.parametrize("order", [("lag=2",), ANY_ORDER], ids=["fifo", "any order"])
def test_a_run_that_crashes_and_is_resumed_trains_on_every_position_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Sequence[str]
) -> None:
    cfg = config(tmp_path, "steps=7", "name=r", "checkpoint.every=2", *order, *ALL_ANSWERS)
    with monkeypatch.context() as patch:
        crash_in(patch, step=5)
        with pytest.raises(Crash):
            train(cfg)
    records = train(cfg, resume=True)
    assert [record["step"] for record in records] == list(range(1, 8))
    assert max(record["staleness_max"] for record in records) <= 2
    trained = places(tmp_path / "r")
    assert [len(found) for _, found in sorted(trained.items())] == [4] * 7
    assert set().union(*trained.values()) == set(range(7 * 4))


def test_a_group_that_is_passed_twice_is_in_the_ledger_and_is_trained_on_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(tmp_path, "steps=5", "name=r", *ANY_ORDER, *ALL_ANSWERS)
    receive = Collector._receive

    async def receiving(self: Collector, slot: Slot, future: asyncio.Future[Group]) -> None:
        if slot.position != 1:  # its answers take until the run is stopped
            await receive(self, slot, future)

    with monkeypatch.context() as patch:
        patch.setattr(Collector, "_receive", receiving)
        stop_after(patch, step=2)
        train(cfg)
    state = json.loads((tmp_path / "r" / "checkpoints" / "step-000002" / "state.json").read_text())
    done = set(range(state["position"])) | set(state["trained"])
    assert state["position"] <= 1 and len(done) == 8 and 1 not in done
    train(cfg, resume=True)
    trained = places(tmp_path / "r")
    assert trained[1] | trained[2] == done
    assert 1 in trained[3], "the oldest is admitted first, and is complete"
    assert sorted(place for of_step in trained.values() for place in of_step) == list(range(5 * 4))


def test_a_lag_below_two_is_refused_for_any_order() -> None:
    with pytest.raises(ValueError, match=r"^lag: must be at least 2 with take=any_order, got 1"):
        load(["lag=1", "take=any_order"])
    assert load(["lag=2", "take=any_order", "groups_per_step=8"]).window_slots == 16
    assert load(["lag=2", "groups_per_step=8"]).window_slots == 24


def versions_measured(monkeypatch: pytest.MonkeyPatch) -> dict[int, set[int]]:
    """Return a dict that receives the weight versions of the answers of each measurement, by step."""
    found: dict[int, set[int]] = {}
    measure = monitor.measure

    def noting(groups: Sequence[Group], name: str, step: int, *more: Any) -> Measurement:
        answers = [t for group in groups for t in group.trajectories]
        found[step] = {version for t in answers for version in (t.first_version, t.last_version)}
        return measure(groups, name, step, *more)

    monkeypatch.setattr(monitor, "measure", noting)
    return found


def test_a_measurement_beside_training_is_of_the_weights_of_its_step_and_stands_in_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = versions_measured(monkeypatch)
    learning: list[tuple[int, bool]] = []
    advance = Run.advance

    async def noting(run: Run, batch: Batch, stats: Stats) -> None:
        learning.append((run.step + 1, run.monitor.begun))
        await advance(run, batch, stats)

    monkeypatch.setattr(Run, "advance", noting)
    records = train(config(tmp_path, "steps=6", "lag=1", "name=r", *MEASURED))
    assert found == {0: {0}, 2: {2}, 4: {4}, 6: {6}}
    assert [step for step, begun in learning if begun] == [3, 5], "not finished when the next update was"
    assert [record["step"] for record in records if "heldout/pass@1" in record] == [0, 2, 4, 6]
    assert [record["step"] for record in records] == list(range(7))


def measure_pass_at_1(monkeypatch: pytest.MonkeyPatch, values: dict[int, float]) -> None:
    """Replace the measured Pass@1 by these values, by step."""
    measure = monitor.Monitor.measure

    async def given(self: monitor.Monitor, step: int) -> tuple[dict[str, Interval], Measurement]:
        summary, measurement = await measure(self, step)
        return summary | {"pass@1": Interval(value=values[step], low=0.0, high=1.0, prompts=4)}, measurement

    monkeypatch.setattr(monitor.Monitor, "measure", given)


def test_a_stop_rule_ends_a_run_with_a_lag_one_step_after_the_measured_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_pass_at_1(monkeypatch, {0: 0.5, 2: 0.1})
    records = train(config(tmp_path, "steps=50", "lag=1", "name=s", *MEASURED, 'monitor.stop_if=["pass@1 < 0.3"]'))
    assert records[-1]["step"] == 3
    assert [record["step"] for record in records if "heldout/pass@1" in record] == [0, 2]
    assert (tmp_path / "s" / "checkpoints" / "step-000003").is_dir()


def test_the_best_policy_of_a_run_with_a_lag_has_the_checkpoint_of_its_own_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_pass_at_1(monkeypatch, {0: 0.1, 2: 0.2, 4: 0.4, 6: 0.3, 7: 0.3})
    train(config(tmp_path, "steps=7", "lag=1", "name=b", *MEASURED, "checkpoint.every=0", "checkpoint.keep_last=1"))
    kept = {path.name for path in (tmp_path / "b" / "checkpoints").glob("step-*")}
    assert kept == {"step-000004", "step-000007"}
    state = json.loads((tmp_path / "b" / "checkpoints" / "step-000007" / "state.json").read_text())
    assert state["best"] == {"step": 4, "value": 0.4}


def test_a_measurement_that_was_in_progress_when_a_run_crashed_is_made_after_the_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config(tmp_path, "steps=4", "lag=1", "name=r", *MEASURED)
    with monkeypatch.context() as patch:
        crash_in(patch, step=3)
        with pytest.raises(Crash):
            train(cfg)
    assert not measurement_path(tmp_path / "r", 2).exists()
    state = json.loads((tmp_path / "r" / "checkpoints" / "step-000002" / "state.json").read_text())
    assert not state["measured"]
    found = versions_measured(monkeypatch)
    records = train(cfg, resume=True)
    assert found == {2: {2}, 4: {4}}
    assert [record["step"] for record in records if "heldout/pass@1" in record] == [0, 2, 4]
