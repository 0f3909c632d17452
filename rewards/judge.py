"""Judge: a pool of workers that proves itself with canaries, judges equal answers once, and keeps count.

Needs neither the trainer nor torch:

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

from rewards.canaries import CANARIES
from rewards.registry import VERIFIERS, version_of
from rewards.sandbox import levels
from rewards.verdict import STATUSES, Verdict
from rewards.workers.pool import Pool

ANSWER_LIMIT = 2**20
"""Characters of an answer that reach its verifier: the last ones, where a final answer stands."""
CACHE_SIZE = 32_768
"""Verdicts of verifiers of ours kept for answers that come again."""
KEPT_STATUSES = {"correct", "wrong", "no_answer", "rejected"}
"""The others may owe something to the machine."""
WINDOW = 2_048
"""Answers, the latest ones, over which latencies are told."""


class Judge:
    """Judges answers in `workers` slots of a pool, each answer within `timeout_s` (see `rewards.registry.deadline_s`).

    Before the first answer of a verifier of ours, and every `canary_every_s` while answers come, its canaries are
    judged the same way. A verifier that runs answers must reach isolation level `require` (0 to 3).
    """

    def __init__(
        self, workers: int = 1, timeout_s: float = 6.0, *, canary_every_s: float = 300.0, require: int = 2
    ) -> None:
        self._pool = Pool(workers, timeout_s)
        self._canary_every_s = canary_every_s
        self._require = require
        self._proven: dict[str, float] = {}
        self._proving = asyncio.Lock()
        self._kept: OrderedDict[bytes, Verdict] = OrderedDict()
        self._judging: dict[bytes, asyncio.Task[Verdict]] = {}
        self._counts: Counter[str] = Counter()
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self.levels: dict[str, int] = {}
        """Isolation level reached by each verifier of ours that has been proven."""

    async def judge(self, verifier: str, problem: Mapping[str, Any], answer: str) -> Verdict:
        """The verdict on one answer. Raises RuntimeError if a canary is judged wrongly, ValueError naming
        `sandbox.require` if the isolation demanded is not reached here."""
        if verifier not in self._proven:
            await self.prove([verifier])
        answer = answer[-ANSWER_LIMIT:]
        if time.monotonic() - self._proven[verifier] >= self._canary_every_s:
            self._proven[verifier] = time.monotonic()
            verdict, _ = await asyncio.gather(self._shared(verifier, problem, answer), self._judge_canaries(verifier))
        else:
            verdict = await self._shared(verifier, problem, answer)
        self._counts[verdict.status] += 1
        return verdict

    async def prove(self, verifiers: Sequence[str]) -> None:
        """Judge the canaries of these verifiers unless it was done before. Raises as `judge` does."""
        for verifier in verifiers:
            async with self._proving:
                if verifier not in self._proven:
                    await self._demand(verifier)
                    await self._judge_canaries(verifier)
                    self._proven[verifier] = time.monotonic()

    def stats(self) -> dict[str, float]:
        """Since the start: answers judged, by status, how many were equal to an earlier one, and workers replaced.
        Over the latest answers: percentiles of the wall seconds a check took. And the isolation level by verifier."""
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
        """End every worker process; answers still being judged are cancelled."""
        judging = list(self._judging.values())
        for task in judging:
            task.cancel()
        await asyncio.gather(*judging, return_exceptions=True)
        await self._pool.close()

    async def _shared(self, verifier: str, problem: Mapping[str, Any], answer: str) -> Verdict:
        """The verdict, judged once for equal answers to equal problems: verifiers of ours depend on nothing else."""
        if verifier not in VERIFIERS:
            return await self._judged(verifier, problem, answer)
        key = _key(verifier, problem, answer)
        if key is None:
            return await self._judged(verifier, problem, answer)
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
            self._counts["cache_hits"] += 1
            return kept
        task = self._judging.get(key)
        if task is not None:
            self._counts["cache_hits"] += 1
        else:
            task = self._judging[key] = asyncio.create_task(self._judged(verifier, problem, answer))
            task.add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(task)

    def _keep(self, key: bytes, done: asyncio.Task[Verdict]) -> None:
        del self._judging[key]
        if not done.cancelled() and done.exception() is None and done.result().status in KEPT_STATUSES:
            self._kept[key] = done.result()
            if len(self._kept) > CACHE_SIZE:
                self._kept.popitem(last=False)

    async def _judged(self, verifier: str, problem: Mapping[str, Any], answer: str) -> Verdict:
        verdict = await self._pool.run(verifier, problem, answer)
        self._seconds.append(verdict.seconds)
        return verdict

    async def _demand(self, verifier: str) -> None:
        """Raise ValueError unless the isolation demanded can be had for a verifier that runs answers."""
        demanded = min(self._require, VERIFIERS[verifier].runs_at) if verifier in VERIFIERS else 0
        if demanded:
            await asyncio.to_thread(levels.require, demanded)

    async def _judge_canaries(self, verifier: str) -> None:
        """A wrong verdict stops whoever waits for this one, and makes the next answer's verdict wait for new proof."""
        for canary in CANARIES.get(verifier, ()):
            for answer, status in ((canary.right, "correct"), (canary.wrong, "wrong")):
                verdict = await self._pool.run(verifier, canary.problem, answer)
                if verdict.status == "timeout":  # a machine that stood still is no broken grader
                    verdict = await self._pool.run(verifier, canary.problem, answer)
                if verdict.status != status:
                    self._proven.pop(verifier, None)
                    raise RuntimeError(
                        f"the grader is broken: verifier {verifier!r} finds {answer!r} {verdict.status} "
                        f"({verdict.reason}) where it must be {status}"
                    )
                self.levels[verifier] = verdict.isolation
        reached = self.levels.get(verifier, 0)
        if verifier in VERIFIERS and reached < min(self._require, VERIFIERS[verifier].runs_at):
            raise ValueError(
                f"sandbox.require: must be at most {reached}, the isolation level reached here for {verifier!r}, "
                f"got {self._require}"
            )


def _key(verifier: str, problem: Mapping[str, Any], answer: str) -> bytes | None:
    """Digest of all that a verdict depends on; None if the problem is no JSON."""
    try:
        text = json.dumps([version_of(verifier), problem, answer], sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        return None
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def judge_all(
    verifier: str,
    pairs: Sequence[tuple[Mapping[str, Any], str]],
    *,
    workers: int = 1,
    timeout_s: float = 6.0,
    require: int = 2,
) -> list[Verdict]:
    """Verdicts on pairs of problem and answer, in their order; blocks until all are there and no process is left.

    Works from any thread, also one that runs an event loop. Raises as `Judge.judge` does.
    """

    async def all_of_them() -> list[Verdict]:
        judge = Judge(workers, timeout_s, require=require)
        try:
            return await asyncio.gather(*(judge.judge(verifier, problem, answer) for problem, answer in pairs))
        finally:
            await judge.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(all_of_them())
    with ThreadPoolExecutor(max_workers=1) as helper:
        return helper.submit(asyncio.run, all_of_them()).result()
