"""Evaluations and presampling in one process whose generators are lost: the same answers as without a loss."""

import asyncio
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.generation.transformers_engine import TransformersEngine
from actors.grader import PooledGrader
from actors.local import LocalGenerator
from actors.presence import RoleLost
from actors.remote import RemoteGrader
from orchestrator import cluster
from orchestrator.constructors import grader_arguments
from orchestrator.evaluation import following
from orchestrator.evaluation.job import evaluate
from orchestrator.remote_runs import watched
from orchestrator.stored.presample import Tally, presample
from orchestrator.supervision.without_learner import PolicyFiles
from tests.orchestrator.evaluation.test_following import FakeRun, steps_of
from tests.orchestrator.evaluation.test_resumed_job import SETTINGS, VERIFIER, everything
from tests.orchestrator.in_process import config
from tests.orchestrator.supervision.test_healed_run import Fault, lost_while_publishing
from trajectories.rehearsal import read
from trajectories.trajectory import Grade, Trajectory

TWO = ("placement.generators=2", "placement.restart_delay_s=0")
LOSSES = re.compile(r"^generator \d (was lost|is back)")


def engine_ends(version: int, at: int) -> Fault:
    """An engine that serves this version raises once, in the decoding step of this number of all such engines."""

    def install(patch: pytest.MonkeyPatch) -> None:
        step, count = TransformersEngine.step, 0

        def failing(engine: TransformersEngine) -> Any:
            nonlocal count
            if engine.version == version:
                count += 1
                if count == at:
                    raise MemoryError("out of memory")
            return step(engine)

        patch.setattr(TransformersEngine, "step", failing)

    return install


def lost_before_its_first_weights(patch: pytest.MonkeyPatch) -> None:
    """The last generator is lost once, when it gets the shapes of the weights."""
    init, lost = LocalGenerator.init_weights, list[str]()

    async def failing(generator: LocalGenerator, info: Any) -> None:
        if generator.name == "generator 1" and not lost:
            lost.append(generator.name)
            raise RoleLost(f"{generator.name}: its process died before init_weights ended")
        await init(generator, info)

    patch.setattr(LocalGenerator, "init_weights", failing)


def told(lines: list[str]) -> list[str]:
    """What the user reads of losses."""
    return [found[1] for line in lines if (found := LOSSES.match(line))]


@pytest.fixture(scope="module")
def policies(tiny_policy: Path, other_policy: Path) -> dict[str, str]:
    return {"base": str(tiny_policy), "other": str(other_policy)}


def measure(policies: dict[str, str], runs: Path, *words: str, fault: Fault | None = None) -> tuple[Any, list[str]]:
    """Evaluate both policies on three tasks. Return all that is written, and the lines for the user."""
    lines: list[str] = []
    cfg = config(Path("nowhere"), runs, *SETTINGS, *TWO, *words)
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            fault(patch)
        asyncio.run(asyncio.wait_for(evaluate(cfg, policies, lines.append, runs / "out"), 100))
    return everything(runs / "out"), lines


@pytest.fixture(scope="module")
def whole(policies: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    return measure(policies, tmp_path_factory.mktemp("whole"))[0]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(engine_ends(-1, 1), id="before any weights are published"),
        pytest.param(engine_ends(0, 4), id="while the first policy answers"),
        pytest.param(engine_ends(1, 2), id="while the second policy answers"),
        pytest.param(lost_before_its_first_weights, id="before its first weights"),
        pytest.param(lost_while_publishing(0), id="while the first policy is published"),
        pytest.param(lost_while_publishing(1), id="while the second policy is published"),
    ],
)
def test_an_evaluation_whose_generator_is_lost_writes_what_it_would_have(
    policies: dict[str, str], whole: Any, tmp_path: Path, fault: Fault
) -> None:
    found, lines = measure(policies, tmp_path, fault=fault)
    assert told(lines) == ["was lost", "is back"]
    assert found == whole


