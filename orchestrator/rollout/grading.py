"""Run the graders' self-tests at the start of a run, collect their statistics each step, and raise alerts."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from actors.contracts import Grader
from actors.presence import LOSSES
from configs.rewards import RewardConfig
from tasks.source import Source, first_prompts
from trajectories.trajectory import Group, Prompt

PROMPTS_SEARCHED = 64
"""Number of first prompts of a task that are searched for its verifiers. A verifier of a later prompt is tested before
its first answer."""
WINDOW = 1_000
"""Smallest number of answers over which the fractions of an alert are computed, once there are so many. Among fewer
answers, the number that raises an alert is the one that does among WINDOW, so that a few raise none."""
ERROR_FRACTION = 0.005
"""An alert is raised if the fraction of answers with a grader_error is larger."""
TIMEOUT_INCREASE = 0.05
"""An alert is raised if the fraction of timeouts exceeds that of all earlier answers by more than this."""


class NothingGraded(Exception):
    """No answer of a step could be judged. Carries the groups of the step, and the reason of the first answer."""

    def __init__(self, groups: Sequence[Group]) -> None:
        answers = [trajectory for group in groups for trajectory in group.trajectories]
        grade = answers[0].grade
        assert grade is not None
        super().__init__(f"got grader_error for all {len(answers)} answers of the step, the first: {grade.reason}")
        self.groups = list(groups)


def require_grades(groups: Sequence[Group]) -> None:
    """Raise NothingGraded if all answers of a step have a grader_error: there is nothing to train on."""
    if not any(group.rewards for group in groups):
        raise NothingGraded(groups)


def verifiers_of(source: Source, rewards: Mapping[str, RewardConfig] | None = None) -> list[str]:
    """Return the verifiers of a task's first prompts, and of further rewards."""
    return named_verifiers(first_prompts(source, PROMPTS_SEARCHED), rewards or {})


def named_verifiers(prompts: Iterable[Prompt], rewards: Mapping[str, RewardConfig]) -> list[str]:
    """Return the verifiers of prompts, and of further rewards."""
    further = {reward.verifier for reward in rewards.values() if reward.verifier}
    return sorted(further | {prompt.verifier for prompt in prompts})


async def prove(
    graders: Sequence[Grader],
    source: Source,
    report: Callable[[str], None],
    rewards: Mapping[str, RewardConfig] | None = None,
) -> None:
    """Judge the canaries of the task's verifiers on every grader, and report the isolation levels.

    Args:
        graders: all graders of the run.
        source: the task. Its first prompts name the verifiers.
        report: is called with one line of text per grader.
        rewards: `objective.rewards`, which name further verifiers.

    Raises:
        RuntimeError: a canary got a wrong verdict.
        ValueError: the required isolation level is not reached. Names `sandbox.require`.
    """
    verifiers = verifiers_of(source, rewards)
    for number, levels in enumerate(await asyncio.gather(*(grader.prove(verifiers) for grader in graders))):
        text = ", ".join(f"{verifier} at isolation level {level}" for verifier, level in sorted(levels.items()))
        if text:
            report(f"grader {number}: {text}")


def merge_stats(all_stats: Sequence[dict[str, float]]) -> dict[str, float]:
    """Merge the statistics of several graders: the sum of counts, the highest latency, the lowest isolation level."""
    names = dict.fromkeys(name for stats in all_stats for name in stats)
    values = {name: [stats[name] for stats in all_stats if name in stats] for name in names}
    merge = {"seconds": max, "isolation": min}
    return {name: merge.get(name.partition("/")[0], sum)(found) for name, found in values.items()}


def since(before: dict[str, float], now: dict[str, float]) -> dict[str, float]:
    """Subtract the counts of `before`; latencies and isolation levels are those of now."""
    counts = {name for name in before if name.partition("/")[0] not in ("seconds", "isolation")}
    return {name: value - before[name] if name in counts else value for name, value in now.items()}


class GraderWatch:
    """Collects the graders' statistics and raises alerts on grader errors and timeouts.

    An alert is raised once, and again only after its condition was false in between.

    Args:
        graders: all graders of the run.
        alert: is called with the title and the text of an alert.
    """

    def __init__(self, graders: Sequence[Grader], alert: Callable[[str, str], None]) -> None:
        self._graders = list(graders)
        self._alert = alert
        self._history: deque[dict[str, float]] = deque([{}])
        """Earlier statistics, oldest first. The window begins at the first."""
        self._active: set[str] = set()
        """Titles of the alerts whose condition is true."""
        self._before: dict[str, float] = {}
        self._last: list[dict[str, float]] = [{} for _ in graders]
        """The latest statistics of each grader's process."""
        self._ended: list[dict[str, float]] = [{} for _ in graders]
        """Those of its processes that were lost."""

    async def start(self) -> None:
        """Exclude the answers graded so far, which were presampled, from metrics and alerts."""
        self._before = await self._merged()

    async def collect(self) -> dict[str, float]:
        """Return the graders' statistics as metrics `grader/...`, and raise the alerts that are due."""
        now = since(self._before, await self._merged())
        self.check(now)
        return {f"grader/{name}": value for name, value in now.items()}

    async def _merged(self) -> dict[str, float]:
        """Return the merged statistics of all graders since they were first started. A grader that is lost has those of
        its last answer, and begins again at 0 when it was started again."""
        await asyncio.gather(*(self._ask(i) for i in range(len(self._graders))))
        return merge_stats([merge_stats([e, last]) for e, last in zip(self._ended, self._last, strict=True)])

    async def _ask(self, i: int) -> None:
        try:
            now = await self._graders[i].stats()
        except LOSSES:
            return  # its grades or its heartbeats are missed too, and the supervisor acts on that
        if now.get("graded", 0.0) < self._last[i].get("graded", 0.0):
            self._ended[i] = merge_stats([self._ended[i], self._last[i]])
        self._last[i] = now

    def check(self, now: dict[str, float]) -> None:
        """Raise the alerts that are due, given the merged statistics since the start."""
        while len(self._history) > 1 and now["graded"] - self._history[1].get("graded", 0.0) >= WINDOW:
            self._history.popleft()
        before = self._history[0]
        self._history.append(now)

        graded = now["graded"] - before.get("graded", 0.0)
        divisor = max(graded, WINDOW)
        errors, timeouts = (now[status] - before.get(status, 0.0) for status in ("grader_error", "timeout"))
        earlier = before.get("timeout", 0.0) / max(before.get("graded", 0.0), 1.0)
        self._update(
            errors / divisor > ERROR_FRACTION,
            "the grader fails",
            f"{errors / max(graded, 1.0):.2%} of the latest {graded:,.0f} answers could not be judged (grader_error); "
            "they are masked, and trajectories.jsonl has the reasons",
        )
        self._update(
            timeouts / divisor > earlier + TIMEOUT_INCREASE,
            "answers time out",
            f"{timeouts / max(graded, 1.0):.1%} of the latest {graded:,.0f} answers took too long to judge, "
            f"{earlier:.1%} of those before",
        )

    def _update(self, active: bool, title: str, text: str) -> None:
        if active and title not in self._active:
            self._alert(title, text)
        (self._active.add if active else self._active.discard)(title)
