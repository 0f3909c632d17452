"""A run whose learner does not share the run directory with the driver is refused at its start."""

import asyncio
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from actors.ray_shells import RoleShell
from actors.remote import Handle
from actors.remote_reference import RemoteReference
from configs.config import Config
from configs.load import load
from configs.references import ReferenceConfig
from orchestrator.cluster import Roles
from orchestrator.commands.paths import absolute
from orchestrator.recovery import shared_folder
from orchestrator.recovery.shared_folder import _writers, check_shared
from orchestrator.start import run_training


@pytest.fixture
def own_folder(tmp_path: Path) -> Iterator[Path]:
    """A path that leads into `tmp_path` in this process alone, as the path of a folder that no other node shares."""
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield Path(f"/proc/self/fd/{descriptor}/runs")
    os.close(descriptor)


def reads(*arguments: Any) -> tuple[str, bool]:
    return asyncio.run(RoleShell.reads(SimpleNamespace(), *arguments))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def ranks() -> Iterator[list[Handle]]:
    """Two learner ranks that look for files in another process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:

        def remote(*arguments: Any) -> Any:
            return asyncio.wrap_future(other.submit(reads, *arguments))

        yield [Handle(SimpleNamespace(reads=SimpleNamespace(remote=remote)), f"learner {i}", 5.0) for i in range(2)]


def test_a_folder_that_all_ranks_see_is_accepted_and_nothing_stays_in_it(tmp_path: Path, ranks: list[Handle]) -> None:
    asyncio.run(check_shared(tmp_path, Roles(Config(), [], "", ranks=ranks)))
    assert os.listdir(tmp_path) == []


def test_a_folder_that_a_rank_does_not_see_is_refused_with_the_run_directory_and_the_node(
    tmp_path: Path, own_folder: Path, ranks: list[Handle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_folder, "SEEN_S", 0.1)
    (own_folder / "a").mkdir(parents=True)
    rule = rf"^runs: must be a folder that all nodes share, got '{own_folder}': learner 0 on \S+ does not see what the"
    with pytest.raises(ValueError, match=rule):
        asyncio.run(check_shared(own_folder / "a", Roles(Config(), [], "", ranks=ranks)))
    assert os.listdir(own_folder / "a") == []


@pytest.mark.ray
def test_a_learner_that_does_not_see_the_run_directory_is_refused_before_a_step(
    tmp_path: Path, own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_folder, "SEEN_S", 0.5)
    words = ["placement.kind=ray", "generator.engine=transformers", "monitor.every=0", "logbook.console=false"]
    cfg = absolute(load([*words, "task.heldout_prompts=4", "steps=1", "name=a", f"runs={own_folder}"]))
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        rule = rf"^runs: must be a folder that all nodes share, got '{own_folder}': learner 0 on \S+ does not see"
        with pytest.raises(ValueError, match=rule):
            asyncio.run(run_training(cfg, resume=False, log=lambda line: None))
    finally:
        ray.shutdown()
    assert os.listdir(tmp_path / "runs") == [], "the name can be used again"


def test_references_write_checkpoints_if_one_of_them_moves() -> None:
    learner, reference = (Handle(None, name, 1.0) for name in ("learner 0", "reference 0"))
    references = RemoteReference([reference], 1.0)
    fixed = Roles(Config(), [], "", ranks=[learner], reference_actors=references)
    assert _writers(fixed) == [learner]
    moving = replace(Config(), references={"slow": ReferenceConfig(update="periodic")})
    assert _writers(replace(fixed, cfg=moving)) == [learner, reference]
