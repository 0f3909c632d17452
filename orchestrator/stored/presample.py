"""Presampling, DPH-RL's offline stage: sample answers of the reference policy and keep right ones of mastered prompts.

A prompt is mastered if at least `rehearsal.threshold` of its `rehearsal.answers` answers are correct.
With `rehearsal.keep=all` every answer is kept. Source: arXiv:2509.07430.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from configs.config import Config
from orchestrator.engine import with_engine
from orchestrator.preflight.named import check_presampling
from orchestrator.rollout.encoding import Encoder, PromptEncoder
from orchestrator.rollout.grading import verifiers_of
from orchestrator.rollout.jobs import jobs_for
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.stored.parts import Parts
from orchestrator.supervision.without_learner import answering_roles
from tasks.registry import build
from tasks.source import Source
from trajectories.rehearsal import KEEP, write
from trajectories.trajectory import Group, Prompt, Trajectory

PROMPTS_AT_A_TIME = 256
"""Prompts submitted together."""


@dataclass
class Tally:
    """Counts of the prompts that were presampled and of their answers."""

    prompts: int = 0
    too_long: int = 0
    mastered: int = 0
    fresh_wrong: int = 0
    """Wrong answers among those drawn anew for mastered prompts."""
    ungraded: int = 0
    """Answers whose grader failed."""
    kept: int = 0
    """Answers kept."""

    def add(self, other: "Tally") -> None:
        """Add the counts of other prompts."""
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)

    def __str__(self) -> str:
        return (
            f"{self.kept} answers kept, {self.mastered} of {self.prompts} prompts mastered "
            f"({self.too_long} too long, {self.fresh_wrong} fresh answers wrong, {self.ungraded} answers not graded)"
        )


async def presample(
    cfg: Config, path: Path, progress: Callable[[int, int], None], log: Callable[[str], None] = lambda line: None
) -> Tally:
    """Start generators with the reference policy and graders, presample to `path`, and end them. Those that are lost
    are started again.

    Args and Raises: as for `presample_with`, and

    Args:
        log: called with each line of text for the user.
    """
    cfg = with_engine(cfg)
    check_presampling(cfg)
    source = build(cfg.task, cfg.seed)
    verifiers = verifiers_of(source, cfg.objective.rewards)
    async with answering_roles(cfg, cfg.reference_path, verifiers, path.parent, log) as (rollouts, _):
        return await presample_with(rollouts, source, PromptEncoder(cfg.policy), cfg, path, progress)


async def presample_with(
    rollouts: Rollouts,
    source: Source,
    encode: Encoder,
    cfg: Config,
    path: Path,
    progress: Callable[[int, int], None],
) -> Tally:
    """Sample the reference's answers to the first `rehearsal.prompts` prompts and write the kept ones to `path`.

    What an interrupted call with the same settings has sampled is used.

    Args:
        rollouts: its generators serve the reference policy, as loaded from its directory.
        source, encode: of the task of `cfg` and its policy.
        progress: called with (prompts done, prompts in all).

    Raises:
        ValueError: no answer could be kept.
    """
    tally = Tally()
    kept: list[Trajectory] = []
    seen: set[str] = set()
    parts = Parts(cfg, path)
    for start in range(0, cfg.rehearsal.prompts, PROMPTS_AT_A_TIME):
        positions = range(start, min(start + PROMPTS_AT_A_TIME, cfg.rehearsal.prompts))
        prompts = _unseen(source, positions, seen)
        found = parts.read(prompts)
        if found is None:
            own = Tally()
            found = await _presample_some(cfg, encode, rollouts, prompts, own), asdict(own)
            published = [t.key for t in found[0] if t.last_version >= 0]
            assert not published, f"the generators serve published weights, not the reference: {published[:3]}"
            parts.write(prompts, *found)
        kept += found[0]
        tally.add(Tally(**found[1]))
        progress(positions.stop, cfg.rehearsal.prompts)
    if not kept:
        raise ValueError(
            f"rehearsal: the reference must master some prompts, got {tally}; lower rehearsal.threshold or raise "
            "rehearsal.prompts"
        )
    write(path, kept, {KEEP: cfg.rehearsal.keep.encode()})
    parts.remove()
    return tally


def _unseen(source: Source, positions: Sequence[int], seen: set[str]) -> list[Prompt]:
    """Return the prompts at these positions that are not in `seen`, and add them: a finite dataset repeats."""
    prompts = [prompt for prompt in map(source.prompt, positions) if prompt.id not in seen]
    seen.update(prompt.id for prompt in prompts)
    return prompts


async def _presample_some(
    cfg: Config, encode: Encoder, rollouts: Rollouts, prompts: Sequence[Prompt], tally: Tally
) -> list[Trajectory]:
    tally.prompts += len(prompts)
    fitting = [p for p in prompts if len(encode(p)) <= cfg.sampling.max_prompt_tokens]
    tally.too_long += len(prompts) - len(fitting)
    groups = await _answer(cfg, fitting, encode, rollouts, "presample", cfg.rehearsal.answers)
    tally.ungraded += _ungraded(groups)
    mastered = [group for group in groups if len(_correct(group)) >= cfg.rehearsal.threshold]
    tally.mastered += len(mastered)
    if cfg.rehearsal.keep == "all":
        kept = [replace(t, route="rehearse") for group in groups for t in group.trajectories if t.reward is not None]
        tally.kept += len(kept)
        return kept
    if cfg.rehearsal.keep == "one_fresh":
        # Among the k, both the group and the answer are selected for being correct, so keeping one of them would be
        # biased. A newly drawn answer is not selected.
        mastered = await _answer(cfg, [g.prompt for g in mastered], encode, rollouts, "presample-fresh", 1)
        tally.ungraded += _ungraded(mastered)
        tally.fresh_wrong += sum(not _correct(group) and not _ungraded([group]) for group in mastered)
    kept = [replace(t, route="rehearse") for group in mastered for t in _correct(group)]
    tally.kept += len(kept)
    return kept


async def _answer(
    cfg: Config, prompts: Sequence[Prompt], encode: Encoder, rollouts: Rollouts, purpose: str, answers: int
) -> list[Group]:
    jobs = jobs_for(
        prompts,
        [encode(prompt) for prompt in prompts],
        purpose=purpose,
        run_seed=cfg.seed,
        answers=answers,
        temperature=cfg.sampling.temperature,
        max_new_tokens=cfg.sampling.max_new_tokens,
        stop=cfg.sampling.stop,
    )
    return await rollouts.run(prompts, jobs)


def _ungraded(groups: Sequence[Group]) -> int:
    return sum(t.reward is None for group in groups for t in group.trajectories)


def _correct(group: Group) -> list[Trajectory]:
    return [t for t in group.trajectories if t.grade is not None and t.grade.status == "correct"]
