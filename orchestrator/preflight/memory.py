"""Check that a run on GPUs fits into their memory, by the memory plan."""

import subprocess
from collections.abc import Callable, Iterator

from configs.config import Config
from orchestrator.planning.memory import memory_plan
from orchestrator.planning.model_shapes import read_shapes
from orchestrator.planning.nearest_change import refusal, terms
from orchestrator.planning.phases import GB, MemoryPlan

USUAL = 80e9
"""Bytes of the GPUs for which the presets of `configs/scales/` are."""
QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
"""Answers in MiB, one line per GPU. Unlike torch it makes no CUDA context, which would stay on the GPU."""


def check_memory(cfg: Config, report: Callable[[str], None]) -> None:
    """Report the memory plan of a run on GPUs. A run on CPUs has none.

    Args:
        report: is called with each line of text.

    Raises:
        ValueError: the run does not fit; the message has the arithmetic, and the nearest changes that fit.
    """
    if cfg.placement.device != "gpu":
        return
    shapes = read_shapes(cfg.policy.path, cfg.policy.dtype, cfg.learner.lora)
    memory, known = gpu_bytes(cfg)
    try:
        plan = memory_plan(cfg, shapes, memory)
    except ValueError as error:  # A model whose layers do not run on fake tensors is not refused.
        report(f"memory: not computed: {error}")
        return
    report("\n".join(described(plan, f"{shapes.name}, {shapes.parameters / 1e9:.2f}e9 parameters; {known}")))
    refused = refusal(cfg, shapes, memory)
    if refused:
        raise ValueError(refused)


def gpu_bytes(cfg: Config) -> tuple[float, str]:
    """Return the memory of a run's GPUs, and where it is known from."""
    if cfg.placement.gpu_gigabytes:
        return cfg.placement.gpu_gigabytes * GB, f"GPUs of placement.gpu_gigabytes={cfg.placement.gpu_gigabytes:g}"
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=10, check=True).stdout
        return min(float(line) for line in answer.split()) * 2**20, "this machine's GPUs"
    except (OSError, subprocess.SubprocessError, ValueError):
        return USUAL, f"GPUs of {USUAL / GB:g} GB assumed, see placement.gpu_gigabytes"


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
        yield f"  host with {place.name}: {place.peak.bytes / GB:.1f} in {place.peak.name}: {terms(place)}"
