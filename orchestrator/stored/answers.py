"""The stored answers of a run: rehearsed ones (the reference's) and replayed ones (right answers of a task)."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from configs.checks import require
from configs.config import Config
from orchestrator.console.screen import Screen
from orchestrator.engine import publishes_adapter
from orchestrator.evaluation.engines import by_engine
from orchestrator.preflight.beginning import PRESAMPLED, keeps_presampled
from orchestrator.rollout.encoding import Encoder
from orchestrator.rollout.rollouts import Rollouts
from orchestrator.stored.presample import presample, presample_with
from orchestrator.stored.replay import Replay, load_replay
from tasks.source import Source
from trajectories.rehearsal import RehearsalSet, read
from trajectories.trajectory import Trajectory


@dataclass(frozen=True)
class StoredAnswers:
    """Rehearsed and replayed answers; None where the objective uses none."""

    rehearsal: RehearsalSet | None = None
    replay: Replay | None = None

    @property
    def rehearsed(self) -> frozenset[str]:
        """Ids of the prompts whose reference answers are rehearsed."""
        return self.rehearsal.prompt_ids if self.rehearsal else frozenset()

    def at(self, step: int) -> list[Trajectory]:
        """Return the answers of one step, a function of the step alone."""
        return [answer for answers in (self.rehearsal, self.replay) if answers for answer in answers.at(step)]


def load_stored(cfg: Config, run_dir: Path) -> StoredAnswers:
    """Load the stored answers of the objective. `rehearsal` stays None if the reference is still to be presampled.

    Raises:
        ValueError: `rehearsal.path` is no rehearsal file or one of another `rehearsal.keep`, or the task to replay
            has no right answers.
    """
    replay = load_replay(cfg) if cfg.objective.replays else None
    path = _rehearsal_path(cfg, run_dir)
    if not cfg.objective.rehearses or (not cfg.rehearsal.path and not path.exists()):
        return StoredAnswers(replay=replay)
    rehearsal = read(path, cfg.rehearsal.batch, cfg.seed)
    rule = f"must be {rehearsal.keep!r}, with which {path} was made"
    fits = rehearsal.keep in ("", cfg.rehearsal.keep)
    require(fits, "rehearsal.keep", rule, cfg.rehearsal.keep)
    return StoredAnswers(rehearsal=rehearsal, replay=replay)


def first_policy(cfg: Config, *, resume: bool) -> str | None:
    """Return the policy that a run's generators load first: the reference while it is still to be presampled.

    The first publication then loads the weights of the starting policy.

    Returns:
        A directory; None if presampling needs generators of its own, because the starting policy differs from the
        reference in more than its weights, or is published as an adapter of its own weights.
    """
    found = (resume or keeps_presampled(cfg)) and _rehearsal_path(cfg, Path(cfg.runs) / cfg.name).exists()
    if not cfg.objective.rehearses or cfg.rehearsal.path or found or cfg.starts_from(cfg.reference_path):
        return cfg.policy.path
    policies = {"policy": cfg.policy.path, "reference": cfg.reference_path}
    engines = by_engine(policies, cfg.sampling.max_prompt_tokens + cfg.longest_answer)
    return cfg.reference_path if len(engines) == 1 and not publishes_adapter(cfg) else None


async def presample_missing(
    cfg: Config,
    run_dir: Path,
    stored: StoredAnswers,
    log: Callable[[str], None],
    run: tuple[Rollouts, Source, Encoder] | None = None,
) -> StoredAnswers:
    """Presample the reference into the run directory if the objective rehearses and there are no answers yet.

    Args:
        run: rollouts, task and tokenizer of the run, while its generators serve the reference policy; None starts
            generators and graders for presampling alone.
    """
    if not cfg.objective.rehearses or stored.rehearsal is not None:
        return stored
    path, screen = _rehearsal_path(cfg, run_dir), Screen.of(log)
    with screen.phase("presampling the reference", "presampled the reference", of="prompts") as phase:
        progress = functools.partial(screen.progress, phase)
        if run is None:
            tally = await presample(cfg, path, progress, screen)
        else:
            tally = await presample_with(*run, cfg, path, progress)
    screen(f"presample: {tally}")
    return replace(stored, rehearsal=read(path, cfg.rehearsal.batch, cfg.seed))


def _rehearsal_path(cfg: Config, run_dir: Path) -> Path:
    return Path(cfg.rehearsal.path) if cfg.rehearsal.path else run_dir / PRESAMPLED
