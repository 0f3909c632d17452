"""Memory of the hosts of a run: what learner ranks load, save and publish, and what engines and references keep there.

Only parts that grow with the policy are counted, besides `PROCESS` for each actor.
"""

import math
from collections.abc import Iterable

from actors.weights.pieces import PIECE_BYTES
from configs.config import Config
from orchestrator.engine import publishes_adapter
from orchestrator.placement import held_by_learner, takes_turns
from orchestrator.planning.learner_memory import FLOAT32, all_states, is_sharded, kept_inputs, shard_ranks
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.planning.phases import Host, Phase, Place, phase

PROCESS = 3e9
"""Bytes of host memory of one actor on a GPU, with its libraries and pinned buffers. Assumed."""
PINNED = "pinned memory, rounded up"
"""torch allocates pinned memory in powers of two: of a tensor of 68 MB, 134 MB (ATen/core/CachingHostAllocator.h)."""
PUBLISHED = 2
"""Copies of a piece of the weights on the host of the first rank while Ray's object store carries it."""


def hosts(cfg: Config, shapes: ModelShapes, references: int, host: Host) -> tuple[Place, ...]:
    """Return the memory of the host of the first learner ranks, which needs most.

    Args:
        references: policies that a reference actor holds; 0: there is none.
    """
    place, alone = cfg.placement, cfg.placement.kind == "in_process"
    ranks, engines, with_references = _roles(cfg, references, host)
    processes = {"processes": PROCESS * (1 if alone else ranks + engines * place.tensor_parallel + with_references)}
    whole = float(FLOAT32 * shapes.parameters)
    moved = whole * sum(reference.moves for reference in cfg.references.values()) * bool(with_references)
    held = processes | {"float32 weights of moving references": moved}
    dtype = shapes.dtype_bytes * float(shapes.parameters)
    offloaded = sum(all_states(cfg, shapes).values()) if cfg.learner.offload_states else 0.0
    inputs = kept_inputs(cfg, shapes) if cfg.learner.offload_activations else 0.0
    adapter = publishes_adapter(cfg)
    sent = shapes.dtype_bytes * float(shapes.adapters) if adapter else dtype
    # Generators of one host map the learner's buffer. If any runs elsewhere, all get pieces; an adapter is one.
    mapped = sent if cfg.generator.transfer == "host" and engines == place.generators else 0.0
    frozen = len(held_by_learner(cfg)) * dtype / shard_ranks(cfg) if is_sharded(cfg) else 0.0
    held = held | {"states of the learner": ranks * offloaded, "weights for generators": mapped}
    held = held | {"shards of references": ranks * frozen, PINNED: ranks * _pinned_shards(cfg, shapes)}
    # A rank's copies of moments and policy, and of the float32 weights unless they are the policy that is written.
    same = cfg.checkpoint.dtype == "float32" and not shapes.adapters
    policy = shapes.parameters * (FLOAT32 if cfg.checkpoint.dtype == "float32" else 2)
    copied = (policy + shapes.trained * FLOAT32 * (2 if same else 3)) / cfg.placement.learners
    update = {
        "weights of sleeping engines": engines * dtype * takes_turns(cfg),
        "activations": ranks * inputs,
        PINNED: held[PINNED] + ranks * shapes.layers * _unused([inputs / shapes.layers]),
        "checkpoint being written": ranks * copied,
        **_batch(cfg, shapes),
    }
    if takes_turns(cfg):
        update[PINNED] += engines * _unused(shapes.dtype_bytes * size for size in shapes.sizes)
    phases = [
        phase("loading", held | {"one tensor of each rank": ranks * float(FLOAT32 * shapes.largest_tensor)}),
        phase("an update", held | update),
    ]
    if cfg.generator.transfer == "host" and engines < place.generators:
        whole_layer = max(PIECE_BYTES, shapes.dtype_bytes * max(shapes.layer, shapes.largest_tensor))
        piece = sent if adapter else float(whole_layer)
        phases.append(phase("the publication", held | {"pieces of the weights": PUBLISHED * piece}))
    return (
        Place(name=_named(ranks, engines, with_references), count=1, capacity=host.memory, phases=_ordered(phases)),
    )


def _roles(cfg: Config, references: int, host: Host) -> tuple[int, int, int]:
    """Return how many learner ranks, engines and reference actors are on the host."""
    place, wanted = cfg.placement, cfg.placement.references if references else 0
    if place.kind == "in_process":  # all on one GPU
        return 1, place.generators, min(wanted, 1)
    ranks = min(place.learners, host.gpus)
    free = host.gpus if place.mode == "colocated" else max(0, host.gpus - ranks)
    engines = min(place.generators, free // place.tensor_parallel)
    left = host.gpus if place.mode == "colocated" else free - engines * place.tensor_parallel
    return ranks, engines, min(wanted, left)


def _pinned_shards(cfg: Config, shapes: ModelShapes) -> float:
    """Return the unused bytes of the pinned memory of a rank, which holds shards of weights, gradients and references.
    Adam's moments are in other memory."""
    if not is_sharded(cfg):
        return 0.0
    ranks, weights = shard_ranks(cfg), [shapes.dtype_bytes * size for size in shapes.sizes]
    trained = [FLOAT32 * size for size in shapes.adapter_sizes or shapes.sizes]
    pinned = weights * len(held_by_learner(cfg))
    if cfg.learner.offload_states:
        pinned += [*(weights if shapes.adapters else ()), *trained, *trained]
    return _unused(size / ranks for size in pinned)


def _unused(sizes: Iterable[float]) -> float:
    """Return the bytes by which pinned tensors are smaller than what torch allocates for them."""
    return sum(2.0 ** math.ceil(math.log2(size)) - size for size in sizes if size)


def _batch(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of a whole batch's hidden states, in the object store and at the driver."""
    answers = cfg.groups_per_step * cfg.sampling.group_size
    tokens = answers * (cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens)
    anchors = len(cfg.objective.hidden_anchors)
    return {"hidden states of references": 2.0 * anchors * tokens * shapes.hidden * shapes.dtype_bytes}


def _named(ranks: int, engines: int, references: int) -> str:
    roles = (("learner", ranks), ("generator", engines), ("reference", references))
    return ", ".join(f"{count} {role}" for role, count in roles if count)


def _ordered(phases: list[Phase]) -> tuple[Phase, ...]:
    return tuple(sorted(phases, key=lambda one: -one.bytes))
