"""Roles of a run over Ray that are killed (SIGKILL) or stopped (SIGSTOP), and a node that is lost and comes back."""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from actors.remote import RemoteGenerator
from configs.config import Config
from configs.load import load
from orchestrator import cluster
from orchestrator.commands.paths import absolute
from orchestrator.recovery.ledger import account, read
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timed]

WORDS = (
    "groups_per_step=4", "sampling.group_size=4", "monitor.every=0", "task.heldout_prompts=4", "logbook.console=false",
    "placement.heartbeat_s=8", "placement.restart_delay_s=0.1",
    *(f"placement.threads_per_{role}=1" for role in ("generator", "learner", "reference")),
)  # fmt: skip
TIMED = ("time", "tokens_per_second", "seconds/", "grader/", "restarts/", "system/")
KILL, STOP = signal.SIGKILL, signal.SIGSTOP
LONG_S = 280.0


@pytest.fixture
def one_node() -> Iterator[None]:
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def config(runs: Path, *words: str) -> Config:
    return absolute(load([*WORDS, f"runs={runs}", *words]))


def process_of(roles: cluster.Roles, name: str) -> tuple[str, int]:
    """The node and the process id of an actor."""
    [handle] = [handle for handle in roles.handles if handle.name == name]
    assert handle._process is not None
    return handle._process[:2]


Act = Callable[[cluster.Roles, int], bool]
"""Called again and again with the roles and the number of finished steps. Returns whether the run may end."""


def train(cfg: Config, act: Act | None = None) -> list[dict[str, Any]]:
    """Train, and do what `act` does. Return the records; no group may be lost or used twice."""
    roles: list[cluster.Roles] = []
    path = Path(cfg.runs) / cfg.name / "metrics.jsonl"
    keys: list[str] = []

    async def acting() -> None:
        running = asyncio.ensure_future(run_training(cfg, resume=False, log=lambda line: None))
        ready = act is None
        while not running.done() and not (ready and act is not None and cfg.steps > 1_000):
            await asyncio.sleep(0.02)
            records = read_records(path)
            if act is not None and records:
                ready = act(roles[-1], records[-1]["step"])
        assert ready or act is None, "the run ended before"
        if not running.done():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        else:
            await running

    with pytest.MonkeyPatch.context() as patch:
        create, complete = cluster.create, Rollouts._complete

        def creating(*arguments: Any, **more: Any) -> cluster.Roles:
            roles.append(create(*arguments, **more))
            return roles[-1]

        def completing(rollouts: Rollouts, key: str, graded: Any) -> None:
            complete(rollouts, key, graded)
            if key not in rollouts._pending:
                keys.append(key)

        patch.setattr(cluster, "create", creating)
        patch.setattr(Rollouts, "_complete", completing)
        asyncio.run(asyncio.wait_for(acting(), LONG_S))
    trained = [key for key in keys if key.startswith("train/")]
    assert len(trained) == len(set(trained))
    assert not ray.util.list_named_actors(all_namespaces=True)
    records = read_records(path)
    assert [record["step"] for record in records] == list(range(1, len(records) + 1))
    assert cfg.steps > 1_000 or len(records) == cfg.steps
    assert account(read(path.parent), ended=len(records) == cfg.steps).problems == []
    return records


def injected(*faults: tuple[str, int, signal.Signals]) -> Act:
    """Send each role its signal after the step given."""
    done: set[int] = set()

    def act(roles: cluster.Roles, step: int) -> bool:
        for number, (name, after, sent) in enumerate(faults):
            if step >= after and number not in done:
                done.add(number)
                os.kill(process_of(roles, name)[1], sent)
        return len(done) == len(faults)

    return act


def events(cfg: Config) -> list[dict[str, Any]]:
    """The events of the roles that were lost or are back."""
    lines = (Path(cfg.runs) / cfg.name / "events.jsonl").read_text().splitlines()
    return [
        event for event in map(json.loads, lines) if event["title"].startswith(("generator ", "grader ", "reference "))
    ]


def numbers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if not k.startswith(TIMED)} for record in records]


