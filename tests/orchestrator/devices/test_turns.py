"""Engines that sleep while learner and references compute: who has the GPU's memory when, also in the whole loop."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from actors.generation.transformers_engine import TransformersEngine, TransformersGenerator
from actors.local import LocalGenerator, LocalLearner
from actors.presence import RoleLost
from configs.load import load
from orchestrator import in_process
from orchestrator.cluster import Roles
from orchestrator.devices.turns import Turns
from orchestrator.placement import takes_turns
from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.actors.learning.learner_ranks import COEFFICIENTS, batch_of, joined
from tests.actors.weights.test_joining import LONG_S, learner_of, serves
from tests.actors.weights.test_shared_memory import generator_of
from tests.orchestrator.in_process import config

GPU, WEIGHTS, CACHE, STATES, WORK, BUFFER = 80, 15, 45, 15, 50, 2
"""Gigabytes of a GPU, of an engine's weights and cache, and of a learner: its states, an update, a publication."""


class Gpu:
    """A ledger of one GPU's memory, and what happened on it."""

    def __init__(self) -> None:
        self.used = {"states": STATES, "weights": WEIGHTS, "cache": CACHE}
        self.events: list[str] = []

    def take(self, name: str, amount: int) -> None:
        self.used[name] = amount
        assert sum(self.used.values()) <= GPU, f"out of memory: {self.used}"

    def give(self, name: str) -> None:
        self.used.pop(name, None)


class Engine:
    """A generator on the GPU whose answers finish only when the test says so."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.unfinished = gpu, 0

    async def submit(self, jobs: list[str]) -> None:
        assert {"weights", "cache"} <= self.gpu.used.keys(), "jobs are submitted to an engine that is awake"
        self.unfinished += len(jobs)
        self.gpu.events.append("submit")

    async def sleep(self) -> int:
        await asyncio.sleep(0)
        self.gpu.give("weights")
        self.gpu.give("cache")
        self.gpu.events.append("sleep")
        return self.unfinished

    async def wake_up(self, tags: list[str]) -> None:
        await asyncio.sleep(0)
        for tag in tags:
            self.gpu.take(*{"weights": ("weights", WEIGHTS), "kv_cache": ("cache", CACHE)}[tag])
        self.gpu.events.append(f"wake {' '.join(tags)}")


class Rank:
    """A learner, or a reference, on the GPU. torch keeps what it allocated until `free_gpu_memory`."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu

    async def score(self, batch: str) -> str:
        await self._work("score")
        return batch

    async def update(self, batch: str, coefficients: dict[str, float]) -> None:
        await self._work("update")

    async def _work(self, name: str) -> None:
        self.gpu.take("work", WORK)
        self.gpu.events.append(name)
        await asyncio.sleep(0.01)
        assert "weights" not in self.gpu.used, "an engine woke while the learner computed"

    async def publish(self, version: int) -> None:
        assert "weights" in self.gpu.used
        self.gpu.take("buffer", BUFFER)
        await asyncio.sleep(0.01)
        self.gpu.give("buffer")
        self.gpu.events.append("publish")

    async def publish_again(self, engine: Engine) -> bool:
        assert "weights" in self.gpu.used
        self.gpu.events.append("publish again")
        return True

    async def free_gpu_memory(self) -> None:
        self.gpu.give("work")
        self.gpu.events.append("free")


def on_one_gpu() -> tuple[Gpu, Any, Any, Any]:
    gpu = Gpu()
    engine, learner, reference = Engine(gpu), Rank(gpu), Rank(gpu)
    Turns([engine], [learner, reference]).apply(learner, reference)
    return gpu, engine, learner, reference


class LostEngine(Engine):
    """An engine whose calls raise RoleLost."""

    async def sleep(self) -> int:
        raise RoleLost("generator 1: its process died before sleep ended")

    async def wake_up(self, tags: list[str]) -> None:
        raise RoleLost("generator 1: its process died before wake_up ended")


