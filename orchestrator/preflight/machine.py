"""Check that this machine can run what the settings ask for. Importing this loads no torch, Ray or vLLM."""

import importlib.util
import os
import shutil
import socket
import tempfile
from glob import glob
from pathlib import Path
from urllib.parse import urlsplit

from configs.checks import require
from configs.config import Config
from configs.logbook import OPTIONAL_PACKAGES
from configs.lora import NEEDS_PEFT
from orchestrator.engine import chosen_engine, publishes_adapter

GPU_DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")
"""Device files of NVIDIA, of AMD, and of both in the Windows subsystem for Linux."""
GPU_COMMANDS = ("nvidia-smi", "rocm-smi")
"""Commands that come with a GPU's driver. One of them is enough: a container may hide the device files."""
ANSWER_S = 5.0
"""Limit on a first connection to a cluster."""


def check_machine(cfg: Config) -> None:
    """Check that the run's directory can be written, and what the roles need of this machine.

    Raises:
        ValueError: a folder cannot be written to, or a device or library is missing; names the setting.
    """
    check_writable(Path(cfg.runs) / cfg.name, "runs", cfg.runs)
    for name in OPTIONAL_PACKAGES:
        usable = not getattr(cfg.logbook, name) or importlib.util.find_spec(name) is not None
        require(usable, f"logbook.{name}", f"must be false where {name} is not installed: pip install {name}", True)
    check_devices(cfg)


def check_devices(cfg: Config) -> None:
    """Raise ValueError if this machine lacks a GPU, vLLM or peft, unless the roles run on a cluster at RAY_ADDRESS."""
    if cfg.placement.kind == "ray" and os.environ.get("RAY_ADDRESS"):
        return
    rule = "must be 'cpu' on a machine without a GPU; to use those of a cluster, submit a Ray job or set RAY_ADDRESS"
    gpu = cfg.placement.device != "gpu" or has_gpu()
    require(gpu, "placement.device", f"{rule} (scale={cfg.scale})", cfg.placement.device)
    rule = "must be 'transformers' where vLLM is not installed"
    engine, _ = chosen_engine(cfg)
    require(engine != "vllm" or importlib.util.find_spec("vllm") is not None, "generator.engine", rule, engine)
    publishes_adapter(cfg)
    r = cfg.learner.lora.r
    require(not r or importlib.util.find_spec("peft") is not None, "learner.lora.r", NEEDS_PEFT, r)


def check_cluster(cfg: Config) -> None:
    """Raise ValueError if the roles are to run on a cluster at RAY_ADDRESS, and nothing answers there."""
    address = os.environ.get("RAY_ADDRESS", "local")
    if cfg.placement.kind == "ray" and address != "local":
        check_address(address)


def check_address(address: str) -> None:
    """Raise ValueError unless something answers at RAY_ADDRESS. Ray would try for minutes to reach it."""
    if address == "auto":
        return
    url = urlsplit(address if "://" in address else f"//{address}")
    if url.scheme in ("http", "https"):
        rule = "must be a cluster's own address, head-node:6379 or auto (`breadth submit` takes a dashboard's)"
        raise ValueError(f"RAY_ADDRESS: {rule}, got {address!r}")
    try:
        socket.create_connection((url.hostname, url.port), timeout=ANSWER_S).close()
    except (OSError, ValueError, TypeError) as error:
        rule = "must be the address of a running Ray cluster, such as head-node:6379"
        raise ValueError(f"RAY_ADDRESS: {rule}, got {address!r}: {error}") from None


def check_writable(folder: Path, setting: str, value: str) -> None:
    """Raise ValueError, naming the setting and its value, unless `folder` can be written to. It need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    try:
        with tempfile.TemporaryDirectory(dir=existing, prefix=".breadth-"):
            pass
    except OSError as error:
        rule = f"must be a place that this user can write to ({existing}: {error.strerror})"
        require(False, setting, rule, value)


def has_gpu() -> bool:
    """Return whether this machine shows any sign of a GPU."""
    return any(map(glob, GPU_DEVICES)) or any(map(shutil.which, GPU_COMMANDS))
