"""Generators: engine, memory, and the transfer of new weights."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    engine: Literal["vllm", "transformers"] = "vllm"
    transfer: Literal["host", "nccl", "ipc"] = "host"
    """Backend of vLLM's weight-transfer interface: host memory, NCCL between GPUs, CUDA IPC on a shared GPU."""
    max_sequences: int = 256
    """Answers decoded at a time by one engine."""
    kv_cache_bytes: int = 134_217_728
    """Key-value cache of one engine on CPU; a GPU engine takes `memory_fraction` instead."""
    memory_fraction: float = 0.85
    """Share of the GPU's memory the engine may take."""
    checksum: bool = False
    """Debug: verify every published byte."""
    timeout_s: float = 600.0
    """A generator that finishes nothing for this long while it has work ends the run with an error."""

    def __post_init__(self) -> None:
        require(self.max_sequences > 0, "generator.max_sequences", "must be positive", self.max_sequences)
        require(self.kv_cache_bytes >= 2**24, "generator.kv_cache_bytes", "must be at least 2**24", self.kv_cache_bytes)
        require(0 < self.memory_fraction < 1, "generator.memory_fraction", "must be in (0, 1)", self.memory_fraction)
        require(self.timeout_s > 0, "generator.timeout_s", "must be positive", self.timeout_s)
