"""Where the roles live: refuses what does not fit, then starts every role in process or over Ray."""

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
from orchestrator.placement import Bundle, bundles, refuse_unless_it_fits, slots
from orchestrator.references import policies

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_COMPILE_DISABLE": "1",
}
"""Of every role on a CPU. One thread per process: two busy OpenMP threads on one core are many times slower."""
VLLM_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass
class Roles:
    """The roles of one run, alive until `close`."""

    generators: list[Generator] = field(default_factory=list)
    graders: list[Grader] = field(default_factory=list)
    learner: Learner | None = None
    reference: Reference | None = None
    group: PlacementGroup | None = None

    async def close(self) -> None:
        """End every process this run started."""
        roles = [*self.generators, *self.graders, self.learner, self.reference]
        await asyncio.gather(*(role.close() for role in roles if role is not None))
        if self.group is not None:
            remove_placement_group(self.group)


def connect() -> None:
    """Join the Ray cluster that RAY_ADDRESS names (a Ray job's does), or start one on this machine.

    Without the variable nothing is looked for: Ray remembers the last cluster of a machine even when it is dead, and
    would wait for it.
    """
    if not ray.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = os.environ.get("RAY_ADDRESS", "local")
        ray.init(address, include_dashboard=False, log_to_driver=False, configure_logging=False)


def shared(cfg: Config, value: Any) -> Any:
    """The value, stored once for all actors where they are Ray's."""
    return ray.put(value) if cfg.placement.kind == "ray" else value


async def start(cfg: Config, roles: Sequence[str], *, policy_path: str = "") -> Roles:
    """Start the roles named ("generator", "grader", "learner", "reference") with `policy_path` (default: the config's).

    Raises ValueError when the placement is impossible or the policy unusable, RuntimeError when a role does not come up
    within `placement.start_timeout_s`.
    """
    policy = policy_path or cfg.policy.path
    load_tokenizer(policy)
    if cfg.placement.kind == "in_process":
        return await _in_process(cfg, roles, policy)
    connect()
    wanted = bundles(cfg, roles)
    refuse_unless_it_fits(wanted, ray.cluster_resources())
    group = placement_group(slots(wanted), strategy="PACK")
    started = Roles(group=group)
    try:
        try:
            async with asyncio.timeout(cfg.placement.start_timeout_s):
                await _ready(group)
        except TimeoutError:
            raise RuntimeError(
                f"placement: Ray did not reserve {slots(wanted)} within "
                f"{cfg.placement.start_timeout_s:.0f} s; free now: {ray.available_resources()}"
            ) from None
        await _start_remote(cfg, wanted, group, started, policy)
    except BaseException:
        await started.close()
        raise
    return started


async def _ready(group: PlacementGroup) -> None:
    await group.ready()


async def _start_remote(
    cfg: Config, wanted: Sequence[Bundle], group: PlacementGroup, started: Roles, policy: str
) -> None:
    """Start all actors at once; learner ranks then meet at an address of rank 0's node."""
    bound = cfg.placement.start_timeout_s
    ranks: list[Handle] = []
    references: list[Handle] = []
    for i, bundle in enumerate(wanted):
        number = sum(other.role == bundle.role for other in wanted[:i])
        actor = _actor(cfg, bundle, group, _role(cfg, bundle.role, policy, number))
        name = f"{bundle.role} {number}"
        if bundle.role == "generator":
            started.generators.append(RemoteGenerator(actor, name, cfg.placement.call_timeout_s))
        elif bundle.role == "grader":
            started.graders.append(RemoteGrader(actor, name, cfg.placement.call_timeout_s))
        else:
            handle = Handle(actor, name, cfg.placement.call_timeout_s)
            (ranks if bundle.role == "learner" else references).append(handle)
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
    await asyncio.gather(*(handle.start(bound) for handle in (*ranks, *others)))
    if ranks:
        host, port = await ranks[0].wait(ranks[0].actor.address.remote(), "address", bound)
        await asyncio.gather(*(rank.call("join", f"tcp://{host}:{port}", timeout_s=bound) for rank in ranks))


def _role(cfg: Config, role: str, policy: str, number: int) -> tuple[str, str, dict[str, Any]]:
    """Module, class and constructor arguments of one role."""
    if role == "learner":
        ranks = {"rank": number, "ranks": cfg.placement.learners}
        return "actors.learning.learner", "FsdpLearner", learner_arguments(cfg, policy) | ranks
    if role == "generator" and cfg.generator.engine == "vllm":
        return "actors.generation.vllm_engine", "VllmGenerator", generator_arguments(cfg, policy)
    if role == "generator":
        return "actors.generation.transformers_engine", "TransformersGenerator", generator_arguments(cfg, policy)
    if role == "reference":
        return "actors.reference", "References", reference_arguments(cfg)
    return "actors.grader", "PooledGrader", _grader(cfg)


def _actor(cfg: Config, bundle: Bundle, group: PlacementGroup, role: tuple[str, str, dict[str, Any]]) -> Any:
    environment = {} if bundle.gpus else dict(ENVIRONMENT)
    if bundle.role == "generator" and cfg.generator.engine == "vllm":
        environment |= VLLM_ENVIRONMENT
    options = ray.remote(LearnerShell if bundle.role == "learner" else RoleShell).options(
        num_cpus=bundle.cpus,
        num_gpus=bundle.gpus,
        max_concurrency=16,
        runtime_env={"env_vars": environment},
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle.slot),
    )
    return options.remote(*role)


async def _in_process(cfg: Config, roles: Sequence[str], policy: str) -> Roles:
    started = Roles()
    try:
        _build_here(cfg, roles, policy, started)
    except BaseException:
        await started.close()
        raise
    return started


def _build_here(cfg: Config, roles: Sequence[str], policy: str, started: Roles) -> None:
    if "generator" in roles:
        started.generators = [
            TransformersGenerator(**generator_arguments(cfg, policy)) for _ in range(cfg.placement.generators)
        ]
    if "grader" in roles:
        started.graders = [PooledGrader(**_grader(cfg)) for _ in range(cfg.placement.graders)]
    if "reference" in roles:
        started.reference = LocalReference(References(**reference_arguments(cfg)))
    if "learner" in roles:
        learner = FsdpLearner(**learner_arguments(cfg, policy))
        learner.join()
        started.learner = LocalLearner(learner, checksum=cfg.generator.checksum)


def generator_arguments(cfg: Config, policy: str) -> dict[str, Any]:
    return {
        "policy_path": policy,
        "config": cfg.generator,
        "dtype": cfg.policy.dtype,
        "max_length": cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens,
        "device": _device(cfg),
        "tensor_parallel": cfg.placement.tensor_parallel,
    }


def _grader(cfg: Config) -> dict[str, Any]:
    return asdict(cfg.grader) | {"require": cfg.sandbox.require}


def reference_arguments(cfg: Config) -> dict[str, Any]:
    return {
        "policies": policies(cfg),
        "config": cfg.learner,
        "dtype": cfg.policy.dtype,
        "temperature": cfg.sampling.temperature,
        "device": _device(cfg),
    }


def learner_arguments(cfg: Config, policy: str) -> dict[str, Any]:
    return {
        "policy_path": policy,
        "config": cfg.learner,
        "objective": cfg.objective,
        "references": policies(cfg),
        "dtype": cfg.policy.dtype,
        "temperature": cfg.sampling.temperature,
        "total_steps": cfg.steps,
        "device": _device(cfg),
    }


def _device(cfg: Config) -> str:
    return "cuda" if cfg.placement.device == "gpu" else "cpu"
