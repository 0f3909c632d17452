"""PooledGrader: the Grader role over a judge with its pool of worker processes."""

from collections.abc import Sequence
from typing import Any

from actors.contracts import GradeTask
from rewards.judge import Judge
from rewards.workers.task import Task
from trajectories.trajectory import Grade


class PooledGrader:
    """Judges answers in worker processes, each answer within its deadline.

    An answer that exceeds its deadline gets reward 0 with a reason. An answer whose worker crashes is judged again, and
    gets reward 0 if that fails too. A fault of the grader or of a verifier gives a grade without a reward.
    The arguments are those of `rewards.judge.Judge`.
    """

    def __init__(self, workers: int, timeout_s: float, **settings: Any) -> None:
        self._judge = Judge(workers, timeout_s, **settings)

    async def prove(self, verifiers: Sequence[str]) -> dict[str, int]:
        """Judge the canaries of these verifiers, and return the isolation level of each built-in one.

        Raises:
            RuntimeError: a canary got a wrong verdict.
            ValueError: the required isolation level is not reached on this machine. Names `sandbox.require`.
        """
        await self._judge.prove(verifiers)
        return self._judge.levels

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        """Return exactly one grade for every task, by its key. Raises as `prove` does."""
        assert len({task.key for task in tasks}) == len(tasks), "two tasks share a key"
        verdicts = await self._judge.judge_many(
            [Task(task.verifier, task.problem, task.answer, task.context) for task in tasks]
        )
        return {
            task.key: Grade(
                reward=v.reward,
                status=v.status,
                reason=v.reason,
                seconds=v.seconds,
                parts=v.parts,
                semantic_key=v.semantic_key,
                vote=v.vote,
            )
            for task, v in zip(tasks, verdicts, strict=True)
        }

    async def stats(self) -> dict[str, float]:
        """Return the statistics of `Judge.stats`."""
        return self._judge.stats()

    async def close(self) -> None:
        """End every worker process, and cancel the answers that are being judged."""
        await self._judge.close()
