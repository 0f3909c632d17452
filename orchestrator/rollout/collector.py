"""Generate and grade groups in the background, at most a window ahead of the training loop."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Container, Sequence
from dataclasses import replace
from types import TracebackType

from actors.background import Background
from actors.contracts import GenerationJob
from configs.config import Config
from orchestrator.rollout.encoding import Encoder
from orchestrator.rollout.grading import require_grades
from orchestrator.rollout.jobs import jobs_for
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.rollout.upcoming import Upcoming
from orchestrator.rollout.window import Slot, Window
from orchestrator.stored.experience import Experience, Question
from tasks.source import Source
from trajectories.trajectory import Group, Prompt

MAX_SKIPPED_IN_A_ROW = 10_000
"""Number of successive prompts that cannot be used after which the data are considered wrong."""


class Stopped(Exception):
    """`Collector.stop` was called while the training loop waited for groups."""


class Collector:
    """Keeps the window full, generates and grades its prompts, and returns groups in the order of the window.

    A prompt that replaces a dropped group is admitted at once. In a run that is repeatable (`Config.repeatable`) it
    waits until no group is in flight, so that which prompts an engine decodes together does not depend on timing.

    Use as an async context manager.

    Args:
        position: position of the first prompt in the train stream.
        trained: later positions that were trained on already.
        groups_left: groups to admit before the run ends; more would never be trained on.
        excluded: ids of prompts to skip, because their reference answers are rehearsed.
        experience: right answers of earlier steps. Some groups answer one of its prompts, with one answer less, in
            place of the next prompt of the stream.
        score: applied to each complete group that is trained on, before it is returned, while others are in progress.
    """

    def __init__(
        self,
        cfg: Config,
        source: Source,
        encode: Encoder,
        rollouts: Rollouts,
        *,
        position: int,
        groups_left: int,
        excluded: Container[str],
        experience: Experience | None = None,
        trained: Collection[int] = (),
        score: Callable[[Group], Awaitable[Group]] | None = None,
    ) -> None:
        self.score = score
        self.cfg, self.encode, self.rollouts, self.excluded = cfg, encode, rollouts, excluded
        self.source, self.experience = source, experience
        self.upcoming = Upcoming(source, self._job)
        lag = cfg.lag if cfg.take == "any_order" else None
        self.window = Window(cfg.window_slots, position, lag, trained)
        self.groups_left = groups_left
        self.skipped = {"too_long": 0, "rehearsed": 0}
        self.dropped = 0
        """Groups replaced because all of their rewards were equal, since the start."""
        self._dropped_ungraded: list[Group] = []
        self._refills_left = self._refills
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._background = Background()
        self._stop = False

    async def __aenter__(self) -> "Collector":
        self._fill_window()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._background.end()

    async def take(self, count: int) -> list[Group]:
        """Return the next `count` groups, oldest first, once the window has them: the oldest, or with `take=any_order`
        the oldest complete ones.

        Raises:
            Exception: generation or grading failed in the background; raised at once.
            Stopped: `stop` was called and the groups are not complete.
            NothingGraded: none of their answers could be judged.
        """
        while not self.window.ready(count):
            if self._failure is not None:
                raise self._failure
            if self._stop:
                raise Stopped
            self._changed.clear()
            await self._changed.wait()
        groups = self.window.take(count)
        require_grades(groups)
        return groups

    @property
    def _refills(self) -> int:
        """Number of groups that one step may replace."""
        return self.cfg.sampling.max_refills * self.cfg.groups_per_step

    def release(self, groups: list[Group]) -> None:
        """Admit new prompts in place of these groups. Call it after publishing, so that new weights generate them."""
        self.window.release(groups)
        self._refills_left = self._refills
        self._fill_window()

    def stop(self) -> None:
        """Make `take` raise Stopped unless its groups are complete."""
        self._stop = True
        self._changed.set()

    def stats(self) -> dict[str, float]:
        """Return metrics: prompts skipped and groups dropped since the start."""
        skipped = {f"skipped_prompts/{reason}": float(count) for reason, count in self.skipped.items()}
        return skipped | ({"dropped_groups": float(self.dropped)} if self._refills else {})

    def take_dropped_ungraded(self) -> list[Group]:
        """Return the groups that were dropped since the last call and have an answer that could not be graded."""
        groups, self._dropped_ungraded = self._dropped_ungraded, []
        return groups

    def _fill_window(self) -> None:
        """Admit prompts to all free slots and submit them together, so that engine batches do not depend on timing."""
        prompts, jobs, slots = [], [], []
        try:
            while self.window.free and self.groups_left and self._failure is None:
                prompt, job = self._next_prompt()
                question = self._question(prompt.position)
                if question is not None:
                    # The position is that of the slot, so that each group of a question has seeds of its own.
                    prompt = replace(self.source.prompt(question.position), position=prompt.position)
                    job = self._job(prompt, self.cfg.sampling.group_size - 1)
                slots.append(self.window.admit(prompt.position, question.answers if question else ()))
                prompts.append(prompt)
                jobs.append(job)
                self.groups_left -= 1
        except ValueError as error:
            self.fail(error)
        if prompts:
            self._background.start(self._collect(prompts, jobs, slots))
            self._background.start(
                self.upcoming.prepare(self.window.position, min(self.cfg.groups_per_step, self.groups_left))
            )

    def _question(self, position: int) -> Question | None:
        """Return the question that is answered again in place of the prompt at `position`; None: that prompt is."""
        if self.experience is None:
            return None
        admitted = self.cfg.steps * self.cfg.groups_per_step - self.groups_left
        return self.experience.choose(admitted, position, self.window.with_experience)

    def _job(self, prompt: Prompt, answers: int = 0) -> GenerationJob:
        """Return the job of a prompt, of `sampling.group_size` answers unless their number is given."""
        sampling = self.cfg.sampling
        [job] = jobs_for(
            [prompt],
            [self.encode(prompt)],
            purpose="train",
            run_seed=self.cfg.seed,
            answers=answers or sampling.group_size,
            temperature=sampling.temperature,
            max_new_tokens=sampling.max_new_tokens,
            stop=sampling.stop,
            mixture=sampling.mixture if sampling.mixed_with else 0.0,
        )
        return job

    def _next_prompt(self) -> tuple[Prompt, GenerationJob]:
        for _ in range(MAX_SKIPPED_IN_A_ROW):
            prompt, job = self.upcoming.at(self.window.position)
            if len(job.prompt_tokens) > self.cfg.sampling.max_prompt_tokens:
                self.skipped["too_long"] += 1
            elif prompt.id in self.excluded:
                self.skipped["rehearsed"] += 1
            else:
                return prompt, job
            self.window.skip(self.window.position)
        raise ValueError(
            f"task: {MAX_SKIPPED_IN_A_ROW} successive prompts could not be used "
            f"(too long for sampling.max_prompt_tokens={self.cfg.sampling.max_prompt_tokens}, or rehearsed), "
            f"got {self.skipped}"
        )

    async def _collect(self, prompts: Sequence[Prompt], jobs: Sequence[GenerationJob], slots: Sequence[Slot]) -> None:
        try:
            futures = await self.rollouts.submit(prompts, jobs)
            if not self.cfg.repeatable:
                for slot, future in zip(slots, futures, strict=True):
                    self._background.start(self._receive(slot, future))
                return
            for slot, future in zip(slots, futures, strict=True):
                self._accept(slot, await future)
            if not self.window.in_flight:
                self._fill_window()
        except Exception as error:
            self.fail(error)

    async def _receive(self, slot: Slot, future: asyncio.Future[Group]) -> None:
        try:
            group = await future
            if self.score is not None and not self._lacks_signal(replace(group, experience=slot.experience)):
                group = await self.score(group)
            self._accept(slot, group)
            self._fill_window()
        except Exception as error:
            self.fail(error)

    def _accept(self, slot: Slot, group: Group) -> None:
        """Store a complete group in its slot, or drop it."""
        slot.group = replace(group, experience=slot.experience)
        self._drop_if_no_signal(slot)
        self._changed.set()

    def _drop_if_no_signal(self, slot: Slot) -> None:
        """Drop a group whose rewards are all equal, unless the step has replaced `sampling.max_refills` times as many.

        Source: DAPO's dynamic sampling, arXiv:2503.14476.
        """
        assert slot.group is not None
        if self._lacks_signal(slot.group):
            self._refills_left -= 1
            self.dropped += 1
            self.groups_left += 1
            if any(t.reward is None for t in slot.group.trajectories):
                self._dropped_ungraded.append(slot.group)
            if self.experience is not None:
                self.experience.observe_dropped(slot.group)
            self.window.drop(slot)

    def _lacks_signal(self, group: Group) -> bool:
        """Return whether a group is to be dropped."""
        return self._refills_left > 0 and not group.has_signal

    def fail(self, error: Exception) -> None:
        """Have `take` raise this error in the training loop, if it is the first."""
        self._failure = self._failure or error
        self._changed.set()
