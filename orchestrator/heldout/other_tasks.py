"""The tasks that the monitor measures: that of the run, and `monitor.also`, which shows what the policy forgets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from configs.config import Config
from configs.heldout import Decoding
from orchestrator.heldout.prompts import HeldOut
from orchestrator.rollout.encoding import Encoder, encode_heldout
from tasks.options import section_named
from tasks.registry import build
from tasks.source import Source
from trajectories.trajectory import Group


@dataclass(frozen=True)
class Measurable:
    """The held-out prompts of one task, and how the monitor measures them."""

    heldout: HeldOut
    answers: int
    ks: Sequence[int]
    """Ascending; 1 is among them."""
    decoding: Decoding

    async def answer(self) -> list[Group]:
        """Generate and grade the answers of a measurement, before rollouts that wait for a generator."""
        return await self.heldout.answer(self.answers, self.decoding, first=True)


def measurable(heldout: HeldOut) -> dict[str, Measurable]:
    """Return the tasks of the monitor by name; "" is that of the run, whose held-out prompts are given."""
    cfg, monitor = heldout.cfg, heldout.cfg.monitor
    own = Measurable(heldout, monitor.answers, sorted({1, *monitor.ks}), monitor.sampling.resolved(cfg.sampling))
    found = {"": own}
    for name, task in monitor.also.items():
        prompts = replace(heldout, source=build(task, cfg.seed), name=name, count=task.heldout_prompts)
        ks = task.resolved_ks(monitor.answers, monitor.ks)
        decoding = task.decoding(monitor.sampling, cfg.sampling)
        found[name] = Measurable(prompts, task.resolved_answers(monitor.answers), ks, decoding)
    return found


def check_other_tasks(cfg: Config, encode: Encoder) -> None:
    """Raise ValueError, naming the setting, for held-out prompts of `monitor.also` that are too few or too long."""
    for name, task in cfg.monitor.also.items() if cfg.monitor.every else ():
        with section_named(f"monitor.also.{name}"):
            source: Source = build(task, cfg.seed)
            encode_heldout(encode, source.heldout(task.heldout_prompts), cfg.sampling.max_prompt_tokens)


def other_path(run_dir: Path, name: str, step: int) -> Path:
    """Return the file of a run that holds the measurement of another task at a step."""
    return run_dir / "measurements" / name / f"step-{step:06d}.json"
