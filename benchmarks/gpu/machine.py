"""The machine of a run: card, versions, and which packages are missing."""

import importlib.util
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

NEEDED = ("torch", "transformers", "numpy", "safetensors", "tokenizers", "omegaconf", "yaml")
"""Modules without which no stage runs. `training` also needs pyarrow."""
SHOWN = ("torch", "transformers", "numpy", "omegaconf", "vllm", "ray")
ROOT = Path(__file__).resolve().parents[2]


def missing() -> list[str]:
    """Return the needed modules that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def has_gpu() -> bool:
    """Return whether torch sees a GPU, asked in another process, so that this one takes none of its memory."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False).returncode == 0


def described(device: str) -> dict[str, Any]:
    """Return the card or processor, the versions of packages, and the commit."""
    versions = {"python": platform.python_version()}
    for name in SHOWN:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return {"machine": _card() if device == "cuda" else "a CPU", "versions": versions, "commit": _commit()}


def _card() -> str:
    query = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    return _output(query) or "an unknown GPU"


def _commit() -> str:
    return _output(("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")) or "unknown"


def _output(command: tuple[str, ...]) -> str:
    """Return the first line that a command prints; empty if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else ""
