"""Check that a run fits the cluster, and start its roles over Ray or in this process."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.contracts import Generator, Grader, Learner, Reference
from actors.generation.transformers_engine import TransformersGenerator
from actors.grader import PooledGrader
from actors.learning.learner import FsdpLearner
from actors.learning.policy import load_tokenizer
from actors.local import LocalLearner, LocalReference
from actors.ray_shells import LearnerShell, RoleShell
from actors.reference import References
from actors.remote import Handle, RemoteGenerator, RemoteGrader, RemoteLearner, RemoteReference
from configs.config import Config
from orchestrator.placement import Reservation, bundles, require_capacity, reservations
from orchestrator.preflight.machine import check_devices
from orchestrator.references import policies

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_COMPILE_DISABLE": "1",
}
"""Environment of every role on a CPU. One OpenMP thread per process, because two busy threads on one core are many
times slower."""
VLLM_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
"""Further environment variables of a vLLM generator."""


@dataclass
class Roles:
    """The roles that were started; they run until `close`."""

    generators: list[Generator] = field(default_factory=list)
    graders: list[Grader] = field(default_factory=list)
    learner: Learner | None = None
    reference: Reference | None = None
    group: PlacementGroup | None = None

    async def close(self) -> None:
        """End the process of every role, and give back what they reserved."""
        roles = [*self.generators, *self.graders, self.learner, self.reference]
        await asyncio.gather(*(role.close() for role in roles if role is not None))
        if self.group is not None:
            remove_placement_group(self.group)


def connect() -> None:
    """Join the Ray cluster at RAY_ADDRESS, which Ray sets in a job, or start one on this machine.

    Without the variable no running cluster is searched for: Ray would find the address of the machine's last cluster
    and wait for it, even if it has ended.
    """
    if not ray.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = os.environ.get("RAY_ADDRESS", "local")
        ray.init(
            address,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            # In a job the working directory comes first on every worker's import path.
            runtime_env={"worker_process_setup_hook": "breadth.own_packages_first"},
        )


def store_once(cfg: Config, value: Any) -> Any:
    """Put a value for several actors into Ray's object store; without Ray, return it unchanged."""
    return ray.put(value) if cfg.placement.kind == "ray" else value


async def start(cfg: Config, roles: Sequence[str], *, policy_path: str = "") -> Roles:
    """Start roles, and wait until all are ready.

    Args:
        roles: any of "generator", "grader", "learner", "reference".
        policy_path: directory of the policy that generators and learner load; empty: `policy.path`.

    Raises:
        ValueError: the cluster is too small, a device is missing, or the policy cannot be used.
        RuntimeError: a role is not ready within `placement.start_timeout_s`.
    """
    check_devices(cfg)
    policy = policy_path or cfg.policy.path
    load_tokenizer(policy)
    if cfg.placement.kind == "in_process":
        return await _start_in_process(cfg, roles, policy)
    connect()
    wanted = reservations(cfg, roles)
    require_capacity(wanted, ray.cluster_resources())
    group = placement_group(bundles(wanted), strategy="PACK")
    started = Roles(group=group)
    try:
        try:
            async with asyncio.timeout(cfg.placement.start_timeout_s):
                await _ready(group)
        except TimeoutError:
            raise RuntimeError(
                f"placement: Ray did not reserve {bundles(wanted)} within "
                f"{cfg.placement.start_timeout_s:.0f} s; free now: {ray.available_resources()}"
            ) from None
        await _start_actors(cfg, wanted, group, started, policy)
    except BaseException:
        await started.close()
        raise
    return started


async def _ready(group: PlacementGroup) -> None:
    await group.ready()


async def _start_actors(
    cfg: Config, wanted: Sequence[Reservation], group: PlacementGroup, started: Roles, policy: str
) -> None:
    """Start all actors at the same time; the learner ranks then form a process group at an address of rank 0's node."""
    timeout_s = cfg.placement.start_timeout_s
    ranks: list[Handle] = []
    references: list[Handle] = []
    for i, reservation in enumerate(wanted):
        number = sum(other.role == reservation.role for other in wanted[:i])
        actor = _create_actor(cfg, reservation, group, _constructor(cfg, reservation.role, policy, number))
        name = f"{reservation.role} {number}"
        if reservation.role == "generator":
            started.generators.append(RemoteGenerator(actor, name, cfg.placement.call_timeout_s))
        elif reservation.role == "grader":
            started.graders.append(RemoteGrader(actor, name, cfg.placement.call_timeout_s))
        else:
            handle = Handle(actor, name, cfg.placement.call_timeout_s)
            (ranks if reservation.role == "learner" else references).append(handle)
    if references:
        started.reference = RemoteReference(references)
    if ranks:
        started.learner = RemoteLearner(
            ranks,
            cfg.learner,
            transfer=cfg.generator.transfer,
            tensor_parallel=cfg.placement.tensor_parallel,
            checksum=cfg.generator.checksum,
        )
    others = [h for h in (*started.generators, *started.graders, *references) if isinstance(h, Handle)]
    await asyncio.gather(*(handle.start(timeout_s) for handle in (*ranks, *others)))
    if ranks:
        host, port = await ranks[0].wait(ranks[0].actor.address.remote(), "address", timeout_s)
        await asyncio.gather(*(rank.call("join", f"tcp://{host}:{port}", timeout_s=timeout_s) for rank in ranks))


