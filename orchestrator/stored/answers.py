"""The stored answers of a run: those of the reference that are rehearsed, and right ones that are replayed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configs.config import Config
from orchestrator.stored.presample import presample
from orchestrator.stored.replay import Replay, load_replay
from trajectories.rehearsal import RehearsalSet, read
from trajectories.trajectory import Trajectory


@dataclass(frozen=True)
class StoredAnswers:
    """What is learned from beside the policy's own answers; None where nothing is."""

    rehearsal: RehearsalSet | None = None
    replay: Replay | None = None

    @property
    def rehearsed(self) -> frozenset[str]:
        """Ids of the prompts whose reference answers are rehearsed."""
        return self.rehearsal.prompt_ids if self.rehearsal else frozenset()

    def at(self, step: int) -> list[Trajectory]:
        """The answers of one step, a function of the step."""
        return [answer for answers in (self.rehearsal, self.replay) if answers for answer in answers.at(step)]


async def load_stored(cfg: Config, run_dir: Path, say: Callable[[str], None]) -> StoredAnswers:
    """The answers the objective needs, those of the reference presampled now if no file is given."""
    replay = load_replay(cfg) if cfg.objective.replays else None
    if not cfg.objective.rehearses:
        return StoredAnswers(replay=replay)
    path = Path(cfg.rehearsal.path) if cfg.rehearsal.path else run_dir / "rehearsal.parquet"
    if not cfg.rehearsal.path and not path.exists():
        tally = await presample(cfg, path, lambda done, total: say(f"presample: {done} of {total} prompts"))
        say(f"presample: {tally}")
    return StoredAnswers(rehearsal=read(path, cfg.rehearsal.batch, cfg.seed), replay=replay)
