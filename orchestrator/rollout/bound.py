"""What is bound to one generator: groups, answers in progress, and the jobs to issue again if it is lost."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from actors.contracts import GenerationJob, Generator
from actors.finished import EngineLoad, Finished
from configs.rewards import RewardConfig
from orchestrator.rollout.answers import trajectories
from orchestrator.rollout.room import Room
from trajectories.trajectory import Group, Prompt, Trajectory


@dataclass(slots=True, eq=False)
class Pending:
    """A group that is being generated or graded."""

    prompt: Prompt
    job: GenerationJob
    done: asyncio.Future[Group]
    graded: list[Trajectory | None]
    """The graded answers by sample index; None for the others."""
    ungraded: int
    """Number of answers without a grade."""
    rewards: Mapping[str, RewardConfig]
    """Of each answer, with that of its task's verifier; empty: that of the verifier alone."""
    received: set[int] = field(default_factory=set)
    """Sample indices of the answers that a generator has finished."""
    issues: int = 0
    """How often it was sent to a generator."""
    bound: "Bound | None" = None
    """Its generator; None before it is bound to one."""

    @property
    def missing(self) -> list[int]:
        """Sample indices of the answers that no generator has finished."""
        return [index for index in range(len(self.graded)) if index not in self.received]

    def issue(self, indices: Sequence[int]) -> GenerationJob:
        """Return the job of some answers, with their own seeds. Every issue has a key of its own, so that answers of an
        earlier one are never taken for its answers."""
        self.issues += 1
        if self.issues == 1:
            return self.job
        seeds = tuple(self.job.seeds[index] for index in indices)
        return replace(self.job, key=f"{self.job.key}/again-{self.issues}", seeds=seeds)


@dataclass(slots=True, eq=False)
class Bound:
    """One generator and what is bound to it."""

    generator: Generator
    late: bool
    """Whether groups are bound only where there is room."""
    state: Literal["present", "absent", "left_out"] = "present"
    """absent: it is started again; left_out: it is not, or Ray has no room for it yet."""
    room: Room = field(default_factory=lambda: Room(EngineLoad()))  # none before a report
    load: int = 0
    """Answers of the pending groups that are bound to it; in a repeatable run those of all groups that were."""
    decoding: int = 0
    """Answers that it has not finished."""
    sent: list[list[Pending]] = field(default_factory=list)
    """The groups of each submission since it last had nothing to decode, also of those that wait until it is back."""
    issued: dict[str, tuple[Pending, list[int], GenerationJob]] = field(default_factory=dict)
    """By key of a job: its group, the sample index of each of its answers, and the job."""
    has_work: asyncio.Event = field(default_factory=asyncio.Event)
    poller: "asyncio.Task[None] | None" = None

    def has_room(self, job: GenerationJob, expected: float) -> bool:
        """Return whether the answers of a job can be decoded now, without waiting for others."""
        return not (self.late and self.decoding) or self.room.holds(job, expected)

    def take(self, pending: Pending, expected: float) -> None:
        """Bind a group, of so many expected tokens."""
        pending.bound = self
        self.load += len(pending.graded)
        self.decoding += len(pending.missing)
        self.room.fill(pending.job, expected)

    def jobs(self, groups: Sequence[Pending], *, whole: bool) -> list[GenerationJob]:
        """Return the jobs to send for these groups.

        Args:
            whole: whether answers that were finished before are generated again. Without them, the engine would decode
                other batches, and round differently.
        """
        found = []
        for pending in groups:
            indices = list(range(len(pending.graded))) if whole else pending.missing
            found.append(pending.issue(indices))
            self.issued[found[-1].key] = (pending, indices, found[-1])
        return found

    def fresh(self, finished: Finished) -> tuple[list[str], list[Trajectory]]:
        """Count answers that the generator has finished. Return those that were not finished before, each with the key
        of its group."""
        self.decoding -= len(finished)
        jobs = {key: self.issued[key][2] for key in finished.keys}
        keys, answers = [], []
        for key, answer in zip(finished.keys, trajectories(finished, jobs), strict=True):
            pending, indices, _ = self.issued[key]
            index = indices[answer.sample_index]
            if index not in pending.received:
                pending.received.add(index)
                keys.append(pending.job.key)
                answers.append(answer if index == answer.sample_index else replace(answer, sample_index=index))
        return keys, answers

    def idle(self) -> None:
        """Note that nothing is left to decode."""
        self.decoding, self.sent, self.issued = 0, [], {}
        self.has_work.clear()
