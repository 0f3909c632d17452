"""A step that two learner ranks made runs again on one rank, within the limits for another order of sums."""

import asyncio
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from breadth import ROOT
from orchestrator.commands.cli import main
from orchestrator.start import run_training
from orchestrator.step_again.folder import read, write
from tests.actors.learning.learner_ranks import RANKS_S, free_address
from tests.orchestrator.in_process import config
from tests.orchestrator.step_again import two_ranks

STEPS = ("steps=2", "groups_per_step=4", "sampling.group_size=4", "monitor.every=0", "logbook.dump_steps=[2]")


@pytest.mark.slow
def test_a_step_of_two_learner_ranks_runs_again_on_one(
    tiny_policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = config(tiny_policy, tmp_path, *STEPS, "method=grpo_adaptive_kl")
    run_dir = asyncio.run(run_training(cfg, resume=False, log=lambda text: None))
    alone, together = run_dir / "steps" / "step-000002", tmp_path / "together"
    together.mkdir()
    command = [sys.executable, "-m", two_ranks.__name__, free_address(), str(alone), str(together)]
    subprocess.run(command, check=True, timeout=RANKS_S, cwd=ROOT)
    recorded = read(alone)
    scores, stats = two_ranks.merged(alone, together)
    machine = dict(recorded.machine) | {"ranks": 2}
    write(together, replace(recorded, scores=scores, stats=stats, machine=machine))
    shutil.copy(alone / "config.yaml", together)
    assert main(["replay-step", str(together)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "all are within their limits. They need not be the same bit for bit: ranks 1, not 2." in out
    assert main(["replay-step", str(together), "learner.learning_rate=0.5"]) == 1