def test_the_only_generator_of_an_evaluation_answers_as_the_policy_that_is_measured_when_it_is_back(
    policies: dict[str, str], tmp_path: Path
) -> None:
    alone = "placement.generators=1"
    expected, _ = measure(policies, tmp_path / "whole", alone)
    found, lines = measure(policies, tmp_path / "healed", alone, fault=engine_ends(1, 2))
    assert told(lines) == ["was lost", "is back"] and found == expected


def test_without_restarts_a_loss_ends_an_evaluation(policies: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RoleLost, match="MemoryError"):
        measure(policies, tmp_path, "placement.restarts=0", fault=engine_ends(0, 1))


def test_an_evaluation_ends_when_too_few_generators_are_left_and_says_what_to_do(
    policies: dict[str, str], tmp_path: Path
) -> None:
    def every_engine_ends(patch: pytest.MonkeyPatch) -> None:
        def failing(engine: TransformersEngine) -> Any:
            raise MemoryError("out of memory")

        patch.setattr(TransformersEngine, "step", failing)

    with pytest.raises(RuntimeError, match=r"cannot be started again: .* or give the command again$"):
        measure(policies, tmp_path, "placement.restarts=1", fault=every_engine_ends)


def lost_between_two_checkpoints(patch: pytest.MonkeyPatch, run: FakeRun) -> None:
    """The last generator is lost after the first checkpoint, and back when that one's files are gone."""
    back = threading.Event()
    rebuild, measured, hold = LocalGenerator.rebuilt, following.Serving.measure, watched.hold_policy

    async def lost_afterwards(serving: following.Serving, name: str) -> None:
        await measured(serving, name)
        if name == "step-000002":
            assert serving.rollouts.lost(serving.rollouts.generators[1], RoleLost("generator 1: its process died"))

    async def when_removed(generator: LocalGenerator, timeout_s: float) -> None:
        while list((run.output / following.COPIES).glob("*")):
            await asyncio.sleep(0.01)
        await rebuild(generator, timeout_s)
        back.set()

    def after_the_loss(checkpoint: Path, copy: Path) -> bool:
        assert checkpoint.name == "step-000002" or back.wait(30)
        return hold(checkpoint, copy)

    patch.setattr(following.Serving, "measure", lost_afterwards)
    patch.setattr(watched, "hold_policy", after_the_loss)
    patch.setattr(LocalGenerator, "rebuilt", when_removed)


def test_a_watch_goes_on_with_a_generator_that_was_lost_when_the_files_that_it_served_were_removed(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.02)
    written = []
    for name in ("whole", "healed"):
        (tmp_path / name).mkdir()
        run = FakeRun(tiny_policy, tmp_path / name)
        for step in (2, 4, 6):
            run.checkpoint(step)
        with pytest.MonkeyPatch.context() as patch:
            if name == "healed":
                lost_between_two_checkpoints(patch, run)
            lines = run.watched(*TWO)
        assert told(lines) == ([] if name == "whole" else ["was lost", "is back"])
        assert steps_of(run.output) == [0, 2, 4, 6]
        found = everything(run.output)
        written.append({file: found[file] for file in ("series.json", "tasks/more/series.json", "answers.parquet")})
    assert written[0] == written[1]


def test_a_policys_files_may_be_removed_only_when_a_generator_that_joins_has_read_them(
    tiny_policy: Path, tmp_path: Path
) -> None:
    class Receiver:
        def __init__(self) -> None:
            self.events: list[str] = []
            self.open = asyncio.Event()

        async def init_weights(self, info: Any) -> None:
            self.events.append("init")

        async def update_weights(self, weights: Any) -> int:
            await self.open.wait()
            self.events.append(f"version {weights.version}")
            return int(weights.version)

    async def body() -> None:
        first, second = Receiver(), Receiver()
        receivers: list[Any] = [first, second]
        policies = PolicyFiles(config(tiny_policy, tmp_path), receivers)
        policies.receivers.leave(receivers[1])
        first.open.set()
        await policies.publish(str(tiny_policy))
        joining = asyncio.ensure_future(policies.join(receivers[1]))
        while not second.events:
            await asyncio.sleep(0)
        withdrawing = asyncio.ensure_future(policies.withdraw())
        await asyncio.sleep(0.05)
        assert not withdrawing.done(), "it reads them"
        second.open.set()
        await asyncio.gather(joining, withdrawing)
        assert first.events == second.events == ["init", "version 0"]
        policies.receivers.leave(receivers[1])
        await policies.join(receivers[1])
        assert second.events[2:] == ["init"], "no policy is measured"
        await policies.publish(str(tiny_policy))
        assert first.events[2:] == ["version 1"] and second.events[3:] == ["version 1"]

    asyncio.run(asyncio.wait_for(body(), 30))


