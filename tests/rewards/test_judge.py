"""The judge: canary tests, the cache of verdicts, the required isolation level, and statistics."""

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from rewards import judge as module
from rewards.judge import Judge, judge_all
from rewards.registry import VERIFIERS
from rewards.sandbox import levels
from rewards.verdict import UNDECIDED, Status, Verdict
from rewards.workers.process import StartFailed
from rewards.workers.task import Task

PROBLEM = {"numbers": [3, 7, 12], "target": 22}
RIGHT, WRONG = "3+7+12", "3*7+12"


class FakePool:
    """Replaces the worker pool: judges answers by their text and records each call."""

    def __init__(self, isolation: int = 2) -> None:
        self.judged: list[str] = []
        self.loaded: list[str] = []
        self.isolation = isolation
        self.respawns = 3
        self.broken = False

    async def run(
        self, verifier: str, problem: Mapping[str, Any], answer: str, context: Mapping[str, Any] | None = None
    ) -> Verdict:
        self.judged.append(answer)
        await asyncio.sleep(0.001)
        canaries = VERIFIERS[verifier].canaries if verifier in VERIFIERS else ()
        status: Status = "correct" if answer in [c.right for c in canaries] and not self.broken else "wrong"
        word, _, seconds = answer.partition(" ")
        if word in ("timeout", "crash", "no_answer", "rejected", "grader_error"):
            status = word  # type: ignore[assignment]
        reward = {"correct": 1.0, "grader_error": None}.get(status, 0.0)
        took = float(seconds) if word == "took" else 0.001
        reason = UNDECIDED if word == "undecided" else ""
        return Verdict(reward=reward, status=status, reason=reason, seconds=took, isolation=self.isolation)

    def submit(self, tasks: Sequence[Task]) -> list[asyncio.Future[Verdict]]:
        return [asyncio.ensure_future(self.run(*task)) for task in tasks]

    async def load(self, verifier: str) -> None:
        self.loaded.append(verifier)
        if verifier == "broken:function":
            raise StartFailed("it cannot be imported")

    async def close(self) -> None:
        pass


def judge_with(
    work: Callable[[Judge, FakePool], Awaitable[Any]], pool: FakePool | None = None, **settings: Any
) -> tuple[Any, FakePool]:
    stand_in = pool or FakePool()

    async def main() -> Any:
        judge = Judge(**settings)
        judge._pool = stand_in  # type: ignore[assignment]
        try:
            return await asyncio.wait_for(work(judge, stand_in), 20)
        finally:
            await judge.close()

    return asyncio.run(main()), stand_in


def test_every_built_in_verifier_has_canaries_whose_answers_differ() -> None:
    assert all(row.canaries for row in VERIFIERS.values())
    assert {canary.problem["kind"] for canary in VERIFIERS["code"].canaries} == {"assert", "stdio"}
    assert all(canary.right != canary.wrong for row in VERIFIERS.values() for canary in row.canaries)


@pytest.mark.parametrize("status", ["wrong", "no_answer", "rejected"])
def test_equal_answers_are_judged_once_and_get_the_same_verdict(status: str) -> None:
    async def work(judge: Judge, pool: FakePool) -> dict[str, float]:
        for _ in range(3):
            await asyncio.gather(*(judge.judge("countdown", PROBLEM, f"{status} a") for _ in range(4)))
        await judge.judge("countdown", {**PROBLEM, "target": 23}, f"{status} a")
        await judge.judge("math", PROBLEM, f"{status} a")
        return judge.stats()

    stats, pool = judge_with(work)
    assert pool.judged.count(f"{status} a") == 3
    assert (stats["graded"], stats[status], stats["cache_hits"]) == (14, 14, 11)


def test_undecided_answers_are_counted_among_the_wrong_ones_and_judged_again() -> None:
    async def work(judge: Judge, pool: FakePool) -> dict[str, float]:
        for answer in ("undecided a", "undecided a", "other"):
            await judge.judge("countdown", PROBLEM, answer)
        return judge.stats()

    stats, pool = judge_with(work)
    assert pool.judged.count("undecided a") == 2
    assert (stats["graded"], stats["wrong"], stats["undecided"]) == (3, 3, 2)


@pytest.mark.parametrize("status", ["timeout", "crash", "grader_error"])
def test_a_verdict_that_may_depend_on_the_machine_is_reused_while_in_progress_and_never_cached(status: str) -> None:
    async def work(judge: Judge, pool: FakePool) -> None:
        for _ in range(3):
            await asyncio.gather(*(judge.judge("countdown", PROBLEM, f"{status} a") for _ in range(4)))

    _, pool = judge_with(work)
    assert pool.judged.count(f"{status} a") == 3


def test_verdicts_of_a_user_verifier_are_never_reused() -> None:
    async def work(judge: Judge, pool: FakePool) -> None:
        await asyncio.gather(*(judge.judge("package.module:function", PROBLEM, "a") for _ in range(5)))

    assert judge_with(work)[1].judged == ["a"] * 5


def test_a_user_verifier_is_loaded_before_its_first_answer_and_one_that_cannot_be_is_no_error_yet() -> None:
    async def work(judge: Judge, pool: FakePool) -> None:
        await judge.prove(["package.module:function", "broken:function", "countdown"])
        await judge.judge("package.module:function", PROBLEM, "a")

    assert judge_with(work)[1].loaded == ["package.module:function", "broken:function"]


