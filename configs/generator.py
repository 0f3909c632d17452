"""Generators: inference engine, memory, and transfer of new weights."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require, require_not_negative, require_positive


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    """The engine inside each generator."""

    engine: Literal["auto", "vllm", "transformers"] = "auto"
    """Inference engine. auto: vllm on a GPU; on a CPU the faster one for the longest answer, which the run prints.
    transformers needs no vLLM, and is the only engine of `placement.kind=in_process`."""
    transfer: Literal["host", "nccl", "ipc"] = "host"
    """Backend that carries new weights from learner to generators through vLLM's weight-transfer interface. host: host
    memory (CPU); nccl: NCCL between different GPUs; ipc: CUDA IPC on a shared GPU."""
    max_sequences: int = 256
    """Most answers that one engine decodes at the same time. 0: as many as its key-value memory holds at half of their
    greatest length, at most 512, which the run prints; 256 with the transformers engine."""
    kv_cache_bytes: int = 134_217_728
    """Key-value cache of one engine on a CPU, in bytes. A GPU engine uses `memory_fraction` instead."""
    memory_fraction: float = 0.85
    """Fraction of the GPU's memory that the engine may use, weights and key-value cache together."""
    checksum: bool = False
    """Verify a checksum of every published byte, for debugging."""
    timeout_s: float = 600.0
    """Seconds without a generated token, while answers are in progress, after which a generator is lost."""

    def __post_init__(self) -> None:
        require_not_negative(self, "max_sequences")
        require_positive(self, "timeout_s")
        require(self.kv_cache_bytes >= 2**24, "kv_cache_bytes", "must be at least 2**24", self.kv_cache_bytes)
        require(0 < self.memory_fraction < 1, "memory_fraction", "must be in (0, 1)", self.memory_fraction)
