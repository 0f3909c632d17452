"""A run in one process whose generators are lost: the same groups, seeds and numbers as without a loss."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.generation.transformers_engine import TransformersEngine
from actors.local import LocalGenerator
from actors.presence import RoleLost
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.orchestrator.in_process import config
from trajectories.trajectory import Group

STEPS = 3
POLICY = Path(__file__).resolve().parents[3] / "tasks" / "base_policies" / "countdown"
"""A policy that solves some problems, so that every step changes its weights."""
WORDS = (
    f"steps={STEPS}", "groups_per_step=4", "sampling.group_size=3", "monitor.every=2", "monitor.answers=2",
    "monitor.ks=[1,2]", "sampling.max_new_tokens=16", "placement.restart_delay_s=0", "method=grpo",
)  # fmt: skip
TIMED = ("system/", "time", "tokens_per_second", "seconds/", "grader/", "restarts/")
Fault = Callable[[pytest.MonkeyPatch], None]


def engine_ends(*at: int) -> Fault:
    """The engines' decoding steps of these numbers raise, counted over all engines."""

    def install(patch: pytest.MonkeyPatch) -> None:
        step, count = TransformersEngine.step, 0

        def failing(engine: TransformersEngine) -> Any:
            nonlocal count
            count += 1
            if count in at:
                raise MemoryError("out of memory")
            return step(engine)

        patch.setattr(TransformersEngine, "step", failing)

    return install


def lost_while_publishing(version: int) -> Fault:
    """The last generator is lost once, when it gets this version."""

    def install(patch: pytest.MonkeyPatch) -> None:
        update, lost = LocalGenerator.update_weights, set[int]()

        async def failing(generator: LocalGenerator, weights: Any) -> int:
            if weights.version == version and not lost and generator.name != "generator 0":
                lost.add(version)
                raise RoleLost(f"{generator.name}: its process died before update_weights ended")
            return await update(generator, weights)

        patch.setattr(LocalGenerator, "update_weights", failing)

    return install


def train(
    runs: Path, name: str, words: tuple[str, ...], fault: Fault | None = None
) -> tuple[list[dict[str, Any]], dict[str, Group], list[dict[str, Any]]]:
    """Return the records without times, all groups by key, and the events of the generators of one run."""
    groups: dict[str, Group] = {}
    with pytest.MonkeyPatch.context() as patch:
        complete = Rollouts._complete

        def noting(rollouts: Rollouts, key: str, graded: Any) -> None:
            done = rollouts._pending[key].done
            complete(rollouts, key, graded)
            if done.done():
                assert key not in groups or not key.startswith("train/"), f"{key} was used twice"
                groups[key] = done.result()

        patch.setattr(Rollouts, "_complete", noting)
        if fault is not None:
            fault(patch)
        cfg = config(POLICY, runs, f"name={name}", *WORDS, *words)
        run_dir = asyncio.run(run_training(cfg, resume=False, log=lambda line: None))
    records = read_records(run_dir / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(STEPS + 1))
    assert all(record["grad_norm"] > 0 for record in records[1:])
    kept = [{k: v for k, v in record.items() if not k.startswith(TIMED)} for record in records]
    events = map(json.loads, (run_dir / "events.jsonl").read_text().splitlines())
    lost = [event for event in events if event["title"].startswith("generator ")]
    restarts = [record.get("restarts/generator") for record in records]
    return kept, groups, [*lost, {"restarts": restarts[-1]}]


def same(first: dict[str, Group], second: dict[str, Group]) -> None:
    assert first.keys() == second.keys()
    for key, group in first.items():
        for mine, theirs in zip(group.trajectories, second[key].trajectories, strict=True):
            assert (mine.seed, mine.text, mine.first_version) == (theirs.seed, theirs.text, theirs.first_version)
            assert mine.tokens.tobytes() == theirs.tokens.tobytes()
            assert mine.logp_sampler.tobytes() == theirs.logp_sampler.tobytes()


@pytest.mark.parametrize("generators", [1, 2])
def test_a_generator_that_ends_while_it_generates_changes_no_bit_of_the_run(tmp_path: Path, generators: int) -> None:
    words = (f"placement.generators={generators}",)
    expected, groups, _ = train(tmp_path, "whole", words)
    # The third step of the first answers, and one of a later step.
    found, healed, events = train(tmp_path, "healed", words, engine_ends(3, 17))
    assert found == expected
    same(healed, groups)
    titles = [event["title"] for event in events[:-1]]
    assert [title.partition(" ")[2].partition(" ")[2] for title in titles] == ["was lost", "is back"] * 2
    assert [event["level"] for event in events[:-1]] == ["alert", "info"] * 2
    assert events[-1] == {"restarts": 2}
    assert "MemoryError('out of memory')" in events[0]["text"] and "\n" not in events[0]["text"]


@pytest.mark.parametrize("version", [0, 2])
def test_a_generator_that_is_lost_during_a_publication_gets_the_weights_when_it_is_back(
    tmp_path: Path, version: int
) -> None:
    words = ("placement.generators=2",)
    expected, groups, _ = train(tmp_path, "whole", words)
    found, healed, events = train(tmp_path, "healed", words, lost_while_publishing(version))
    assert found == expected
    same(healed, groups)
    assert events[0]["title"] == "generator 1 was lost" and events[-1] == {"restarts": 1}
