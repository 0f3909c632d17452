"""PooledGrader: the Grader role over a pool of worker processes."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from actors.contracts import GradeTask
from rewards.sandbox.pool import Pool
from rewards.verdict import STATUSES
from trajectories.trajectory import Grade

ANSWER_LIMIT = 32_768
"""Characters of an answer that reach its verifier: the last ones, where the final answer stands."""
CANARIES: dict[str, tuple[dict[str, Any], str, str]] = {
    "countdown": ({"numbers": [3, 7, 12], "target": 22}, "3+7+12", "3*7+12"),
    "math": ({"answer": r"\frac{1}{2}+x"}, r"\boxed{x+0.5}", r"\boxed{x+0.6}"),
}
"""Per verifier a problem, a right answer and a wrong one; judged before the first real answer."""


class PooledGrader:
    """Judges answers on `workers` processes, each answer within `timeout_s` seconds.

    An answer whose worker died or stuck is judged again once, then it is a 0 with the reason; a fault of the grader or
    of a verifier is a grade without a reward.
    """

    def __init__(self, workers: int, timeout_s: float) -> None:
        self._pool = Pool(workers, timeout_s)
        self._proven: set[str] = set()
        self._proving = asyncio.Lock()
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._max_seconds = 0.0

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        """Exactly one grade for every task, by key. Raises RuntimeError if the grader itself fails its own test."""
        assert len({task.key for task in tasks}) == len(tasks), "two tasks share a key"
        for verifier in {task.verifier for task in tasks}:
            await self._prove(verifier)
        grades = await asyncio.gather(*(self._grade(task.verifier, task.problem, task.answer) for task in tasks))
        for grade in grades:
            self._counts[grade.status] += 1
            self._seconds += grade.seconds
            self._max_seconds = max(self._max_seconds, grade.seconds)
        return {task.key: grade for task, grade in zip(tasks, grades, strict=True)}

    async def stats(self) -> dict[str, float]:
        """Since the start: answers graded, by status, seconds an answer took, and worker processes replaced."""
        graded = self._counts.total()
        return {
            "graded": float(graded),
            **{status: float(self._counts[status]) for status in STATUSES},
            "mean_seconds": self._seconds / max(graded, 1),
            "max_seconds": self._max_seconds,
            "respawns": float(self._pool.respawns),
        }

    async def close(self) -> None:
        """End every worker process; answers still being judged are cancelled."""
        await self._pool.close()

    async def _grade(self, verifier: str, problem: Any, answer: str) -> Grade:
        task = {"verifier": verifier, "problem": dict(problem), "answer": answer[-ANSWER_LIMIT:]}
        return Grade(**await self._pool.run(task))

    async def _prove(self, verifier: str) -> None:
        """The canary: a right and a wrong answer through the same path, once per verifier that has them."""
        if verifier in self._proven:
            return
        async with self._proving:
            if verifier in self._proven:
                return
            if verifier in CANARIES:
                problem, right, wrong = CANARIES[verifier]
                for answer, status in ((right, "correct"), (wrong, "wrong")):
                    grade = await self._grade(verifier, problem, answer)
                    if grade.status != status:
                        raise RuntimeError(
                            f"the grader is broken: verifier {verifier!r} finds {answer!r} {grade.status} "
                            f"({grade.reason}) where it must be {status}"
                        )
            self._proven.add(verifier)
