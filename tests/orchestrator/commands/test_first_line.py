"""Every command says what it does before it loads torch, Ray or another library that takes seconds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "ray", "vllm", "transformers", "scipy", "matplotlib", "wandb")
SMALL = (
    "placement.kind=in_process",
    "generator.engine=transformers",
    "sampling.max_prompt_tokens=1",  # refused once the prompts are read
)
COMMANDS = {
    "train": SMALL,
    "train --json": SMALL,
    "evaluate": (*SMALL, "evaluate.checkpoints=[base=tasks/base_policies/countdown]"),
    "presample": (*SMALL, "rehearsal.path=stored.parquet", "rehearsal.prompts=1"),
    "warm-start": ("warm_start.output=new", "warm_start.steps=1", "sampling.max_prompt_tokens=1"),
    "inspect-task": ("inspect_task.prompts=16",),
    "compare": SMALL,
    "report": (),
    "plan": (),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_line_comes_before_anything_heavy_is_loaded(command: str, tmp_path: Path) -> None:
    """Python prints each module that it has imported to the same pipe, so the order of lines is that of events."""
    done = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "breadth", *command.split(), *COMMANDS[command]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    assert done.stdout is not None
    try:
        first = next(line for line in done.stdout if not line.startswith("import time:") or is_heavy(line))
    finally:
        done.kill()
        done.communicate(timeout=60)
    assert not is_heavy(first), f"{command} loads {first.split()[-1]} before it says anything"
    assert first.strip() and not first.startswith(("Traceback", "breadth: ")), first


def is_heavy(line: str) -> bool:
    return re.search(rf"^import time:.*\| +({'|'.join(HEAVY)})(\.|$)", line.rstrip()) is not None
