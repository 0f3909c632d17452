"""PooledGrader: the Grader role over a judge with its pool of worker processes."""

import asyncio
from collections.abc import Sequence

from actors.contracts import GradeTask
from rewards.judge import Judge
from trajectories.trajectory import Grade


class PooledGrader:
    """Judges answers on `workers` processes, each answer within its deadline.

    An answer that exceeds it is a 0 with the reason, one whose worker crashed is judged again first; a fault of the
    grader or of a verifier is a grade without a reward. The arguments are those of `rewards.judge.Judge`.
    """

    def __init__(self, workers: int, timeout_s: float, canary_every_s: float = 300.0, require: int = 2) -> None:
        self._judge = Judge(workers, timeout_s, canary_every_s=canary_every_s, require=require)

    async def prove(self, verifiers: Sequence[str]) -> dict[str, int]:
        """Judge the canaries of these verifiers, and return the isolation level of each of ours. Raises RuntimeError if
        a canary is judged wrongly, ValueError naming `sandbox.require` if the level demanded is not reached here."""
        await self._judge.prove(verifiers)
        return self._judge.levels

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        """Exactly one grade for every task, by key. Raises as `prove` does."""
        assert len({task.key for task in tasks}) == len(tasks), "two tasks share a key"
        verdicts = await asyncio.gather(
            *(self._judge.judge(task.verifier, task.problem, task.answer) for task in tasks)
        )
        return {
            task.key: Grade(reward=v.reward, status=v.status, reason=v.reason, seconds=v.seconds)
            for task, v in zip(tasks, verdicts, strict=True)
        }

    async def stats(self) -> dict[str, float]:
        """What `Judge.stats` tells."""
        return self._judge.stats()

    async def close(self) -> None:
        """End every worker process; answers still being judged are cancelled."""
        await self._judge.close()
