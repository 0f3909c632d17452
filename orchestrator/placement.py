"""Placement: compute what every actor reserves, and refuse a run that does not fit the cluster.

One actor makes one Reservation. A bundle, as Ray calls it, is the part of the placement group that lies on one node; it
holds one reservation, or, if roles are colocated, those of the actors that share a GPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from configs.checks import require
from configs.config import Config
from orchestrator.engine import chosen_engine, publishes_adapter

MAIN = "reference"
"""Name of the reference policy of `reference_path`."""


def needed_roles(cfg: Config) -> list[str]:
    """Return the roles a training run starts."""
    return ["learner", "generator", "grader", *(["reference"] if references_on_actors(cfg) else [])]


def scoring_references(cfg: Config) -> list[str]:
    """Return the names of the references whose log-probs or hidden states a run needs."""
    measures = [MAIN] if cfg.monitor.every and cfg.monitor.kl_to_base else []
    return list(dict.fromkeys([*cfg.objective.anchors, *cfg.objective.hidden_anchors, *measures]))


def held_by_learner(cfg: Config) -> list[str]:
    """Return the names of the references that the learner ranks hold: those whose whole distributions the objective
    compares, and those that they score with."""
    return list(dict.fromkeys([*cfg.objective.head_anchors, *references_of_learner(cfg)]))


def references_of_learner(cfg: Config) -> list[str]:
    """Return the names of the references that the learner ranks score with.

    These are all whose whole distributions the objective compares, and with `placement.references_on=learners` the
    others that are never updated. Where the driver needs hidden states, a reference actor scores and sends them.
    """
    chosen = [*cfg.objective.head_anchors]
    if cfg.placement.references_on == "learners":
        moving = [name for name, reference in cfg.references.items() if reference.moves]
        chosen += [name for name in scoring_references(cfg) if name not in moving]
    return [name for name in dict.fromkeys(chosen) if name not in cfg.objective.hidden_anchors]


def references_on_actors(cfg: Config) -> list[str]:
    """Return the names of the references that the reference actors hold."""
    of_learner = references_of_learner(cfg)
    return [name for name in scoring_references(cfg) if name not in of_learner]


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """CPUs and GPUs that one actor reserves.

    Example: Reservation(role="generator", cpus=1.0, gpus=0.5, bundle=0)
    """

    role: str
    cpus: float
    gpus: float
    bundle: int
    """Index of the placement group's bundle. Colocated, the i-th actor of each role on a GPU has the i-th bundle."""


def reservations(cfg: Config, roles: Sequence[str]) -> list[Reservation]:
    """Return the reservations of a run that uses `roles`, in the order in which the actors are started."""
    place = cfg.placement
    counts = {
        "learner": place.learners,
        "generator": place.generators,
        "reference": place.references,
        "grader": place.graders,
    }
    on_gpu = [role for role in counts if role in roles and role != "grader" and place.device == "gpu"]
    found: list[Reservation] = []
    for role in (role for role in counts if role in roles):
        for number in range(counts[role]):
            colocated = place.mode == "colocated" and role in on_gpu
            gpus = 0.0 if role not in on_gpu else 1.0
            if colocated:  # rounded down to 1/10,000 of a GPU, the unit in which Ray counts
                gpus = math.floor(1e4 / sum(number < counts[other] for other in on_gpu)) / 1e4
            elif role == "generator":
                gpus *= place.tensor_parallel
            bundle = number if colocated else max([other.bundle for other in found], default=-1) + 1
            found.append(Reservation(role=role, cpus=getattr(place, f"cpus_per_{role}"), gpus=gpus, bundle=bundle))
    return found


def check_transfer(cfg: Config) -> None:
    """Raise ValueError if a learner's weights cannot get to the generators by `generator.transfer` as they are placed.

    NCCL takes a GPU into a group once. CUDA IPC passes memory within a GPU, so each generator needs a learner rank on
    its own.
    """
    place, transfer = cfg.placement, cfg.generator.transfer
    if transfer == "host" or publishes_adapter(cfg):  # an adapter goes through host memory
        return
    shared = place.mode == "colocated"
    fits, gpus = ("ipc", "the same GPUs") if shared else ("nccl", "different GPUs")
    rule = f"must be {fits!r} or 'host' with placement.mode={place.mode}: generators and learners are on {gpus}"
    require(transfer == fits, "generator.transfer", rule, transfer)
    rule = f"must be at most placement.learners ({place.learners}) with generator.transfer=ipc: weights stay on a GPU"
    require(not shared or place.generators <= place.learners, "placement.generators", rule, place.generators)


