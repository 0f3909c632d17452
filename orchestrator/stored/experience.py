"""Experience: the policy's right answers of earlier steps, of which some join new answers to their prompt (ExGRPO).

Source: arXiv:2510.02245 and its official code.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from configs.config import Config
from objectives.reduce import sum_by_trajectory
from orchestrator.stored.saved_answers import read_answers, write_answers
from orchestrator.watch.step_metrics import is_right
from trajectories.batch import Batch, pack
from trajectories.trajectory import Group, Trajectory

FILE = "experience.npz"
"""File in a checkpoint."""
SPREAD = 1 / 8
"""Standard deviation of the normal density around 1/2 by which pass rates are drawn. The code has 1 right answer of
8."""


@dataclass(frozen=True)
class Question:
    """A prompt that was answered rightly, but not by all answers the last time."""

    position: int
    """Position of the prompt in the train stream."""
    pass_rate: float
    """Fraction of right answers among the new ones of the last time."""
    answers: tuple[Trajectory, ...]
    """Different right answers, oldest first."""


class Experience:
    """The stored right answers of a run, and the choice of those that join a group."""

    def __init__(self, cfg: Config) -> None:
        self._cfg, self._experience = cfg, cfg.objective.experience
        self.questions: dict[str, Question] = {}
        """By id of the prompt; the one that was answered last is last."""
        self.started = False
        """Whether a step has had enough right answers."""

    def choose(self, place: int, position: int, in_use: Collection[str]) -> Question | None:
        """Return the question of a group to come; None: the group has no experience.

        The first groups of each step have it. A pass rate is drawn by the normal density around 1/2, and then one of
        its questions, so that questions of middling difficulty are answered most.

        Args:
            place: number of groups that were admitted before.
            position: of the group in the train stream; the draw is a function of it and the run's seed.
            in_use: ids of prompts that have a group with experience already.
        """
        if place % self._cfg.groups_per_step >= self._cfg.groups_with_experience:
            return None
        buckets: dict[int, list[Question]] = {}
        for name, question in self.questions.items():
            if name not in in_use:
                bucket = round(question.pass_rate * self._cfg.sampling.group_size)
                buckets.setdefault(bucket, []).append(question)
        if not buckets:
            return None
        rates = np.array(sorted(buckets)) / self._cfg.sampling.group_size
        density = np.exp(-0.5 * ((rates - 0.5) / SPREAD) ** 2)
        generator = np.random.default_rng([self._cfg.seed, position])
        bucket = sorted(buckets)[generator.choice(len(rates), p=density / density.sum())]
        return buckets[bucket][generator.integers(len(buckets[bucket]))]

    async def join(self, groups: Sequence[Group], score: Callable[[Batch], Awaitable[Batch]]) -> list[Group]:
        """Return the groups, each with at most one of its right answers of earlier steps: that of the lowest entropy.

        Args:
            score: returns a batch with entropies under the current policy.
        """
        several = [t for group in groups if len(group.experience) > 1 for t in group.experience]
        entropies = iter(await _entropies(several, score) if several else [])
        joined = []
        for group in groups:
            if len(group.experience) > 1:
                own = [next(entropies) for _ in group.experience]
                group = replace(group, experience=(group.experience[own.index(min(own))],))
            joined.append(group)
        return joined

    def observe(self, groups: Sequence[Group]) -> None:
        """Store the right answers of a step's groups, and their pass rates.

        A question whose new answers are all right is no longer stored.
        """
        graded = [[t for t in group.trajectories if t.reward is not None] for group in groups]
        right = [[t for t in answers if is_right(t)] for answers in graded]
        rates = [len(chosen) / len(answers) for chosen, answers in zip(right, graded, strict=True) if answers]
        self.started = self.started or bool(rates and sum(rates) / len(rates) > self._experience.start)
        if not self.started:
            return
        for group, answers, chosen in zip(groups, graded, right, strict=True):
            if answers:
                self._store(group, len(chosen) / len(answers), chosen)

    def observe_dropped(self, group: Group) -> None:
        """Note the pass rate of a known question whose group is dropped because its rewards are equal: 0, or 1, which
        ends the question."""
        graded = [t for t in group.trajectories if t.reward is not None]
        if group.prompt.id in self.questions and graded:
            self._store(group, sum(map(is_right, graded)) / len(graded), ())

    def _store(self, group: Group, pass_rate: float, right: Sequence[Trajectory]) -> None:
        known = self.questions.pop(group.prompt.id, None)
        # A group with experience has another position than its prompt. If its question was dropped, so is it.
        if pass_rate == 1 or (known is None and (group.experience or not right)):
            return
        # An answer that was sampled again has the log-probs of the last time, which are nearest to the policy's.
        new = [replace(t, route="experience") for t in right]
        answers = {t.tokens.tobytes(): t for t in (*(known.answers if known else ()), *new)}
        self.questions[group.prompt.id] = Question(
            position=known.position if known else group.prompt.position,
            pass_rate=pass_rate,
            answers=tuple(answers.values())[-self._experience.answers :],
        )
        if len(self.questions) > self._experience.questions:
            del self.questions[next(iter(self.questions))]

    def save(self, folder: Path) -> None:
        """Write what is stored to a checkpoint's folder."""
        rows = [
            {"id": name, "position": q.position, "pass_rate": q.pass_rate, "answers": len(q.answers)}
            for name, q in self.questions.items()
        ]
        answers = [t for question in self.questions.values() for t in question.answers]
        write_answers(folder / FILE, answers, {"started": self.started, "questions": rows})

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        answers, about = read_answers(folder / FILE)
        rest = iter(answers)
        self.started = about["started"]
        self.questions = {
            row["id"]: Question(
                position=row["position"],
                pass_rate=row["pass_rate"],
                answers=tuple(next(rest) for _ in range(row["answers"])),
            )
            for row in about["questions"]
        }

    def metrics(self, groups: Sequence[Group]) -> dict[str, float]:
        """Return the metrics of a step, given its groups."""
        return {
            "experience_groups": float(sum(bool(group.experience) for group in groups)),
            "experience_questions": float(len(self.questions)),
        }


def experience_of(cfg: Config, checkpoint: Path | None) -> Experience | None:
    """Return the experience of a run, read from the checkpoint that it goes on from; None without any."""
    if not cfg.objective.has_experience:
        return None
    experience = Experience(cfg)
    if checkpoint is not None:
        experience.load(checkpoint)
    return experience


async def _entropies(answers: Sequence[Trajectory], score: Callable[[Batch], Awaitable[Batch]]) -> list[float]:
    """Return the mean entropy per token of each answer under the current policy, in nats."""
    # They are scored as answers of the policy are, with the references that its terms need.
    scored = await score(pack((), [replace(t, route="explore") for t in answers]))
    assert scored.entropy_old is not None
    sums = sum_by_trajectory(scored.entropy_old[scored.mask], scored.seq[scored.mask], len(answers))
    means: list[float] = (sums / scored.trained_lengths("explore")).tolist()
    return means
