"""Measure every policy on every task in every sampling, where it is not in the cache, and go on where it was."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from actors.policy_files.folder import policy_folder
from configs.config import Config
from configs.heldout import Decoding
from orchestrator.evaluation.asked import Asked
from orchestrator.evaluation.engines import by_engine
from orchestrator.evaluation.progress import Progress
from orchestrator.heldout.answering import Question, answered
from orchestrator.heldout.cache import Measured, MeasurementCache, Partial
from orchestrator.manifest import folder_digest
from orchestrator.rollout.agreement import check_same_policy, first_tokens
from orchestrator.rollout.encoding import PromptEncoder, encode_heldout
from orchestrator.rollout.grading import named_verifiers
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.supervision.without_learner import PolicyFiles, answering_roles
from trajectories.trajectory import Prompt

Found = dict[str, dict[str, dict[Decoding, Measured | None]]]
"""Measurements by task, policy and decoding; None where one is still to be made."""


@dataclass
class Measuring:
    """The measurements of an evaluation that are known, and how the others are made."""

    cfg: Config
    checkpoints: dict[str, str]
    """Policy directories by name, the base first. A job that watches a run adds to them."""
    asked: Sequence[Asked]
    folder: Path
    """Of the evaluation."""
    progress: Progress
    log: Callable[[str], None]
    found: Found = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """Of the policies, by directory: to compute one reads all weights."""
    _caches: dict[tuple[str, str], MeasurementCache] = field(default_factory=dict)

    def __post_init__(self) -> None:
        longest = max(decoding.max_new_tokens for asked in self.asked for decoding in asked.wanted(is_base=True))
        # The driver reads the weights from a directory, so they never come from another GPU. No monitor measures here.
        self.cfg = replace(
            self.cfg,
            generator=replace(self.cfg.generator, transfer="host"),
            sampling=replace(self.cfg.sampling, max_new_tokens=longest),
            monitor=replace(self.cfg.monitor, every=0, also={}),
        )

    @property
    def max_length(self) -> int:
        """Most tokens of a prompt and its answer together."""
        return self.cfg.sampling.max_prompt_tokens + self.cfg.sampling.max_new_tokens

    async def all(self) -> Found:
        """Measure every policy. Policies that an engine can serve one after another use the same generators."""
        unknown = [name for name in self.checkpoints if await self.look_up(name)]
        self.progress.plan(sum(map(self.answers_left, unknown)))
        for paths in by_engine({name: self.checkpoints[name] for name in unknown}, self.max_length):
            async with self.serving(next(iter(paths.values()))) as serving:
                for name in paths:
                    await serving.measure(name)
        return self.found

    @asynccontextmanager
    async def serving(self, path: str) -> AsyncIterator["Serving"]:
        """Start generators with the policy of a directory, and graders. Those that are lost are started again."""
        posed = (prompt for asked in self.asked for prompt in asked.posed.prompts)
        verifiers = named_verifiers(posed, self.cfg.objective.rewards)
        async with answering_roles(self.cfg, path, verifiers, self.folder, self.log) as (rollouts, policies):
            yield Serving(self, rollouts, policies)

    async def look_up(self, name: str) -> bool:
        """Read what is in the cache of a policy. Returns whether something is still to be measured."""
        is_base, path = name == next(iter(self.checkpoints)), self.checkpoints[name]
        if path not in self.digests:
            self.digests[path] = await asyncio.to_thread(folder_digest, policy_folder(path))
        for asked in self.asked:
            cache = MeasurementCache(self.cfg, asked.posed.prompts, path, self.digests[path], foreign=bool(asked.name))
            self._caches[asked.name, name] = cache
            of_policy = self.found.setdefault(asked.name, {}).setdefault(name, {})
            for decoding in asked.wanted(is_base=is_base):
                if of_policy.get(decoding) is None:
                    of_policy[decoding] = known = cache.read(asked.evaluate.answers, decoding, name)
                    if known is not None:
                        self.progress.known(name, asked.name, decoding, known.measurement.prompts)
                        place = cache.path(asked.evaluate.answers, decoding)
                        self.log(f"evaluate {self._words(name, asked, decoding)}: read from {place}")
        return any(self._missing(name))

    async def left(self, name: str) -> int:
        """Look into the cache, and return the number of answers of a policy that are still to be generated."""
        return self.answers_left(name) if await self.look_up(name) else 0

    def forget(self, name: str) -> None:
        """Leave a policy out."""
        del self.checkpoints[name]
        for of_task in self.found.values():
            del of_task[name]

    def _missing(self, name: str) -> Iterable[tuple[Asked, Decoding]]:
        for asked in self.asked:
            for decoding, known in self.found[asked.name][name].items():
                if known is None:
                    yield asked, decoding

    def answers_left(self, name: str) -> int:
        """Return the number of answers of the measurements of a policy that are not known."""
        return sum(asked.answers(decoding) * len(asked.posed.prompts) for asked, decoding in self._missing(name))

    def _words(self, name: str, asked: Asked, decoding: Decoding) -> str:
        return f"{name}{f' on {asked.name}' if asked.name else ''} at {decoding.words()}"

    async def answer(self, name: str, rollouts: Rollouts) -> None:
        """Answer all prompts of a policy that the generators serve, those of all tasks and samplings at once."""
        with ExitStack() as stack:
            missing = list(self._missing(name))
            partials = []
            questions: list[Question] = []
            for place, (asked, decoding) in enumerate(missing):
                partial = self._caches[asked.name, name].begin(asked.evaluate.answers, decoding)
                partials.append(stack.enter_context(partial))
                if partial.done:
                    self.progress.skip(len(partial.done) * asked.answers(decoding))
                    self.progress.known(name, asked.name, decoding, list(partial.done.values()))
                    done = f"goes on after {len(partial.done)} of {len(asked.posed.prompts)} prompts"
                    self.log(f"resume {self._words(name, asked, decoding)}: {done}")
                questions += self._questions(name, asked, decoding, partial, place)
            async for question, group in answered(rollouts, questions, self.cfg.seed):
                (asked, decoding), partial = missing[question.place], partials[question.place]
                await asyncio.to_thread(partial.add, group)
                self.progress.add(
                    name,
                    asked.name,
                    decoding,
                    list(partial.done.values()),
                    len(asked.posed.prompts),
                    max(asked.evaluate.ks),
                    question.answers,
                )
                if not partial.missing:
                    await self._finish(name, asked, decoding, partial)
            for (asked, decoding), partial in zip(missing, partials, strict=True):
                if self.found[asked.name][name][decoding] is None:  # killed between its last prompt and its file
                    await self._finish(name, asked, decoding, partial)

    async def _finish(self, name: str, asked: Asked, decoding: Decoding, partial: Partial) -> None:
        measured = await asyncio.to_thread(partial.finish, name)
        self.found[asked.name][name][decoding] = measured
        count = asked.answers(decoding) * len(asked.posed.prompts)
        self.log(f"evaluate {self._words(name, asked, decoding)}: {count} answers")

    def _questions(self, name: str, asked: Asked, decoding: Decoding, partial: Partial, place: int) -> list[Question]:
        missing = set(partial.missing)
        prompts = [prompt for prompt in asked.posed.prompts if prompt.id in missing]
        rows = encode_heldout(asked.posed.encoders[name], prompts, self.cfg.sampling.max_prompt_tokens)
        return [
            Question(
                prompt=prompt,
                tokens=row,
                answers=asked.answers(decoding),
                decoding=decoding,
                stop=tuple(self.cfg.sampling.stop),
                foreign=bool(asked.name),
                place=place,
            )
            for prompt, row in zip(prompts, rows, strict=True)
        ]


class Serving:
    """Generators that serve one policy after another."""

    def __init__(self, measuring: Measuring, rollouts: Rollouts, policies: PolicyFiles) -> None:
        self.measuring, self.rollouts, self.policies = measuring, rollouts, policies

    async def measure(self, name: str) -> None:
        """Publish a policy, and answer its prompts, unless a policy with equal files was measured meanwhile.

        The first one is that with which the engines were started, so it must answer as before its publication.
        """
        measuring, is_first = self.measuring, self.policies.version < 0
        planned = measuring.answers_left(name)
        if not is_first and not await measuring.look_up(name):
            measuring.progress.skip(planned)
            return
        cfg, path = measuring.cfg, measuring.checkpoints[name]
        posed = measuring.asked[0].posed
        first: tuple[Prompt, PromptEncoder] = (posed.prompts[0], posed.encoders[name])
        before = await first_tokens(cfg, *first, self.rollouts) if is_first else None
        await self.policies.publish(path)
        if before is not None:
            check_same_policy(cfg, before, await first_tokens(cfg, *first, self.rollouts), path)
        await measuring.answer(name, self.rollouts)
        await self.policies.withdraw()