LOAD_ORDER = ("generator", "learner", "grader", "reference")
"""vLLM takes longest to load, and references are needed last."""


def shares_gpus(cfg: Config) -> bool:
    """Return whether generators, learners and references are on the same GPUs.

    vLLM measures the free memory of its GPU while it starts, so its engines start when the other roles have loaded.
    """
    return cfg.placement.device == "gpu" and cfg.placement.mode == "colocated"


def takes_turns(cfg: Config) -> bool:
    """Return whether the engines sleep while learner and references compute: on shared GPUs, if they never generate
    at the same time."""
    return shares_gpus(cfg) and cfg.lag == 0 and chosen_engine(cfg)[0] == "vllm"


def load_order(wanted: Sequence[Reservation], cores: int) -> list[tuple[Reservation, int | None]]:
    """Return the actors in the order in which they load, each with the index of the actor that must have loaded before.

    Loading libraries keeps a core busy. So on a small machine the other roles load one after another, on the cores that
    the generators leave.

    Args:
        cores: of this machine, if the cluster is its own; 0: enough for all.
    """
    ordered = sorted(wanted, key=lambda one: LOAD_ORDER.index(one.role))
    generators = sum(one.role == "generator" for one in ordered)
    at_a_time = max(1, cores - generators) if cores else len(ordered)
    return [(one, i - at_a_time if i - at_a_time >= generators else None) for i, one in enumerate(ordered)]


def threads(cfg: Config, role: str, names: Sequence[str], cores: int) -> int:
    """Return the number of threads with which a process of an actor of `role` computes on a CPU.

    More threads than cores are many times slower: the threads of one process wait for each other in every operation.

    Args:
        names: the roles that are started.
        cores: of this machine, if the cluster is its own; 0: those that the actor reserves.
    """
    place = cfg.placement
    if role == "grader":  # It computes nothing itself.
        return 1
    given: int = getattr(place, f"threads_per_{role}")
    if given:
        return given
    if not cores:
        return max(1, int(getattr(place, f"cpus_per_{role}")) // (place.tensor_parallel if role == "generator" else 1))
    engines = place.generators * place.tensor_parallel  # each has a process per part of a layer
    all_counts = {"generator": engines, "learner": place.learners, "reference": place.references}
    counts = {name: count for name, count in all_counts.items() if name in names}
    # Learner and reference take turns also with lag >= 1.
    trained = max(counts.get("learner", 0), counts.get("reference", 0))
    return max(1, cores // (counts[role] if cfg.lag == 0 else counts.get("generator", 0) + trained))


def require_capacity(wanted: Sequence[Reservation], available: dict[str, float]) -> None:
    """Raise ValueError, with the arithmetic, if the reservations exceed the cluster's resources.

    Args:
        available: amounts of the resources "CPU" and "GPU" in the whole cluster.
    """
    for resource, attribute in (("CPU", "cpus"), ("GPU", "gpus")):
        need = sum(getattr(reservation, attribute) for reservation in wanted)
        have = available.get(resource, 0.0)
        if need > have + 1e-9:
            amounts = {role: [getattr(r, attribute) for r in wanted if r.role == role] for role in _roles(wanted)}
            terms = [f"{len(v)} {role} x {v[0]:g}" for role, v in amounts.items() if v[0]]
            raise ValueError(
                f"placement: must fit the cluster, got {' + '.join(terms)} = {need:g} {resource} where Ray has {have:g}"
            )


def _roles(wanted: Sequence[Reservation]) -> list[str]:
    return list(dict.fromkeys(reservation.role for reservation in wanted))


def bundles(wanted: Sequence[Reservation]) -> list[dict[str, float]]:
    """Return the resources of each bundle of the placement group: the sums over the reservations in it."""
    found = []
    for bundle in sorted({reservation.bundle for reservation in wanted}):
        members = [reservation for reservation in wanted if reservation.bundle == bundle]
        # Ray refuses an empty bundle, so one without resources reserves 1/1000 of a CPU.
        cpus, gpus = sum(r.cpus for r in members) or 0.001, float(math.ceil(sum(r.gpus for r in members)))
        found.append({name: amount for name, amount in {"CPU": cpus, "GPU": gpus}.items() if amount})
    return found
