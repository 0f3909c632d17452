"""The driver's event loop goes on while a step's batch is packed, credited, planned and merged."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import actors.learning.rank_parts
import actors.local
import orchestrator.references
import orchestrator.train
import orchestrator.watch.monitor
from orchestrator.heldout.cache import MeasurementCache
from orchestrator.start import run_training
from orchestrator.train import Run
from orchestrator.watch.logbook import Logbook
from tests.orchestrator.in_process import config

WORK: tuple[tuple[Any, str], ...] = (
    (orchestrator.train, "pack"),
    (orchestrator.train, "credit"),
    (orchestrator.references, "reference_power"),
    (actors.learning.rank_parts, "divide"),
    (actors.learning.rank_parts, "deal"),
    (actors.local, "merge_columns"),
    (Run, "_advance"),
    (orchestrator.watch.monitor, "measure"),
    (orchestrator.watch.monitor.Monitor, "_summary"),
    (orchestrator.train, "group_metrics"),
    (orchestrator.watch.monitor, "MeasurementCache"),
    (MeasurementCache, "read"),
    (MeasurementCache, "write"),
    (Logbook, "measurement"),
    (Logbook, "trajectories"),
)
"""Functions that take long where a batch, or the policy's files, are large, and the owner whose name the step reads."""
GOES_ON_S = 10.0
"""Longest time in seconds in which an event loop that is not blocked runs a callback."""


def test_the_event_loop_goes_on_during_all_work_on_whole_batches(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    done: set[str] = set()

    def gated(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            goes_on = threading.Event()
            loops[0].call_soon_threadsafe(goes_on.set)
            assert goes_on.wait(GOES_ON_S), f"{name} blocks the event loop"
            done.add(name)
            return function(*arguments, **options)

        return call

    for owner, name in WORK:
        monkeypatch.setattr(owner, name, gated(name, getattr(owner, name)))
    cfg = config(
        tiny_policy,
        tmp_path,
        *(
            "name=a",
            "steps=1",
            "monitor.every=1",
            "monitor.answers=4",
            "monitor.ks=[1,4]",
            "learner.updates_per_batch=2",
        ),
        *("method=rapo", "objective.old_policy=learner", "groups_per_step=2", "sampling.group_size=4"),
    )

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        await run_training(cfg, resume=False, log=lambda text: None)

    asyncio.run(run())
    assert done == {name for _, name in WORK}
