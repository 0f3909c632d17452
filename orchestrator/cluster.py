"""Check that a run fits the cluster, and start its roles over Ray or in this process."""

import asyncio
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.background import in_own_thread
from actors.batch_shells import LearnerShell, ReferenceShell
from actors.contracts import Generator, Grader, Learner, Reference
from actors.loading import collector_paused
from actors.policy_files.reading import load_tokenizer
from actors.ray_shells import HEARTBEAT, GeneratorShell, GraderShell
from actors.remote import Handle, RemoteGenerator, RemoteGrader
from actors.remote_learner import RemoteLearner
from actors.remote_reference import RemoteReference
from configs.config import Config
from orchestrator.connection import connect, own_cores, while_it_works
from orchestrator.constructors import constructor
from orchestrator.devices.environment import environment, secrets
from orchestrator.devices.turns import Turns
from orchestrator.engine import with_engine
from orchestrator.placement import (
    Reservation,
    bundles,
    load_order,
    require_capacity,
    reservations,
    shares_gpus,
    takes_turns,
)
from orchestrator.preflight.machine import check_devices
from orchestrator.references import on_actors, with_learner

SHELLS = {"learner": LearnerShell, "reference": ReferenceShell, "generator": GeneratorShell, "grader": GraderShell}
"""The class of each role's actors."""


@dataclass
class Roles:
    """Roles that were created. They can be used after `ready`, and run until `close`."""

    cfg: Config
    names: Sequence[str]
    policy: str
    """Directory of the policy that the generators load first."""
    references: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Policies of the reference actors, as `references.policies` returns them."""
    generators: list[Generator] = field(default_factory=list)
    graders: list[Grader] = field(default_factory=list)
    learner: Learner | None = None
    reference: Reference | None = None
    reference_actors: RemoteReference | None = None
    """The Ray actors that `reference` scores with, if there are any."""
    handles: list[Handle] = field(default_factory=list)
    """All Ray actors, also those that are still starting."""
    ranks: list[Handle] = field(default_factory=list)
    group: PlacementGroup | None = None
    turns: Turns | None = None
    """Where the engines sleep while the learner computes."""
    recovered: Callable[[], Mapping[str, float]] = dict
    """Returns the metrics of the roles that were started again (`orchestrator/supervision/`)."""

    async def ready(self) -> dict[str, float]:
        """Wait until all roles can be called. Returns the seconds that each Ray actor took to build its role, by name.

        References may still be loading: their first call waits for them. `complete` does too.

        Raises:
            ValueError: the policy cannot be used.
            RuntimeError: a role is not ready within `placement.start_timeout_s`.
        """
        if self.cfg.placement.kind == "in_process":
            with collector_paused():  # It loads all engines, which a driver with Ray does not need.
                building = importlib.import_module("orchestrator.in_process")
            building.build(self)
            return {}
        assert self.group is not None
        timeout_s = self.cfg.placement.start_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                await _ready(self.group)
        except TimeoutError:
            raise RuntimeError(
                f"placement: Ray did not reserve {self.group.bundle_specs} within {timeout_s:.0f} s; free now: "
                f"{ray.available_resources()}"
            ) from None
        engines = [handle for handle in self.handles if isinstance(handle, RemoteGenerator)]
        last = engines if shares_gpus(self.cfg) else []
        first = [each for each in self.handles if each not in (*last, *self._references)]
        seconds = await _started(first, timeout_s)
        if self.ranks:  # They form a process group at an address of the first rank's node.
            address = self.ranks[0].actor.address.remote()
            host, port = await self.ranks[0].wait(address, "address", timeout_s)
            joins = (rank.call("join", f"tcp://{host}:{port}", timeout_s=timeout_s) for rank in self.ranks)
            await asyncio.gather(*joins)
        if last:
            await self.complete()
            for engine in last:
                engine.begin()
            seconds |= await _started(last, timeout_s)
        if takes_turns(self.cfg) and self.learner is not None:
            self.turns = Turns(engines, [*self.ranks, *self._references])
            self.turns.apply(self.learner, self.reference)
        return seconds

    async def complete(self) -> None:
        """Wait until the reference actors are loaded too. Raises as `ready`."""
        await _started(self._references, self.cfg.placement.start_timeout_s)

    @property
    def _references(self) -> list[Handle]:
        return [handle for handle in self.handles if handle.name.startswith("reference")]

    async def close(self) -> None:
        """End the process of every role, and give back what they reserved."""
        if self.cfg.placement.kind == "in_process":
            roles = [*self.generators, *self.graders, self.learner, self.reference]
            await asyncio.gather(*(role.close() for role in roles if role is not None))
        await while_it_works(self._end_actors())

    async def _end_actors(self) -> None:
        await asyncio.gather(*(handle.close() for handle in self.handles))
        if self.group is not None:
            await in_own_thread(remove_placement_group, self.group)


async def _started(handles: Sequence[Handle], timeout_s: float) -> dict[str, float]:
    """Wait until all are built. Return the seconds that each took, by name."""
    seconds = await asyncio.gather(*(handle.started(timeout_s) for handle in handles))
    return {handle.name: taken for handle, taken in zip(handles, seconds, strict=True)}


async def _ready(group: PlacementGroup) -> None:
    await group.ready()


def store_once(cfg: Config, value: Any) -> Any:
    """Put a value for several actors into Ray's object store; without Ray, return it unchanged."""
    return ray.put(value) if cfg.placement.kind == "ray" else value


