"""Placement: what every actor reserves, and the refusal of what does not fit the cluster."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from configs.config import Config


def needed_roles(cfg: Config) -> list[str]:
    """The roles a training run starts."""
    reference = bool(cfg.objective.anchors or cfg.objective.hidden_anchors) or (
        cfg.monitor.every > 0 and cfg.monitor.kl_to_base
    )
    return ["learner", "generator", "grader", *(["reference"] if reference else [])]


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What one Ray actor reserves."""

    role: str
    cpus: float
    gpus: float
    slot: int
    """Actors with one slot share it: colocated, the i-th of each role on a GPU share the i-th GPU."""


def bundles(cfg: Config, roles: Sequence[str]) -> list[Bundle]:
    """The reservations of a run that uses `roles`, in the order the actors are started."""
    place = cfg.placement
    counts = {
        "learner": place.learners,
        "generator": place.generators,
        "reference": place.references,
        "grader": place.graders,
    }
    on_gpu = [role for role in counts if role in roles and role != "grader" and place.device == "gpu"]
    found: list[Bundle] = []
    for role in (role for role in counts if role in roles):
        for number in range(counts[role]):
            shares = place.mode == "colocated" and role in on_gpu
            gpus = 0.0 if role not in on_gpu else 1.0
            if shares:  # in whole ten-thousandths, which is what Ray counts in
                gpus = math.floor(1e4 / sum(number < counts[other] for other in on_gpu)) / 1e4
            elif role == "generator":
                gpus *= place.tensor_parallel
            slot = number if shares else max([bundle.slot for bundle in found], default=-1) + 1
            found.append(Bundle(role=role, cpus=getattr(place, f"cpus_per_{role}"), gpus=gpus, slot=slot))
    return found


def refuse_unless_it_fits(wanted: Sequence[Bundle], available: dict[str, float]) -> None:
    """Raise ValueError with the arithmetic when the cluster cannot hold the reservations."""
    for resource, attribute in (("CPU", "cpus"), ("GPU", "gpus")):
        need = sum(getattr(bundle, attribute) for bundle in wanted)
        have = available.get(resource, 0.0)
        if need > have + 1e-9:
            counted = {role: [getattr(b, attribute) for b in wanted if b.role == role] for role in _roles(wanted)}
            terms = [f"{len(v)} {role} x {v[0]:g}" for role, v in counted.items() if v[0]]
            raise ValueError(
                f"placement: must fit the cluster, got {' + '.join(terms)} = {need:g} {resource} where Ray has {have:g}"
            )


def _roles(wanted: Sequence[Bundle]) -> list[str]:
    return list(dict.fromkeys(bundle.role for bundle in wanted))


def slots(wanted: Sequence[Bundle]) -> list[dict[str, float]]:
    """What each slot of the placement group reserves: the sum over the actors that share it."""
    slots = []
    for slot in sorted({bundle.slot for bundle in wanted}):
        mine = [bundle for bundle in wanted if bundle.slot == slot]
        # Ray refuses an empty reservation; a sliver of a core stands for "none".
        resources = {"CPU": sum(b.cpus for b in mine) or 0.001, "GPU": float(math.ceil(sum(b.gpus for b in mine)))}
        slots.append({name: amount for name, amount in resources.items() if amount})
    return slots
