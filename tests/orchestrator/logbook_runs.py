"""Logbooks of tests: one in a directory, a graded group of two answers, and the events that were written."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from configs.logbook import LogbookConfig
from orchestrator.watch.logbook import Logbook
from trajectories.trajectory import Grade, Group, Prompt, Trajectory

PLAIN = LogbookConfig(console=False)


def open_logbook(run_dir: Path, config: LogbookConfig = PLAIN, **changes: Any) -> Logbook:
    arguments: dict[str, Any] = {
        "run_name": "test",
        "settings": {"seed": 3},
        "total_steps": 4,
        "wandb_id": None,
        "render": lambda tokens: f"tokens {tokens}",
        "resume_step": None,
    }
    return Logbook(run_dir, config, **{**arguments, **changes})


def group(prompt: str = "1,2=3:", answers: tuple[str, ...] = ("1+2", "2-1")) -> Group:
    trajectories = tuple(
        Trajectory(
            prompt_id=prompt,
            sample_index=i,
            tokens=np.arange(5, dtype=np.int32),
            mask=np.array([False, False, True, True, True]),
            logp_sampler=np.array([0, 0, -0.5, -0.5, -0.5], dtype=np.float32),
            first_version=7,
            last_version=8,
            finish_reason="stop",
            seed=i,
            text=answer,
            grade=Grade(reward=float(answer == "1+2"), status="correct" if answer == "1+2" else "wrong"),
        )
        for i, answer in enumerate(answers)
    )
    return Group(
        prompt=Prompt(id=prompt, position=0, text=prompt, verifier="countdown", problem={}), trajectories=trajectories
    )


def events(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
