"""Placement: how many of each role, and which devices they get."""

from dataclasses import dataclass
from typing import Literal

from configs.checks import require


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    kind: Literal["ray", "in_process"] = "ray"
    """ray: every role is a Ray actor; in_process: one process, for tests and debugging (transformers engine only)."""
    mode: Literal["split", "colocated"] = "split"
    """split: generators and learners have devices of their own; colocated: they share them."""
    device: Literal["cpu", "gpu"] = "cpu"
    generators: int = 1
    tensor_parallel: int = 1
    """GPUs of one generator."""
    learners: int = 1
    """FSDP2 ranks."""
    graders: int = 1
    references: int = 1
    """Reference actors, started only when something needs them."""
    cpus_per_generator: float = 1.0
    cpus_per_learner: float = 0.5
    cpus_per_grader: float = 0.25
    cpus_per_reference: float = 0.25
    start_timeout_s: float = 300.0
    """Bound on every role's start."""
    call_timeout_s: float = 1800.0
    """Bound on every call to a role; a learner's update is the longest."""

    def __post_init__(self) -> None:
        for name in ("generators", "tensor_parallel", "learners", "graders", "references"):
            require(getattr(self, name) > 0, f"placement.{name}", "must be positive", getattr(self, name))
        for role in ("generator", "learner", "grader", "reference"):
            name = f"cpus_per_{role}"
            require(getattr(self, name) >= 0, f"placement.{name}", "must not be negative", getattr(self, name))
        for name in ("start_timeout_s", "call_timeout_s"):
            require(getattr(self, name) > 0, f"placement.{name}", "must be positive", getattr(self, name))
        require(
            self.tensor_parallel == 1 or (self.device == "gpu" and self.mode == "split"),
            "placement.tensor_parallel",
            "must be 1 on cpu, and where generators and learners are colocated",
            self.tensor_parallel,
        )