def test_turns_go_on_without_an_engine_that_is_lost_and_start_it_again_where_nobody_computes() -> None:
    gpu = Gpu()
    engine, learner, lost = Engine(gpu), Rank(gpu), LostEngine(gpu)
    turns = Turns([engine, lost], [learner])  # type: ignore[list-item]
    turns.apply(learner, None)  # type: ignore[arg-type]
    reported: list[Any] = []

    async def run() -> None:
        with pytest.raises(RoleLost):
            await learner.update("batch", {})

        def report(generator: Any, error: Exception) -> bool:
            reported.append(generator)
            return True

        turns.lost = report
        await learner.update("batch", {})
        assert reported == [lost] and turns.asleep
        gpu.events.clear()
        async with turns.starting(engine):  # type: ignore[arg-type]
            update = asyncio.create_task(learner.update("batch", {}))
            await asyncio.sleep(0.01)
            assert gpu.events == ["free"], "the learner waits, and has given its memory back"
        await update
        assert gpu.events == ["free", "sleep", "update"], "it sleeps as the others do"
        await learner.publish(1)
        await learner.publish_again(engine)
        assert reported == [lost] * 3

    asyncio.run(run())


class LostRank(Rank):
    """A reference, or a learner, whose process has died."""

    async def free_gpu_memory(self) -> None:
        raise RoleLost("reference 0: its process died before free_gpu_memory ended")


def test_engines_wake_without_the_memory_of_a_reference_that_is_lost_and_not_without_that_of_a_learner() -> None:
    gpu = Gpu()
    engine, learner, lost = Engine(gpu), Rank(gpu), LostRank(gpu)
    turns = Turns([engine], [learner, lost])
    turns.apply(learner, None)  # type: ignore[arg-type]
    reported: list[Any] = []

    async def run() -> None:
        await learner.update("batch", {})
        with pytest.raises(RoleLost):  # by default, and where it is one that cannot be started again
            await learner.publish(1)

        def report(role: Any, error: Exception) -> bool:
            reported.append(role)
            return True

        turns.lost = report
        await learner.publish(1)
        async with turns.starting(engine):  # type: ignore[arg-type]
            pass

    asyncio.run(run())
    assert reported == [lost] * 3, "before the weights, before the cache, and before an engine is started again"


class SleepingGenerator(LocalGenerator):
    """A generator in this process that has no GPU memory to give."""

    async def sleep(self) -> int:
        return 0

    async def wake_up(self, tags: list[str]) -> None:
        pass


@pytest.mark.parametrize("kind", ["remote", "local"])
def test_an_engine_that_is_back_before_an_update_gets_the_version_after_it_and_does_not_hold_up_its_publication(
    tiny_policy: Path, other_policy: Path, kind: str
) -> None:
    core = joined(str(tiny_policy))
    learner: Any = learner_of(core) if kind == "remote" else LocalLearner(core, checksum=False)
    engines = [SleepingGenerator(partial(generator_of, other_policy), f"generator {i}") for i in range(2)]
    turns = Turns(engines, [])
    turns.apply(learner, None)

    async def run() -> None:
        await learner.connect(engines)
        await learner.publish(0)
        learner.receivers.leave(engines[1])
        async with turns.starting(engines[1]):  # as the supervisor starts it again
            update = asyncio.create_task(learner.update(batch_of(0), COEFFICIENTS))
            await asyncio.sleep(0.01)
        joining = asyncio.create_task(learner.join(engines[1]))
        await update
        async with asyncio.timeout(LONG_S):
            await learner.publish(1)
            await joining
        for engine in engines:
            assert await serves(engine.generator, core)
            await engine.close()

    asyncio.run(run())


def test_a_step_frees_the_engine_before_scoring_and_wakes_its_weights_before_and_its_cache_after_the_publication() -> (
    None
):
    gpu, engine, learner, reference = on_one_gpu()

    async def run() -> None:
        for _ in range(2):
            await engine.submit(["a", "b"])
            engine.unfinished = 0
            assert await reference.score("batch") == "batch"
            await learner.score("batch")
            await learner.update("batch", {})
            await learner.publish(1)

    asyncio.run(run())
    free = ["free", "free"]
    step = ["submit", "sleep", "score", "score", "update", *free, "wake weights", "publish", *free, "wake kv_cache"]
    assert gpu.events == step * 2


def test_the_first_publication_finds_the_engines_awake() -> None:
    gpu, _, learner, _ = on_one_gpu()
    asyncio.run(learner.publish(0))
    assert gpu.events == ["publish"]