def sampled(policy: Path, folder: Path, fault: Fault | None = None) -> tuple[Tally, list[Trajectory], list[str]]:
    lines: list[str] = []
    words = ("rehearsal.prompts=12", "rehearsal.answers=4", "rehearsal.threshold=1", f"task.verifier={VERIFIER}")
    cfg, path = config(policy, folder, *words, *TWO), folder / "rehearsal.parquet"
    with pytest.MonkeyPatch.context() as patch:
        if fault is not None:
            fault(patch)
        tally = asyncio.run(asyncio.wait_for(presample(cfg, path, lambda done, total: None, lines.append), 100))
    return tally, list(read(path, batch=1, seed=0).trajectories), lines


@pytest.mark.parametrize("at", [2, 8])
def test_presampling_whose_generator_is_lost_keeps_the_same_answers(tiny_policy: Path, tmp_path: Path, at: int) -> None:
    expected, answers, _ = sampled(tiny_policy, tmp_path / "whole")
    tally, found, lines = sampled(tiny_policy, tmp_path / "healed", engine_ends(-1, at))
    assert told(lines) == ["was lost", "is back"]
    assert tally == expected and tally.kept
    for mine, theirs in zip(found, answers, strict=True):
        assert (mine.key, mine.seed, mine.text) == (theirs.key, theirs.seed, theirs.text)
        assert mine.logp_sampler.tobytes() == theirs.logp_sampler.tobytes()


class LostGrader(RemoteGrader):
    """A grader over Ray as the supervisor sees it, which is lost when it has got its first answers."""

    def __init__(self, grader: PooledGrader) -> None:
        super().__init__(None, "grader 0", timeout_s=60.0)
        self.grader, self.events = grader, list[Any]()

    async def grade(self, tasks: Any) -> dict[str, Grade]:
        if not self.events:
            self.events.append("lost")
            raise RoleLost("grader 0: its process died before grade ended")
        return await self.grader.grade(tasks)

    async def prove(self, verifiers: Any) -> dict[str, int]:
        self.events.append(verifiers)
        return await self.grader.prove(verifiers)

    async def alive(self, timeout_s: float) -> None:
        pass

    async def restart(self) -> None:
        self.events.append("restart")

    async def rebuilt(self, timeout_s: float) -> None:
        self.events.append("built")
        self._given_up = None

    async def close(self) -> None:
        await self.grader.close()


def test_presampling_whose_only_grader_is_lost_keeps_the_same_answers(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, answers, _ = sampled(tiny_policy, tmp_path / "whole")
    graders: list[LostGrader] = []
    start = cluster.start

    async def with_lost_grader(cfg: Any, *arguments: Any, **options: Any) -> cluster.Roles:
        roles = await start(cfg, *arguments, **options)
        graders.append(LostGrader(PooledGrader(**grader_arguments(cfg))))
        roles.handles += [*roles.generators, *roles.graders, *graders]  # which `Roles.close` closes
        roles.graders[:] = graders
        roles.cfg = replace(cfg, placement=replace(cfg.placement, kind="ray"))
        return roles

    monkeypatch.setattr(cluster, "start", with_lost_grader)
    tally, found, lines = sampled(tiny_policy, tmp_path / "healed")
    losses = [line.partition(":")[0] for line in lines if line.startswith("grader 0")]
    assert losses == ["grader 0 was lost", "grader 0 is back"]
    assert graders[0].events == ["lost", "restart", "built", [VERIFIER]]
    assert tally == expected and [(t.key, t.text) for t in found] == [(t.key, t.text) for t in answers]