def create(
    cfg: Config,
    names: Sequence[str],
    *,
    policy_path: str = "",
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> Roles:
    """Create the actors of roles, which start while the caller goes on; in process nothing starts before `ready`.

    Args:
        names: any of "generator", "grader", "learner", "reference".
        policy_path: directory of the policy that the generators load first; empty: `policy.path`.
        references: policies of the reference actors; None: those of the settings.

    Raises:
        ValueError: the cluster is too small, or a device is missing.
    """
    if "learner" not in names:  # Only the answers that are trained on come from a mixture.
        cfg = replace(cfg, sampling=replace(cfg.sampling, mixed_with=""))
    cfg = with_engine(cfg)
    check_devices(cfg)
    roles = Roles(cfg, names, policy_path or cfg.policy.path, on_actors(cfg) if references is None else references)
    if cfg.placement.kind == "ray":
        connect()
        wanted = reservations(cfg, names)
        require_capacity(wanted, ray.cluster_resources())
        roles.group = placement_group(bundles(wanted), strategy="PACK")
        try:
            _create_actors(roles, wanted, roles.group)
        except BaseException:
            remove_placement_group(roles.group)  # which ends the actors in it
            raise
    return roles


async def start(
    cfg: Config,
    names: Sequence[str],
    *,
    policy_path: str = "",
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> Roles:
    """Start roles, and wait until all are ready. Args and Raises: as for `create` and `Roles.ready`."""
    load_tokenizer(policy_path or cfg.policy.path)
    roles = create(cfg, names, policy_path=policy_path, references=references)
    try:
        await roles.ready()
        await roles.complete()
    except BaseException:
        await roles.close()
        raise
    return roles


def _create_actors(roles: Roles, wanted: Sequence[Reservation], group: PlacementGroup) -> None:
    """Create all actors. They load at the same time, as far as there are cores, but for engines on shared GPUs."""
    cfg, timeout_s = roles.cfg, roles.cfg.placement.call_timeout_s
    references: list[Handle] = []
    for reservation, after in load_order(wanted, own_cores()):
        number = sum(handle.name.startswith(f"{reservation.role} ") for handle in roles.handles)
        create = partial(_create_actor, roles, reservation, group, number)
        actor, name = create(), f"{reservation.role} {number}"
        if reservation.role == "generator":
            generator = RemoteGenerator(actor, name, timeout_s, cfg.placement.publish_timeout_s, create)
            roles.generators.append(generator)
            handle: Handle = generator
        elif reservation.role == "grader":
            grader = RemoteGrader(actor, name, timeout_s, create)
            roles.graders.append(grader)
            handle = grader
        else:
            handle = Handle(actor, name, timeout_s, create)
            (roles.ranks if reservation.role == "learner" else references).append(handle)
        handle.secrets = secrets(cfg, reservation.role)
        if not (shares_gpus(cfg) and reservation.role == "generator"):  # `Roles.ready` begins those
            handle.begin(None if after is None else roles.handles[after])
        roles.handles.append(handle)
    if references:
        roles.reference_actors = RemoteReference(references, cfg.placement.start_timeout_s)
        roles.reference = roles.reference_actors
    if roles.ranks:
        learner = RemoteLearner(
            roles.ranks,
            cfg.learner,
            transfer=cfg.generator.transfer,
            tensor_parallel=cfg.placement.tensor_parallel,
            checksum=cfg.generator.checksum,
            publish_timeout_s=cfg.placement.publish_timeout_s,
        )
        roles.learner, roles.reference = learner, with_learner(cfg, learner, roles.reference)


def _create_actor(roles: Roles, reservation: Reservation, group: PlacementGroup, number: int) -> Any:
    """Create the actor `number` of a role, which does not build it yet."""
    gpu, cores = reservation.gpus > 0, own_cores()
    built = constructor(
        roles.cfg,
        reservation.role,
        number,
        names=roles.names,
        policy=roles.policy,
        references=roles.references,
    )
    variables = environment(roles.cfg, reservation.role, gpu=gpu, names=roles.names, cores=cores)
    remote: Any = ray.remote  # its types do not know `concurrency_groups`
    options = remote(concurrency_groups={HEARTBEAT: 1})(SHELLS[reservation.role]).options(
        num_cpus=reservation.cpus,
        num_gpus=reservation.gpus,
        max_concurrency=16,
        runtime_env={"env_vars": variables},
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=reservation.bundle),
    )
    return options.remote(*built)
