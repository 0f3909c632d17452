"""Run a script in an interpreter of its own."""

import os
import subprocess
import sys
from pathlib import Path


def run_in_new_interpreter(script: str, run_dir: Path, **environment: str) -> str:
    """Run `script` in a new interpreter, which starts a W&B service of its own. Returns its standard error.

    W&B passes the address of its service to child processes in an environment variable, so that variable is removed.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(run_dir)],
        env={**inherited, "PYTHONPATH": os.getcwd(), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