def test_roles_that_are_killed_or_stopped_are_started_again_and_the_run_is_the_same_bit_for_bit(
    tmp_path: Path, one_node: None
) -> None:
    words = (
        "generator.engine=transformers", "method=grpo_adaptive_kl", "steps=6", "placement.generators=2",
        "references.slow={update: periodic, mixing_weight: 0.5}",
        "objective.terms.near={name: reverse_kl, anchor: slow, estimator: k2, coefficient: {value: 0.1}}",
    )  # fmt: skip
    whole = train(config(tmp_path, "name=whole", *words))
    faults = injected(
        ("generator 1", 1, KILL), ("grader 0", 2, KILL), ("reference 0", 2, KILL), ("generator 0", 3, STOP),
        ("grader 0", 4, STOP), ("reference 0", 4, STOP),
    )  # fmt: skip
    cfg = config(tmp_path, "name=healed", *words)
    healed = train(cfg, faults)
    pairs = zip(numbers(healed), numbers(whole), strict=True)
    differ = [(a["step"], key, a.get(key), b.get(key)) for a, b in pairs for key in a | b if a.get(key) != b.get(key)]
    assert differ == []
    assert [healed[-1][f"restarts/{role}"] for role in ("generator", "grader", "reference")] == [2, 2, 2]
    for event in events(cfg):
        assert "\n" not in event["text"] and len(event["text"]) < 300, event


def test_vllm_engines_that_die_while_they_generate_ahead_and_during_a_publication_are_replaced(
    tmp_path: Path, one_node: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, killed = RemoteGenerator.update_weights, list[str]()

    async def dying(generator: RemoteGenerator, weights: Any) -> int:
        if weights.version == 3 and not killed:
            killed.append(generator.name)
            assert generator._process is not None
            os.kill(generator._process[1], KILL)
        return await update(generator, weights)

    monkeypatch.setattr(RemoteGenerator, "update_weights", dying)
    words = ("generator.engine=vllm", "steps=6", "lag=2", "take=any_order", "placement.generators=2")
    cfg = config(tmp_path, "name=ahead", *words)
    assert cfg.binds_late
    records = train(cfg, injected(("generator 1", 1, KILL)))
    assert killed and records[-1]["restarts/generator"] + records[-1]["restarts/generator/absent"] == 2
    # Steps without a gradient have no value. An engine without the published weights would be several nats away.
    found = [record["mismatch_abs_log_ratio"] for record in records if "mismatch_abs_log_ratio" in record]
    assert found and max(found) < 1.0
    assert max(record["staleness_max"] for record in records) <= 2


def test_a_run_goes_on_without_the_generator_of_a_lost_node_and_takes_it_back_when_there_is_a_node_again(
    tmp_path: Path,
) -> None:
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
    try:
        other = nodes.add_node(num_cpus=1)  # one generator, and nothing else that a run cannot lose
        ray.init(address=nodes.address, log_to_driver=False)
        words = (
            "generator.engine=transformers", "steps=100000", "placement.generators=2", "placement.cpus_per_learner=1.5",
        )  # fmt: skip
        cfg = config(tmp_path, "name=nodes", "placement.start_timeout_s=45", *words)
        titles: list[str] = []
        stage, back_at = "", 0

        def act(roles: cluster.Roles, step: int) -> bool:
            nonlocal stage, back_at
            titles[:] = [event["title"].partition(" ")[2].partition(" ")[2] for event in events(cfg)]
            if not stage and step >= 1:
                where = {
                    name: process_of(roles, name)[0] for name in ("learner 0", "generator 0", "generator 1", "grader 0")
                }
                assert [list(where.values()).count(node) for node in set(where.values())] in ([1, 3], [3, 1]), where
                nodes.remove_node(other, allow_graceful=False)
                stage = "lost"
            elif stage == "lost" and "is left out" in titles:
                nodes.add_node(num_cpus=1)
                stage = "added"
            elif stage == "added" and "is back" in titles:
                stage, back_at = "back", step
            return stage == "back" and step >= back_at + 2

        records = train(cfg, act)
        assert max(record["restarts/generator/absent"] for record in records) == 1
        assert records[-1]["restarts/generator/absent"] == 0
    finally:
        ray.shutdown()
        nodes.shutdown()
