"""Judge: verdicts from a pool of worker processes, with canary tests, a cache of verdicts and statistics.

Works without Ray and torch:

    from rewards.judge import judge_all
    verdicts = judge_all("math", [({"answer": "1/2"}, r"so it is \\boxed{0.5}")])
    assert verdicts[0].reward == 1.0
"""

import asyncio
import contextlib
import functools
import hashlib
import marshal
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rewards.registry import NO_CONTEXT, VERIFIERS, version_of
from rewards.sandbox import levels
from rewards.verdict import STATUSES, UNDECIDED, Verdict
from rewards.workers.pool import Pool
from rewards.workers.process import StartFailed
from rewards.workers.task import Task

ANSWER_LIMIT = 2**20
"""Characters of an answer that are passed to its verifier. The last ones are kept: the final answer is at the end."""
CACHE_SIZE = 32_768
"""Verdicts of built-in verifiers that are cached."""
CACHED_STATUSES = {"correct", "wrong", "no_answer", "rejected"}
"""Any other status may depend on the state of the machine."""
Key = tuple[str, bytes, bytes]
"""Everything that a verdict depends on: version of the verifier, digest of the problem, digest of the answer."""
WINDOW = 2_048
"""Latest answers over which latencies are reported."""


class Judge:
    """Judges answers in a pool of worker processes, and tests every verifier with its canaries.

    The canaries of a built-in verifier are judged before its first answer, and again every `canary_every_s` while
    answers arrive.

    Args:
        workers: worker processes that judge at a time; 0: chosen (see `rewards.workers.pool.Pool`).
        timeout_s: upper bound on the wall seconds of one answer (see `rewards.registry.deadline_s`).
        first_call_timeout_s: the same for loading a user verifier, and for the first answer in a worker of it.
        cores: processor cores for which `workers` is chosen; 0: those of the machine.
        canary_every_s: seconds between two canary tests of a verifier.
        require: lowest isolation level, 0 to 3, at which a verifier may execute answers.
    """

    def __init__(
        self,
        workers: int = 0,
        timeout_s: float = 6.0,
        *,
        first_call_timeout_s: float = 300.0,
        canary_every_s: float = 300.0,
        require: int = 2,
        cores: int = 0,
    ) -> None:
        self._pool = Pool(workers, timeout_s, first_call_timeout_s, cores)
        self._canary_every_s = canary_every_s
        self._require = require
        self._proven: dict[str, float] = {}
        """Time of the last canary test by verifier."""
        self._proving = asyncio.Lock()
        self._cache: OrderedDict[Key, Verdict] = OrderedDict()
        self._in_progress: dict[Key, asyncio.Future[Verdict]] = {}
        self._counts: Counter[str] = Counter()
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self.levels: dict[str, int] = {}
        """Isolation level reached by each built-in verifier whose canaries have been judged."""

    async def judge(
        self, verifier: str, problem: Mapping[str, Any], answer: str, context: Mapping[str, Any] = NO_CONTEXT
    ) -> Verdict:
        """Return the verdict on one answer.

        Args:
            context: what a user verifier may be told besides (see `rewards.forms.Call`).

        Raises:
            RuntimeError: a canary got a wrong verdict.
            ValueError: the isolation level of `require` is not reached on this machine. Names `sandbox.require`.
        """
        [verdict] = await self.judge_many([Task(verifier, problem, answer, context)])
        return verdict

    async def judge_many(self, tasks: Sequence[Task]) -> list[Verdict]:
        """Return the verdicts on answers, in order. Raises as `judge` does."""
        verifiers = {task.verifier for task in tasks}
        await self.prove([verifier for verifier in verifiers if verifier not in self._proven])
        now = time.monotonic()
        due = [verifier for verifier in verifiers if now - self._proven[verifier] >= self._canary_every_s]
        self._proven |= dict.fromkeys(due, now)
        verdicts, _ = await asyncio.gather(self._verdicts(tasks), asyncio.gather(*map(self._judge_canaries, due)))
        self._counts.update(verdict.status for verdict in verdicts)
        self._counts["undecided"] += sum(verdict.reason.startswith(UNDECIDED) for verdict in verdicts)
        return verdicts

    async def faults(self, verifier: str, problem: Mapping[str, Any]) -> str:
        """Return the faults of a problem, such as a gold that does not equal itself; empty if none is known.

        They are found in a worker process, within the deadline of one answer. A user verifier has no such check.
        """
        if verifier not in VERIFIERS or not VERIFIERS[verifier].faults:
            return ""
        return (await self._pool.run(verifier, problem, None)).reason

    async def prove(self, verifiers: Sequence[str]) -> None:
        """Judge the canaries of these verifiers, once each; start a worker of a user verifier, which has none.

        Raises as `judge` does. A user verifier that cannot be loaded is a grader_error of its answers.
        """
        for verifier in verifiers:
            async with self._proving:
                if verifier not in self._proven:
                    await self._require_isolation(verifier)
                    await self._judge_canaries(verifier)
                    if verifier not in VERIFIERS:
                        with contextlib.suppress(StartFailed):
                            await self._pool.load(verifier)
                    self._proven[verifier] = time.monotonic()

    async def load(self, verifier: str) -> None:
        """Load a verifier in a worker process, which is kept. Raises ValueError with the reason if it cannot be."""
        try:
            await self._pool.load(verifier)
        except StartFailed as failure:
            raise ValueError(str(failure)) from None

    def stats(self) -> dict[str, float]:
        """Return counts since the start, percentiles of latencies, and isolation levels.

        Counts: `graded` answers, answers by status, `undecided` (a part of the wrong ones), `cache_hits`, and
        `respawns` (workers replaced). `seconds/...`: percentiles of the wall seconds of a check over the latest WINDOW
        answers. `isolation/<verifier>`: levels.
        """
        ordered = sorted(self._seconds) or [0.0]
        percentiles = {f"seconds/p{p}": ordered[min(len(ordered) * p // 100, len(ordered) - 1)] for p in (50, 95, 99)}
        return {
            "graded": float(sum(self._counts[status] for status in STATUSES)),
            **{status: float(self._counts[status]) for status in STATUSES},
            "undecided": float(self._counts["undecided"]),
            "cache_hits": float(self._counts["cache_hits"]),
            "respawns": float(self._pool.respawns),
            **percentiles,
            "seconds/max": ordered[-1],
            **{f"isolation/{verifier}": float(level) for verifier, level in self.levels.items()},
        }

    async def close(self) -> None:
        """End every worker process, and cancel the answers that are being judged."""
        await self._pool.close()

    async def _verdicts(self, tasks: Sequence[Task]) -> list[Verdict]:
        """Return the verdicts, from the cache or from a check in progress where verifier, problem and answer are equal.

        Only built-in verifiers are cached: their verdict depends on problem and answer alone.
        """
        found: list[Verdict | asyncio.Future[Verdict] | int] = []
        """Of each task its verdict, the check in progress, or the index of its check among the new ones."""
        new: list[Task] = []
        keys: list[Key | None] = []
        of_key: dict[Key, int] = {}
        digests: dict[int, bytes] = {}
        for task in tasks:
            assert task.answer is not None, "an answer is judged"
            if len(task.answer) > ANSWER_LIMIT:
                task = task._replace(answer=task.answer[-ANSWER_LIMIT:])
            key = _key(task, digests) if task.verifier in VERIFIERS else None
            known = None if key is None else self._cache.get(key, self._in_progress.get(key, of_key.get(key)))
            if known is None:
                if key is not None:
                    of_key[key] = len(new)
                found.append(len(new))
                new.append(task)
                keys.append(key)
                continue
            self._counts["cache_hits"] += 1
            found.append(known)
            if key is not None and key in self._cache:
                self._cache.move_to_end(key)
        checks = self._pool.submit(new)
        for key, check in zip(keys, checks, strict=True):
            if key is not None:
                self._in_progress[key] = check
            check.add_done_callback(functools.partial(self._finished, key))
        pending = {*checks, *(one for one in found if isinstance(one, asyncio.Future))}
        if pending:
            await asyncio.wait(pending)  # It cancels none of them with its caller: others may wait for the same check.
        ended = (checks[one] if isinstance(one, int) else one for one in found)
        return [one.result() if isinstance(one, asyncio.Future) else one for one in ended]

    def _finished(self, key: Key | None, check: asyncio.Future[Verdict]) -> None:
        """Note the time of a check that has ended, and cache its verdict if it may be."""
        if key is not None:
            del self._in_progress[key]
        if check.cancelled() or check.exception() is not None:
            return
        verdict = check.result()
        self._seconds.append(verdict.seconds)
        undecided = verdict.reason.startswith(UNDECIDED)  # perhaps only as the time was spent
        if key is not None and verdict.status in CACHED_STATUSES and not undecided:
            self._cache[key] = verdict
            if len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)

    def _required_level(self, verifier: str) -> int:
        """Return the isolation level that the verifier must reach: `require`, at most the verifier's highest."""
        return min(self._require, VERIFIERS[verifier].isolation) if verifier in VERIFIERS else 0

    async def _require_isolation(self, verifier: str) -> None:
        """Raise ValueError unless this machine offers the required isolation level."""
        required = self._required_level(verifier)
        if required:
            await asyncio.to_thread(levels.require, required)

    async def _judge_canaries(self, verifier: str) -> None:
        """Judge the verifier's canaries. On a wrong verdict, raise RuntimeError and test again before any later answer
        is judged."""
        for canary in VERIFIERS[verifier].canaries if verifier in VERIFIERS else ():
            for answer, status in ((canary.right, "correct"), (canary.wrong, "wrong")):
                verdict = await self._pool.run(verifier, canary.problem, answer)
                if verdict.status == "timeout":  # The machine may have been suspended: that is no fault of the grader.
                    verdict = await self._pool.run(verifier, canary.problem, answer)
                if verdict.status != status:
                    self._proven.pop(verifier, None)
                    raise RuntimeError(
                        f"the grader is broken: verifier {verifier!r} finds {answer!r} {verdict.status} "
                        f"({verdict.reason}) where it must be {status}"
                    )
                self.levels[verifier] = verdict.isolation
        reached = self.levels.get(verifier, 0)
        if reached < self._required_level(verifier):
            raise ValueError(
                f"sandbox.require: must be at most {reached}, the isolation level reached here for {verifier!r}, "
                f"got {self._require}"
            )


def _key(task: Task, digests: dict[int, bytes]) -> Key | None:
    """Return the key of a task in the cache; None if its problem has values of other types than JSON has.

    Args:
        digests: digests of problems by `id`, of objects that live on. Answers to one problem share it.
    """
    assert task.answer is not None
    digest = digests.get(id(task.problem))
    if digest is None:
        try:
            # Version 2 does not mark which strings are the same object, so equal problems give equal bytes.
            digest = _digest(marshal.dumps(dict(task.problem), 2))
        except (TypeError, ValueError):
            return None
        digests[id(task.problem)] = digest
    return version_of(task.verifier), digest, _digest(task.answer.encode("utf-8", "surrogatepass"))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def judge_all(
    verifier: str,
    pairs: Sequence[tuple[Mapping[str, Any], str]],
    *,
    workers: int = 0,
    timeout_s: float = 6.0,
    first_call_timeout_s: float = 300.0,
    require: int = 2,
) -> list[Verdict]:
    """Judge pairs (problem, answer) and return their verdicts in order. Blocks, and leaves no process behind.

    May be called from any thread, also from one that runs an event loop. Raises as `Judge.judge` does.
    """

    async def run() -> list[Verdict]:
        judge = Judge(workers, timeout_s, first_call_timeout_s=first_call_timeout_s, require=require)
        try:
            return await judge.judge_many([Task(verifier, problem, answer) for problem, answer in pairs])
        finally:
            await judge.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, run()).result()