def test_a_submission_wakes_the_engines_and_waits_for_the_learner() -> None:
    gpu, engine, learner, _ = on_one_gpu()

    async def run() -> None:
        update = asyncio.create_task(learner.update("batch", {}))
        await asyncio.sleep(0.005)
        await engine.submit(["a"])
        assert update.done()

    asyncio.run(run())
    assert gpu.events == ["sleep", "update", "free", "free", "wake weights", "wake kv_cache", "submit"]


def test_engines_with_unfinished_answers_wake_after_a_score_and_go_on() -> None:
    gpu, engine, _, reference = on_one_gpu()

    async def run() -> None:
        await engine.submit(["a"])
        await reference.score("batch")

    asyncio.run(run())
    assert gpu.events == ["submit", "sleep", "score", "free", "free", "wake weights", "wake kv_cache"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("scale=1gpu", True),
        ("scale=1gpu lag=1", False),  # both work at the same time, and each keeps its memory
        ("scale=1gpu generator.engine=transformers generator.transfer=host", False),
        ("scale=8gpu", False),
        ("scale=cpu placement.mode=colocated", False),
    ],
)
def test_engines_sleep_where_vllm_shares_gpus_with_a_learner_and_takes_turns_with_it(
    words: str, expected: bool
) -> None:
    cfg = load(["policy.path=p", "generator.engine=vllm", *words.split()])
    assert takes_turns(cfg) is expected


class SleepyEngine(TransformersEngine):
    """The transformers engine, which decodes nothing while it sleeps."""

    asleep = False

    @property
    def busy(self) -> bool:
        return not self.asleep and super().busy

    def step(self) -> Any:
        assert not self.asleep, "the engine decodes although it sleeps"
        return super().step()


class Sleepy(TransformersGenerator):
    """The generator of `SleepyEngine`, which notes its sleeps."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.events: list[str] = []
        self._commands.put((lambda engine: setattr(engine, "__class__", SleepyEngine), None))

    async def sleep(self) -> int:
        self.events.append("sleep")
        return await self._call(self._sleep)  # type: ignore[no-any-return]

    def _sleep(self, engine: Any) -> int:
        engine.asleep = True
        load = engine.workload()
        return load.waiting + load.running

    async def wake_up(self, tags: list[str]) -> None:
        self.events += tags
        await self._call(lambda engine: setattr(engine, "asleep", "kv_cache" not in tags))


@pytest.mark.slow
def test_a_run_in_turns_gives_the_numbers_of_a_run_without_and_sleeps_once_per_step_and_measurement(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "method=grpo_adaptive_kl", "steps=3", "groups_per_step=2", "sampling.group_size=2",
        "learner.updates_per_batch=2", "monitor.every=2", "monitor.answers=2", "monitor.ks=[1,2]",
    )  # fmt: skip

    def records(name: str) -> list[dict[str, Any]]:
        cfg = config(tiny_policy, tmp_path, f"name={name}", *words)
        run_dir = asyncio.run(run_training(cfg, resume=False, log=lambda text: None))
        kept = ("reward", "policy_loss", "grad_norm", "kl_reference_per_trajectory", "entropy")
        return [{k: record[k] for k in kept if k in record} for record in read_records(run_dir / "metrics.jsonl")]

    alone = records("alone")
    built: list[Roles] = []
    build = in_process.build

    def in_turns(roles: Roles) -> None:
        build(roles)
        roles.generators = [Sleepy(**in_process.generator_arguments(roles.cfg, roles.policy))]
        built.append(roles)
        assert roles.learner is not None
        roles.turns = Turns(roles.generators, [])  # type: ignore[arg-type]
        roles.turns.apply(roles.learner, roles.reference)

    monkeypatch.setattr(in_process, "build", in_turns)
    assert records("turns") == alone
    [generator] = built[0].generators
    assert isinstance(generator, Sleepy)
    events = "".join({"sleep": "S", "weights": "w", "kv_cache": "k"}[event] for event in generator.events)
    assert set(events.split("S")) == {"", "wk"}, "every sleep ends with a wake, first of the weights"
    # One for each of 3 steps and one for the comparison after the first publication. Those for the KL to the base, at
    # the start and after steps 2 and 3, may be one with a step's, if no answer is in flight then.
    assert 4 <= events.count("S") <= 4 + 3, events
