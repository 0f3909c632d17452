"""Whole runs with a critic in one process: they train, freeze the policy at first if set, and resume bit for bit."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from orchestrator.start import run_training
from orchestrator.watch.logbook import read_records
from tests.orchestrator.in_process import config

SMALL = ("monitor.every=0", "groups_per_step=3", "sampling.group_size=3", "checkpoint.every=2")
WALL = ("time", "tokens_per_second", "seconds/", "grader/", "system/")


def train(policy: Path, runs: Path, *overrides: str, resume: bool = False) -> list[dict[str, Any]]:
    cfg = config(policy, runs, *SMALL, *overrides)
    run_dir = asyncio.run(run_training(cfg, resume=resume, log=lambda text: None))
    return read_records(run_dir / "metrics.jsonl")


def numbers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in r.items() if not name.startswith(WALL)} for r in records]


@pytest.mark.slow
def test_a_resumed_run_with_a_critic_has_the_metrics_of_one_that_was_not_stopped(
    tiny_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    chosen = ("method=safe_critic", "name=c", "task.verifier=toy_verifiers:even")
    whole = train(tiny_policy, tmp_path / "whole", *chosen, "steps=4")
    train(tiny_policy, tmp_path / "parts", *chosen, "steps=2")
    resumed = train(tiny_policy, tmp_path / "parts", *chosen, "steps=4", resume=True)
    assert numbers(resumed) == numbers(whole)
    assert all(np.isfinite(r["value_loss"]) and r["value_loss"] > 0 and r["grad_norm/critic"] > 0 for r in whole)
    assert all(r["advantage_magnitude"] > 0 and "value_explained" in r for r in whole)


def test_wsrl_publishes_the_starting_policy_during_its_frozen_updates(tiny_policy: Path, tmp_path: Path) -> None:
    records = train(tiny_policy, tmp_path, "method=wsrl", "learner.frozen_updates=2", "name=w", "steps=4")
    assert [r["learning_rate"] for r in records] == [0, 0, 1e-6, 1e-6]
    saved = [
        load_file(tmp_path / "w" / "checkpoints" / f"step-00000{n}" / "policy" / "model.safetensors") for n in (2, 4)
    ]
    start = load_file(tiny_policy / "model.safetensors")
    assert all(torch.equal(saved[0][name], p) for name, p in start.items())
    assert not all(torch.equal(saved[1][name], p) for name, p in start.items())