def test_the_cache_has_a_limit_and_the_least_recently_used_verdict_is_removed_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "CACHE_SIZE", 2)

    async def work(judge: Judge, pool: FakePool) -> None:
        for answer in ("a", "b", "a", "c", "a", "b"):
            await judge.judge("countdown", PROBLEM, answer)

    assert [a for a in judge_with(work)[1].judged if len(a) == 1] == ["a", "b", "c", "b"]


def test_another_version_of_a_verifier_does_not_reuse_cached_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(judge: Judge, pool: FakePool) -> None:
        await judge.judge("countdown", PROBLEM, "a")
        monkeypatch.setattr(module, "version_of", lambda name: f"{name}@other")
        await judge.judge("countdown", PROBLEM, "a")

    assert judge_with(work)[1].judged.count("a") == 2


def test_canaries_are_judged_before_the_first_answer_and_again_after_the_interval() -> None:
    async def work(judge: Judge, pool: FakePool) -> list[int]:
        counts = []
        for wait_s in (0.0, 0.0, 0.12, 0.0):
            await asyncio.sleep(wait_s)
            await judge.judge("countdown", PROBLEM, f"a {len(pool.judged)}")
            counts.append(pool.judged.count(RIGHT))
        return counts

    counts, pool = judge_with(work, canary_every_s=0.1)
    assert counts == [1, 1, 2, 2]
    assert pool.judged[:2] == [RIGHT, WRONG]


def test_a_wrong_verdict_on_a_canary_raises_for_the_current_and_every_later_answer() -> None:
    async def work(judge: Judge, pool: FakePool) -> None:
        await judge.judge("countdown", PROBLEM, "a")
        pool.broken = True
        await asyncio.sleep(0.01)
        for answer in ("a", "b"):
            with pytest.raises(RuntimeError, match=r"verifier 'countdown' finds '3\+7\+12' wrong .* must be correct"):
                await judge.judge("countdown", PROBLEM, answer)

    judge_with(work, canary_every_s=0.005)


@pytest.mark.parametrize(("verifier", "refused"), [("sql", True), ("code", True), ("math", False)])
def test_less_isolation_than_required_is_refused_for_verifiers_that_execute_answers(
    verifier: str, refused: bool
) -> None:
    async def work(judge: Judge, pool: FakePool) -> None:
        await judge.judge(verifier, {}, "a")

    if not refused:
        judge_with(work, FakePool(isolation=1))
        return
    with pytest.raises(ValueError, match=rf"^sandbox.require: must be at most 1, .* '{verifier}', got 2"):
        judge_with(work, FakePool(isolation=1))
    judge_with(work, FakePool(isolation=1), require=1)


def test_a_level_that_this_machine_does_not_offer_is_refused_with_the_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    here = levels.Available(level=1, refused={2: "no Landlock"})
    monkeypatch.setattr(levels, "available", lambda: here)
    with pytest.raises(ValueError, match=r"^sandbox.require: must be at most 1, .*no Landlock.* got 2"):
        judge_all("code", [({"kind": "assert", "tests": "assert f(1) == 1"}, "def f(x): return x")])


def test_latencies_are_percentiles_over_the_latest_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW", 100)

    async def work(judge: Judge, pool: FakePool) -> dict[str, float]:
        for seconds in (9.0, *(hundredth / 100 for hundredth in range(100))):
            await judge.judge("own:own", PROBLEM, f"took {seconds}")
        return judge.stats()

    stats, _ = judge_with(work)
    assert {name: stats[f"seconds/{name}"] for name in ("p50", "p95", "p99", "max")} == {
        "p50": 0.5,
        "p95": 0.95,
        "p99": 0.99,
        "max": 0.99,
    }
    assert stats["respawns"] == 3


def test_judge_all_works_in_a_script_a_thread_and_a_running_event_loop() -> None:
    pairs = [(PROBLEM, RIGHT), (PROBLEM, WRONG), (PROBLEM, "")]
    expected = ["correct", "wrong", "no_answer"]
    found: list[list[str]] = []

    def work() -> None:
        found.append([verdict.status for verdict in judge_all("countdown", pairs)])

    async def in_a_loop() -> None:
        work()

    work()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    asyncio.run(in_a_loop())
    assert found == [expected] * 3


def test_judge_all_raises_the_errors_of_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    [canary] = VERIFIERS["countdown"].canaries
    swapped = dataclasses.replace(canary, right=WRONG, wrong=RIGHT)
    row = dataclasses.replace(VERIFIERS["countdown"], canaries=(swapped,))
    monkeypatch.setitem(VERIFIERS, "countdown", row)
    with pytest.raises(RuntimeError, match="the grader is broken"):
        judge_all("countdown", [(PROBLEM, RIGHT)])


def test_the_faults_of_a_problem_are_found_in_a_worker_process() -> None:
    async def faults(*problems: tuple[str, dict[str, Any]]) -> list[str]:
        judge = Judge(2, require=0)
        try:
            return list(await asyncio.gather(*(judge.faults(verifier, problem) for verifier, problem in problems)))
        finally:
            await judge.close()

    broken = {"schema_sql": "CREATE TABLE t (a INTEGER);", "gold_sql": "SELECT b FROM t"}
    found = asyncio.run(
        faults(
            ("math", {"answer": "7"}),
            ("math", {"answer": ""}),
            ("math", {"answer": {1, 2}}),  # cannot be sent to a worker
            ("sql", broken),
            ("countdown", {"numbers": []}),  # has no check
            ("tests.rewards.unruly_verifiers:hang", {}),
        )
    )
    assert [bool(text) for text in found] == [False, True, True, True, False, False]
    assert found[1].startswith("answer: must not be empty")
    assert "no such column: b" in found[3]
