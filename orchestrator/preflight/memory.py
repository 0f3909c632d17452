"""Check that a run on GPUs fits into their memory, by the memory plan."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from configs.config import Config
from orchestrator.placement import bundles, needed_roles, reservations
from orchestrator.planning.memory import memory_plan
from orchestrator.planning.model_shapes import UnknownMemory, read_shapes
from orchestrator.planning.nearest_change import refusal, terms
from orchestrator.planning.phases import GB, UNKNOWN, Host, MemoryPlan

USUAL = 80e9
"""Bytes of the GPUs for which the presets of `configs/scales/` are."""
QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
"""Answers in MiB, one line per GPU. Unlike torch it makes no CUDA context, which would stay on the GPU."""
LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Limit of the container on its memory, in bytes, or "max"."""


def check_memory(cfg: Config, report: Callable[[str], None], host: Host = UNKNOWN) -> None:
    """Report the memory plan of a run on GPUs. A run on CPUs has none.

    Args:
        report: is called with each line of text.
        host: the smallest of a cluster that was joined; if unknown, this machine, if it can hold all roles.

    Raises:
        ValueError: the run does not fit; the message has the arithmetic, and the nearest changes that fit.
    """
    if cfg.placement.device != "gpu":
        return
    shapes = read_shapes(cfg.policy.path, cfg.policy.dtype, cfg.learner.lora)
    memory, known = gpu_bytes(cfg)
    host = host if host.memory else this_host(cfg)
    try:
        plan = memory_plan(cfg, shapes, memory, host)
    except UnknownMemory as error:  # A model whose layers do not run on fake tensors is not refused.
        report(f"memory: not computed: {error}")
        return
    report("\n".join(described(plan, f"{shapes.name}, {shapes.parameters / 1e9:.2f}e9 parameters; {known}")))
    refused = refusal(cfg, shapes, memory, host)
    if refused:
        raise ValueError(refused)


def gpu_bytes(cfg: Config) -> tuple[float, str]:
    """Return the memory of a run's GPUs, and where it is known from."""
    if cfg.placement.gpu_gigabytes:
        return cfg.placement.gpu_gigabytes * GB, f"GPUs of placement.gpu_gigabytes={cfg.placement.gpu_gigabytes:g}"
    sizes = _gpus_here()
    if sizes:
        return min(sizes), "this machine's GPUs"
    return USUAL, f"GPUs of {USUAL / GB:g} GB assumed, see placement.gpu_gigabytes"


def _gpus_here() -> list[float]:
    """Return the bytes of each GPU of this machine; empty if that cannot be known."""
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=10, check=True).stdout
        return [float(line) * 2**20 for line in answer.split()]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


def this_host(cfg: Config) -> Host:
    """Return what is known of this machine, if the roles run on it: its GPUs are enough, and no cluster is named.
    The roles of one process are on one GPU here."""
    gpus, alone = len(_gpus_here()), cfg.placement.kind == "in_process"
    needed = 1 if alone else sum(each.get("GPU", 0.0) for each in bundles(reservations(cfg, needed_roles(cfg))))
    if (os.environ.get("RAY_ADDRESS") and not alone) or gpus < needed:
        return UNKNOWN
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = LIMIT.read_text().strip() if LIMIT.is_file() else ""
    return Host(memory=float(min(whole, int(limit)) if limit.isdigit() else whole), gpus=gpus)


def described(plan: MemoryPlan, title: str) -> Iterator[str]:
    """Yield the plan as lines: GPUs, key-values and hosts, each with its largest phase and the sum of this."""
    yield f"memory in GB (10^9 bytes): {title}"
    for place in plan.gpus:
        gpus = f"{place.count} {place.name} GPU{'s' if place.count > 1 else ''}"
        yield f"  {gpus}: {place.peak.bytes / GB:.1f} of {place.capacity / GB:.1f} in {place.peak.name}: {terms(place)}"
    yield (
        f"  key-values: {plan.key_values_per_token / 1e3:.0f} KB per token on each GPU of a generator, which holds "
        f"{plan.sequences} answers of {plan.longest:,} tokens with their prompts at a time; generator.max_sequences is "
        f"{plan.max_sequences or '0, so it is chosen'}"
    )
    for place in plan.hosts:
        size = f"{place.peak.bytes / GB:.1f}" + (f" of {place.capacity / GB:.1f}" if place.capacity else "")
        yield f"  host with {place.name}: {size} in {place.peak.name}: {terms(place)}"
