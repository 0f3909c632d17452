"""The graders of a run, watched: proven at the start, their numbers beside each step's, alarms about them."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from actors.contracts import Grader
from tasks.source import Source

PROMPTS_LOOKED_AT = 64
"""Prompts from which the verifiers of a task are read; one that comes later is proven when it comes."""
WINDOW = 1_000
"""Answers, at least, over which a share raises an alarm."""
ERROR_SHARE = 0.005
"""A larger share of answers whose grader failed is an alarm."""
TIMEOUT_JUMP = 0.05
"""A share of timeouts this much above that of all answers before is an alarm."""


async def prove(graders: Sequence[Grader], source: Source, say: Callable[[str], None]) -> None:
    """Test every grader with the task's verifiers and tell the isolation in force. Raises RuntimeError when one judges
    wrongly, ValueError naming `sandbox.require` when the level demanded is not reached."""
    verifiers = sorted({source.prompt(position).verifier for position in range(PROMPTS_LOOKED_AT)})
    for number, levels in enumerate(await asyncio.gather(*(grader.prove(verifiers) for grader in graders))):
        told = ", ".join(f"{verifier} at isolation level {level}" for verifier, level in sorted(levels.items()))
        if told:
            say(f"grader {number}: {told}")


def merged(all_stats: Sequence[dict[str, float]]) -> dict[str, float]:
    """The numbers of several graders as one: counts add up, latencies are the slowest's, levels the lowest."""
    names = dict.fromkeys(name for stats in all_stats for name in stats)
    values = {name: [stats[name] for stats in all_stats if name in stats] for name in names}
    rule = {"seconds": max, "isolation": min}
    return {name: rule.get(name.partition("/")[0], sum)(found) for name, found in values.items()}


def since(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Subtract the counts of `before`; latencies and isolation levels are those of now."""
    counts = {name for name in before if name.partition("/")[0] not in ("seconds", "isolation")}
    return {name: value - before[name] if name in counts else value for name, value in now.items()}


class GraderWatch:
    """Asks the graders for their numbers, and calls `alert(title, text)` when a share goes wrong, once until it has
    been right again."""

    def __init__(self, graders: Sequence[Grader], alert: Callable[[str, str], None]) -> None:
        self._graders = list(graders)
        self._alert = alert
        self._seen: deque[dict[str, float]] = deque([{}])
        """Earlier numbers, oldest first; the window begins at the first."""
        self._wrong: set[str] = set()
        self._before: dict[str, float] = {}

    async def start(self) -> None:
        """Exclude the answers graded so far, which were presampled, from metrics and alerts."""
        self._before = merged(await asyncio.gather(*(grader.stats() for grader in self._graders)))

    async def look(self) -> dict[str, float]:
        """The graders' numbers as metrics, `grader/...`."""
        now = since(self._before, merged(await asyncio.gather(*(grader.stats() for grader in self._graders))))
        self.judge(now)
        return {f"grader/{name}": value for name, value in now.items()}

    def judge(self, now: dict[str, float]) -> None:
        """Raise the alarms that these numbers, counted since the start, call for."""
        while len(self._seen) > 1 and now["graded"] - self._seen[1].get("graded", 0.0) >= WINDOW:
            self._seen.popleft()
        before = self._seen[0]
        self._seen.append(now)

        def share(status: str) -> float:
            """Of the window; of WINDOW answers as long as there were not that many."""
            return (now[status] - before.get(status, 0.0)) / max(now["graded"] - before.get("graded", 0.0), WINDOW)

        errors, timeouts = share("grader_error"), share("timeout")
        earlier = before.get("timeout", 0.0) / max(before.get("graded", 0.0), 1.0)
        self._say(
            errors > ERROR_SHARE,
            "the grader fails",
            f"{errors:.2%} of the latest answers could not be judged (grader_error); they are masked, and "
            "trajectories.jsonl has the reasons",
        )
        self._say(
            timeouts > earlier + TIMEOUT_JUMP,
            "answers time out",
            f"{timeouts:.1%} of the latest answers took too long to judge, {earlier:.1%} of those before",
        )

    def _say(self, wrong: bool, title: str, text: str) -> None:
        if wrong and title not in self._wrong:
            self._alert(title, text)
        (self._wrong.add if wrong else self._wrong.discard)(title)
