"""Settings of small runs in one process."""

from pathlib import Path

from configs.config import Config
from configs.load import load
from orchestrator.commands.paths import absolute

SMALL = (
    "placement.kind=in_process",
    "generator.engine=transformers",
    "generator.max_sequences=512",
    "sampling.max_new_tokens=6",
    "task.heldout_prompts=4",
    "evaluate.answers=4",
    "evaluate.ks=[1,4]",
    "logbook.console=false",
)


def config(policy: Path, runs: Path, *overrides: str) -> Config:
    return absolute(load([*SMALL, f"policy.path={policy}", f"runs={runs}", *overrides]))
