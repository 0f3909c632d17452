"""Judge: verdicts from a pool of worker processes, with canary tests, a cache of verdicts and statistics.

Works without Ray and torch:

    from rewards.judge import judge_all
    verdicts = judge_all("math", [({"answer": "1/2"}, r"so it is \\boxed{0.5}")])
    assert verdicts[0].reward == 1.0
"""

import asyncio
import hashlib
import json
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rewards.registry import NO_CONTEXT, VERIFIERS, version_of
from rewards.sandbox import levels
from rewards.verdict import STATUSES, Verdict
from rewards.workers.pool import Pool
from rewards.workers.process import StartFailed

ANSWER_LIMIT = 2**20
"""Characters of an answer that are passed to its verifier. The last ones are kept: the final answer is at the end."""
CACHE_SIZE = 32_768
"""Verdicts of built-in verifiers that are cached."""
CACHED_STATUSES = {"correct", "wrong", "no_answer", "rejected"}
"""Any other status may depend on the state of the machine."""
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
        self._cache: OrderedDict[bytes, Verdict] = OrderedDict()
        self._in_progress: dict[bytes, asyncio.Task[Verdict]] = {}
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
        if verifier not in self._proven:
            await self.prove([verifier])
        answer = answer[-ANSWER_LIMIT:]
        if time.monotonic() - self._proven[verifier] >= self._canary_every_s:
            self._proven[verifier] = time.monotonic()
            verdict, _ = await asyncio.gather(
                self._cached_verdict(verifier, problem, answer, context), self._judge_canaries(verifier)
            )
        else:
            verdict = await self._cached_verdict(verifier, problem, answer, context)
        self._counts[verdict.status] += 1
        return verdict

    async def faults(self, verifier: str, problem: Mapping[str, Any]) -> str:
        """Return the faults of a problem, such as a gold that does not equal itself; empty if none is known.

        They are found in a worker process, within the deadline of one answer. A user verifier has no such check.
        """
        if verifier not in VERIFIERS or not VERIFIERS[verifier].faults:
            return ""
        return (await self._pool.run(verifier, problem, None)).reason

    async def prove(self, verifiers: Sequence[str]) -> None:
        """Judge the canaries of these verifiers, once each. Raises as `judge` does."""
        for verifier in verifiers:
            async with self._proving:
                if verifier not in self._proven:
                    await self._require_isolation(verifier)
                    await self._judge_canaries(verifier)
                    self._proven[verifier] = time.monotonic()

    async def load(self, verifier: str) -> None:
        """Load a verifier in a worker process, which is kept. Raises ValueError with the reason if it cannot be."""
        try:
            await self._pool.load(verifier)
        except StartFailed as failure:
            raise ValueError(str(failure)) from None

    def stats(self) -> dict[str, float]:
        """Return counts since the start, percentiles of latencies, and isolation levels.

        Counts: `graded` answers, answers by status, `cache_hits`, and `respawns` (workers replaced). `seconds/...`:
        percentiles of the wall seconds of a check over the latest WINDOW answers. `isolation/<verifier>`: levels.
        """
        ordered = sorted(self._seconds) or [0.0]
        percentiles = {f"seconds/p{p}": ordered[min(len(ordered) * p // 100, len(ordered) - 1)] for p in (50, 95, 99)}
        return {
            "graded": float(sum(self._counts[status] for status in STATUSES)),
            **{status: float(self._counts[status]) for status in STATUSES},
            "cache_hits": float(self._counts["cache_hits"]),
            "respawns": float(self._pool.respawns),
            **percentiles,
            "seconds/max": ordered[-1],
            **{f"isolation/{verifier}": float(level) for verifier, level in self.levels.items()},
        }

    async def close(self) -> None:
        """End every worker process, and cancel the answers that are being judged."""
        in_progress = list(self._in_progress.values())
        for task in in_progress:
            task.cancel()
        await asyncio.gather(*in_progress, return_exceptions=True)
        await self._pool.close()

    async def _cached_verdict(
        self, verifier: str, problem: Mapping[str, Any], answer: str, context: Mapping[str, Any]
    ) -> Verdict:
        """Return the verdict, from the cache or from a check in progress where problem and answer are equal.

        Only built-in verifiers are cached: their verdict depends on problem and answer alone.
        """
        if verifier not in VERIFIERS:
            return await self._run(verifier, problem, answer, context)
        key = _cache_key(verifier, problem, answer)
        if key is None:
            return await self._run(verifier, problem, answer)
        cached = self._cache.get(key)
        if cached is not None:
            self._cache.move_to_end(key)
            self._counts["cache_hits"] += 1
            return cached
        task = self._in_progress.get(key)
        if task is not None:
            self._counts["cache_hits"] += 1
        else:
            task = self._in_progress[key] = asyncio.create_task(self._run(verifier, problem, answer))
            task.add_done_callback(lambda done: self._add_to_cache(key, done))
        return await asyncio.shield(task)  # A caller that is cancelled must not cancel the check for the others.

    def _add_to_cache(self, key: bytes, done: asyncio.Task[Verdict]) -> None:
        del self._in_progress[key]
        if not done.cancelled() and done.exception() is None and done.result().status in CACHED_STATUSES:
            self._cache[key] = done.result()
            if len(self._cache) > CACHE_SIZE:
                self._cache.popitem(last=False)

    async def _run(
        self, verifier: str, problem: Mapping[str, Any], answer: str, context: Mapping[str, Any] = NO_CONTEXT
    ) -> Verdict:
        verdict = await self._pool.run(verifier, problem, answer, context)
        self._seconds.append(verdict.seconds)
        return verdict

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


def _cache_key(verifier: str, problem: Mapping[str, Any], answer: str) -> bytes | None:
    """Return a digest of everything the verdict depends on; None if the problem is not JSON."""
    try:
        text = json.dumps([version_of(verifier), problem, answer], sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return None
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


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
            return await asyncio.gather(*(judge.judge(verifier, problem, answer) for problem, answer in pairs))
        finally:
            await judge.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    with ThreadPoolExecutor(max_workers=1) as executor:
        return executor.submit(asyncio.run, run()).result()
