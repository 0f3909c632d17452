"""Placement: how many of each role there are, and which devices they reserve."""

from dataclasses import dataclass, field
from typing import Literal

from configs.checks import require, require_not_negative, require_positive
from configs.environment import require_environment


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """Number of processes of each role, and the resources each reserves from Ray."""

    kind: Literal["ray", "in_process"] = "ray"
    """ray: every role is a Ray actor; in_process: all roles run in one process (transformers engine only)."""
    mode: Literal["split", "colocated"] = "split"
    """split: generators and learners have separate devices; colocated: they share the same devices, with `lag=0` in
    turns: the engines sleep while learner and references compute."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Device of generators, learners and references."""
    generators: int = 1
    """Number of generators."""
    tensor_parallel: int = 1
    """GPUs per generator, over which vLLM splits each layer; on a CPU processes, for tests."""
    learners: int = 1
    """Number of FSDP2 ranks."""
    graders: int = 1
    """Number of graders; each has worker processes of its own (`grader.workers`)."""
    references: int = 1
    """Number of reference actors. They start only if the objective or the monitor needs a reference that the learner
    ranks do not hold."""
    references_on: Literal["own", "learners"] = "own"
    """own: reference actors, each with whole models on a device of its own; learners: the learner ranks hold the
    references that are never updated, sharded like the policy, on GPUs in host memory between uses, and the learner
    waits while they score. A reference whose next-token distributions the objective compares is on the learner ranks in
    both cases; one whose hidden states the masks of pairs read is on actors."""
    cpus_per_generator: float = 1.0
    """CPU cores reserved for one generator."""
    cpus_per_learner: float = 0.5
    """CPU cores reserved for one learner rank."""
    cpus_per_grader: float = 0.25
    """CPU cores reserved for one grader."""
    cpus_per_reference: float = 0.25
    """CPU cores reserved for one reference actor."""
    threads_per_generator: int = 0
    """Threads with which one generator computes on a CPU; 0: chosen. With lag=0, where the roles take turns, all cores
    are divided among the actors of a role; with lag >= 1 among those that work at the same time. On a cluster at
    RAY_ADDRESS it is the number of cores that the actor reserves. At least 1."""
    threads_per_learner: int = 0
    """Threads of one learner rank; 0: chosen as for a generator."""
    threads_per_reference: int = 0
    """Threads of one reference actor; 0: chosen as for a generator."""
    gpu_gigabytes: float = 0.0
    """Memory of one GPU in 10^9 bytes, with which the memory plan is compared; 0: that of this machine's GPUs, or
    80 if it has none."""
    start_timeout_s: float = 300.0
    """Longest start of a role, in seconds."""
    heartbeat_s: float = 60.0
    """Seconds without an answer after which the process of a role counts as lost. A thread of its own answers, so a
    role that computes for longer is not lost."""
    restarts: int = 3
    """Most restarts of one generator, grader or reference actor within `restart_window_s`, when it was lost during a
    run, an evaluation or presampling. After them the others of its role go on, or the run ends if too few are left; an
    evaluation without a reference is written without the KL to the base. 0: any loss ends the run."""
    restart_window_s: float = 3600.0
    """Seconds within which restarts are counted."""
    restart_delay_s: float = 1.0
    """Seconds before the first restart within the window; each further one waits twice as long, at most 60 s."""
    min_generators: int = 1
    """Fewest generators with which a run goes on, where the others cannot be started again or Ray has no room for them.
    One that waits for room joins the run again when there is some."""
    environment: dict[str, dict[str, str]] = field(default_factory=dict)
    """Environment variables of the actors of a role (generator, learner, reference, grader) or of all: network, GPU and
    threads, such as `placement.environment.all.NCCL_SOCKET_IFNAME=eth0`. They come after Breadth's own."""
    call_timeout_s: float = 1800.0
    """Longest call to a role, in seconds; an update of the learner takes longest. With `breadth train --restarts` it is
    also the longest time for which the driver's event loop may stand still while it trains."""
    publish_timeout_s: float = 300.0
    """Longest publication of weights, in seconds, from the learner to the last generator that serves them. A 32B policy
    takes 5 s from GPU to GPU and 90 s through host memory, and a generator begins between two decoding steps. Between
    nodes `generator.transfer=host` sends pieces of at most 1 GiB, and the limit is that of each piece."""
    collective_timeout_s: float = 3600.0
    """Longest wait of a learner rank for the others in one collective operation (NCCL or gloo), in seconds. A rank that
    waits longer ends with an error. The ranks wait for each other where one reads or writes files more slowly."""

    def __post_init__(self) -> None:
        require_positive(self, "generators", "tensor_parallel", "learners", "graders", "references", "min_generators")
        require_not_negative(self, *(f"cpus_per_{role}" for role in ("generator", "learner", "grader", "reference")))
        require_not_negative(self, "gpu_gigabytes", "restarts", "restart_delay_s")
        require_positive(self, "heartbeat_s", "restart_window_s")
        rule = "must be at most placement.generators"
        require(self.min_generators <= self.generators, "min_generators", rule, self.min_generators)
        require_not_negative(self, *(f"threads_per_{role}" for role in ("generator", "learner", "reference")))
        require_positive(self, "start_timeout_s", "call_timeout_s", "publish_timeout_s", "collective_timeout_s")
        allowed = self.tensor_parallel == 1 or self.mode == "split"
        rule = "must be 1 where generators and learners are colocated"
        require(allowed, "tensor_parallel", rule, self.tensor_parallel)
        require_environment(self.environment)