def _constructor(cfg: Config, role: str, policy: str, number: int) -> tuple[str, str, dict[str, Any]]:
    """Return the module, class and constructor arguments of the actor `number` of a role."""
    if role == "learner":
        ranks = {"rank": number, "ranks": cfg.placement.learners}
        return "actors.learning.learner", "FsdpLearner", learner_arguments(cfg, policy) | ranks
    if role == "generator" and cfg.generator.engine == "vllm":
        return "actors.generation.vllm_engine", "VllmGenerator", generator_arguments(cfg, policy)
    if role == "generator":
        return "actors.generation.transformers_engine", "TransformersGenerator", generator_arguments(cfg, policy)
    if role == "reference":
        return "actors.reference", "References", reference_arguments(cfg)
    return "actors.grader", "PooledGrader", grader_arguments(cfg)


def _create_actor(
    cfg: Config, reservation: Reservation, group: PlacementGroup, constructor: tuple[str, str, dict[str, Any]]
) -> Any:
    environment = {} if reservation.gpus else dict(ENVIRONMENT)
    if reservation.role == "generator" and cfg.generator.engine == "vllm":
        environment |= VLLM_ENVIRONMENT
    options = ray.remote(LearnerShell if reservation.role == "learner" else RoleShell).options(
        num_cpus=reservation.cpus,
        num_gpus=reservation.gpus,
        max_concurrency=16,
        runtime_env={"env_vars": environment},
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=reservation.bundle),
    )
    return options.remote(*constructor)


async def _start_in_process(cfg: Config, roles: Sequence[str], policy: str) -> Roles:
    started = Roles()
    try:
        _build_in_process(cfg, roles, policy, started)
    except BaseException:
        await started.close()
        raise
    return started


def _build_in_process(cfg: Config, roles: Sequence[str], policy: str, started: Roles) -> None:
    if "generator" in roles:
        started.generators = [
            TransformersGenerator(**generator_arguments(cfg, policy)) for _ in range(cfg.placement.generators)
        ]
    if "grader" in roles:
        started.graders = [PooledGrader(**grader_arguments(cfg)) for _ in range(cfg.placement.graders)]
    if "reference" in roles:
        started.reference = LocalReference(References(**reference_arguments(cfg)))
    if "learner" in roles:
        learner = FsdpLearner(**learner_arguments(cfg, policy))
        learner.join()
        started.learner = LocalLearner(learner, checksum=cfg.generator.checksum)


def generator_arguments(cfg: Config, policy: str) -> dict[str, Any]:
    """Return the constructor arguments of a Generator that loads the directory `policy`."""
    return {
        "policy_path": policy,
        "config": cfg.generator,
        "dtype": cfg.policy.dtype,
        "max_length": cfg.sampling.max_prompt_tokens + cfg.longest_answer,
        "device": _device(cfg),
        "tensor_parallel": cfg.placement.tensor_parallel,
    }


def grader_arguments(cfg: Config) -> dict[str, Any]:
    """Return the constructor arguments of a Grader."""
    reserved = int(cfg.placement.cpus_per_grader) if cfg.placement.kind == "ray" else 0
    return asdict(cfg.grader) | {"require": cfg.sandbox.require, "cores": reserved}


def reference_arguments(cfg: Config) -> dict[str, Any]:
    """Return the constructor arguments of a Reference."""
    return {
        "policies": policies(cfg),
        "config": cfg.learner,
        "dtype": cfg.policy.dtype,
        "temperature": cfg.sampling.temperature,
        "device": _device(cfg),
    }


def learner_arguments(cfg: Config, policy: str) -> dict[str, Any]:
    """Return the constructor arguments of a Learner that loads the directory `policy`, without its rank."""
    return {
        "policy_path": policy,
        "config": cfg.learner,
        "objective": cfg.objective,
        "references": policies(cfg),
        "dtype": cfg.policy.dtype,
        "temperature": cfg.sampling.temperature,
        "total_steps": cfg.steps,
        "checkpoint_dtype": cfg.checkpoint.dtype,
        "device": _device(cfg),
    }


def _device(cfg: Config) -> str:
    return "cuda" if cfg.placement.device == "gpu" else "cpu"
