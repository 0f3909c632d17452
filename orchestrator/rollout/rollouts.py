"""Turn prompts into graded groups, over any number of generators and graders."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType

from actors.background import Background
from actors.contracts import GenerationJob, Generator, Grader
from actors.finished import EngineLoad
from actors.presence import LOSSES, Presence, RoleLost
from configs.config import Config
from configs.rewards import ANSWER_REWARD, RewardConfig, with_answer
from orchestrator.rollout.bound import Bound, Pending
from orchestrator.rollout.grade_tasks import tasks_of
from orchestrator.rollout.rewards import combined
from orchestrator.rollout.room import Lengths, Room
from trajectories.trajectory import Group, Prompt, Trajectory

POLL_S = 1.0
"""Seconds that one `Generator.collect` waits for the next answer."""
BIND_S = 0.25
"""The same while groups wait for room: `Generator.collect` reports it."""


class Rollouts:
    """Binds whole groups to generators, and sends every finished answer to a grader.

    A group is bound to the generator with the fewest pending answers, in a repeatable run with the fewest so far. With
    `late_binding` only to one that has room, and groups wait here until one has. If a role fails, every pending group
    fails; also if a generator with work generates no token for `silence_s`. Use as an async context manager.

    Under supervision (`lost`) a generator that is lost leaves. The others generate its missing answers with the same
    seeds, and those that it has finished are kept. In a repeatable run the groups wait for it, and it decodes again all
    that it was sent, so that they are the same bit for bit; what is finished twice is dropped.

    Silence is counted in the seconds that a generator has waited for its own answers, never by the clock of this
    process: while its event loop is blocked, nothing is counted, and tokens generated meanwhile end the silence.

    Args:
        silence_s: longest time without a token, in seconds.
        rewards: further rewards of every answer (`objective.rewards`).
        late_binding: whether groups wait for room (`Room`). Which generator answers which group then depends on timing.
        repeatable: whether what an engine decodes together must not depend on a loss.
    """

    def __init__(
        self,
        generators: Sequence[Generator],
        graders: Sequence[Grader],
        silence_s: float,
        rewards: Mapping[str, RewardConfig] | None = None,
        *,
        late_binding: bool = False,
        repeatable: bool = False,
    ) -> None:
        self.generators, self.graders, self.silence_s = list(generators), Presence(graders), silence_s
        self.lost: Callable[[Generator, Exception], bool] = lambda generator, error: False
        """Called with a generator that was lost. Returns whether it is started again, or others go on without it."""
        self._repeatable = repeatable
        self._rewards = with_answer(rewards) if rewards else {}
        self._pending: dict[str, Pending] = {}
        self._unbound: deque[Pending] = deque()
        self._bound = [Bound(generator, late_binding) for generator in generators]
        self._lengths = Lengths()
        self._background = Background()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> "Rollouts":
        for bound in self._bound:
            bound.poller = self._background.start(self._poll(bound))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._background.end()
        for pending in self._pending.values():
            pending.done.cancel()

    async def submit(
        self, prompts: Sequence[Prompt], jobs: Sequence[GenerationJob], *, first: bool = False, foreign: bool = False
    ) -> list[asyncio.Future[Group]]:
        """Start one group for each prompt and its job.

        Args:
            first: whether these groups are bound before those that wait for room.
            foreign: whether the prompts are of another task, whose answers have the reward of its verifier alone.

        Returns:
            One future per prompt, of its graded group with the answers in the order of their seeds.
        """
        if self._failure is not None:
            raise self._failure
        added = []
        for prompt, job in zip(prompts, jobs, strict=True):
            assert job.key not in self._pending, f"{job.key} is already in flight"
            size, done = len(job.seeds), asyncio.get_running_loop().create_future()
            own = {} if foreign else self._rewards
            self._pending[job.key] = Pending(prompt, job, done, [None] * size, size, own)
            added.append(self._pending[job.key])
        if first:
            self._unbound.extendleft(reversed(added))
        else:
            self._unbound.extend(added)
        try:
            await self._bind()
        except Exception as error:
            self.fail(error)
            raise
        return [pending.done for pending in added]

    async def run(
        self, prompts: Sequence[Prompt], jobs: Sequence[GenerationJob], *, first: bool = False, foreign: bool = False
    ) -> list[Group]:
        """Generate and grade groups of all prompts, and return them in the order of the prompts. Args: as `submit`."""
        return list(await asyncio.gather(*await self.submit(prompts, jobs, first=first, foreign=foreign)))

    def leave(self, generator: Generator) -> None:
        """Bind no group to a generator that was lost, and take from it what it has not finished."""
        bound = self._of(generator)
        bound.state = "absent"
        if bound.poller is not asyncio.current_task() and bound.poller is not None:
            bound.poller.cancel()
        if not self._repeatable:
            self._take_back(bound)

    def leave_out(self, generator: Generator) -> None:
        """Expect a generator that has left no more for now: the others generate all that was bound to it."""
        bound = self._of(generator)
        bound.state = "left_out"
        self._take_back(bound)

    def enter(self, generator: Generator) -> None:
        """Bind groups to a generator that was started again and serves the weights of the others."""
        bound = self._of(generator)
        assert bound.state != "present", "it has not left"
        again, bound.room, bound.state = bound.sent, Room(EngineLoad()), "present"
        bound.idle()
        bound.poller = self._background.start(self._poll(bound))
        self._background.start(self._send_again(bound, again))

    def _of(self, generator: Generator) -> Bound:
        return next(bound for bound in self._bound if bound.generator is generator)

    def _take_back(self, bound: Bound) -> None:
        groups = [pending for pending in self._pending.values() if pending.bound is bound and pending.missing]
        self._unbound.extendleft(reversed(groups))
        for pending in groups:
            pending.bound = None
            bound.load -= len(pending.graded)
        bound.idle()
        self._background.start(self._send_again(bound, []))

    async def _send_again(self, bound: Bound, sent: Sequence[Sequence[Pending]]) -> None:
        """Send a generator the submissions that its process before had not finished, then bind the groups that wait."""
        try:
            if any(pending.missing for groups in sent for pending in groups):
                bound.sent += map(list, sent)
                bound.decoding += sum(len(pending.graded) for groups in sent for pending in groups)
                for groups in sent:
                    await self._send(bound, groups, whole=True)
            await self._bind()
        except Exception as error:
            self.fail(error)

    async def _bind(self) -> None:
        """Submit the groups that wait, in order, as far as generators have room; those of a generator in one call."""
        assigned: dict[Bound, list[Pending]] = {}
        while self._unbound:
            pending = self._unbound[0]
            expected = self._lengths.expected(pending.job)
            # In a repeatable run an absent generator gets what it would get if it were there, when it is back.
            usable = [b for b in self._bound if b.state == "present" or (self._repeatable and b.state == "absent")]
            roomy = [bound for bound in usable if bound.has_room(pending.job, expected)]
            if not roomy:
                break
            target = min(roomy, key=lambda bound: bound.load)
            target.take(self._unbound.popleft(), expected)
            assigned.setdefault(target, []).append(pending)
        for bound, groups in assigned.items():
            bound.sent.append(groups)
        for bound, groups in assigned.items():
            if bound.state == "present" and any(groups is own for own in bound.sent):  # it may have left meanwhile
                await self._send(bound, groups, whole=False)

    async def _send(self, bound: Bound, groups: Sequence[Pending], *, whole: bool) -> None:
        try:
            await bound.generator.submit(bound.jobs(groups, whole=whole))
        except LOSSES as error:
            if not self.lost(bound.generator, error):
                raise
        else:
            bound.has_work.set()

    async def _poll(self, bound: Bound) -> None:
        silence_s, tokens = 0.0, 0
        try:
            while True:
                if not bound.decoding:
                    bound.idle()
                    silence_s = 0.0
                await bound.has_work.wait()
                wait_s = BIND_S if self._unbound else POLL_S
                finished = await bound.generator.collect(wait_s)
                if bound.late:
                    bound.room = Room(finished.load)
                if len(finished) or finished.load.asleep or finished.load.tokens != tokens:
                    silence_s, tokens = 0.0, finished.load.tokens
                else:
                    silence_s += wait_s
                if silence_s > self.silence_s:
                    number = self._bound.index(bound)
                    words = f"generated no token for {self.silence_s:.0f} s with work to do"
                    raise RoleLost(f"generator {number} {words}")
                if len(finished):
                    self._lengths.observe(finished)
                    keys, answers = bound.fresh(finished)
                    if keys:  # in a task of its own, so that grading time does not delay the next poll
                        self._background.start(self._grade(keys, answers))
                await self._bind()
        except Exception as error:  # whatever else a role raises fails the groups
            if not (isinstance(error, LOSSES) and self.lost(bound.generator, error)):
                self.fail(error)

    async def _grade(self, keys: Sequence[str], answers: Sequence[Trajectory]) -> None:
        """Grade answers, and store their grades.

        Args:
            keys: key of the job of each answer's group.
        """
        try:
            prompts = [self._pending[key].prompt for key in keys]
            rewards = [self._pending[key].rewards for key in keys]
            tasks = [tasks_of(*one) for one in zip(prompts, keys, answers, rewards, strict=True)]
            every = [task for of_answer in tasks for task in of_answer.values()]
            grades = await self.graders.use(lambda grader: grader.grade(every))
            for key, answer, of_answer, own in zip(keys, answers, tasks, rewards, strict=True):
                missing = [task.key for task in of_answer.values() if task.key not in grades]
                assert not missing, f"the grader returned no grade for {missing}"
                if key in self._pending:  # otherwise its group failed during grading
                    parts = {name: grades[task.key] for name, task in of_answer.items()}
                    grade = combined(parts, own) if own else parts[ANSWER_REWARD]
                    self._complete(key, replace(answer, grade=grade))
        except Exception as error:
            self.fail(error)

    def _complete(self, key: str, graded: Trajectory) -> None:
        pending = self._pending[key]
        assert pending.graded[graded.sample_index] is None, f"{key}: answer {graded.sample_index} came twice"
        pending.graded[graded.sample_index] = graded
        pending.ungraded -= 1
        if not pending.ungraded:
            del self._pending[key]
            assert pending.bound is not None
            if not self._repeatable:  # there the choice of a generator must not depend on which groups are complete
                pending.bound.load -= len(pending.graded)
            if not pending.done.done():
                answers = tuple(answer for answer in pending.graded if answer is not None)
                pending.done.set_result(Group(prompt=pending.prompt, trajectories=answers))

    def fail(self, error: Exception) -> None:
        """Fail every pending group and every later submission with this error, if it is the first."""
        self._failure = self._failure or error
        for pending in self._pending.values():
            if not pending.done.done():
                pending.done.set_exception(error)
                pending.done.exception()  # marks it as retrieved; asyncio warns of every error that is not
        self._pending.clear()
        self._unbound.clear()


def rollouts_for(cfg: Config, generators: Sequence[Generator], graders: Sequence[Grader]) -> Rollouts:
    """Return the rollouts of a run."""
    rewards = cfg.objective.rewards
    return Rollouts(
        generators,
        graders,
        cfg.generator.timeout_s,
        rewards,
        late_binding=cfg.binds_late,
        repeatable=cfg.repeatable,
    )
