"""Compute the memory of a run on each kind of GPU and host from its settings and its model's config.json alone.

What is counted, and what is not: docs/deployment.md, "Memory". `learner_memory.py` has the learner's part.
"""

from actors.generation.engine_limits import GPU_STEP_TOKENS, MOST_ROWS, MOST_SEQUENCES, PROMPT_TOKENS
from configs.config import Config
from orchestrator.engine import chosen_engine, publishes_adapter
from orchestrator.placement import needed_roles, references_on_actors, takes_turns
from orchestrator.planning.host_memory import hosts
from orchestrator.planning.learner_memory import (
    SLICES,
    WHOLE_CHUNKS,
    learner_phases,
    microbatch_tokens,
    resident,
    sending_buffers,
    update_phases,
)
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.planning.phases import UNKNOWN, Host, MemoryPlan, Phase, Place, phase

CONTEXT = 1e9
"""Bytes of a process on a GPU besides its tensors: CUDA context, kernels, cuBLAS workspaces, NCCL buffers. Assumed: no
run of Breadth on a GPU has measured it."""
CUDA_GRAPHS = 1e9
"""Bytes of vLLM's CUDA graphs, which it captures after it has divided its memory. Assumed."""
SAMPLER_COPIES = 3
"""Float32 tensors [answers, V] that exist while vLLM samples."""


def memory_plan(cfg: Config, shapes: ModelShapes, gpu_bytes: float, host: Host = UNKNOWN) -> MemoryPlan:
    """Return the memory plan of a run on GPUs.

    Args:
        shapes: of the policy; references are taken to have the same.
        gpu_bytes: memory of one GPU.
        host: what is known of the hosts.

    Raises:
        UnknownMemory: the model's layers cannot be measured; names `policy.path`.
    """
    parallel = cfg.placement.tensor_parallel
    kv_per_token = shapes.key_values_on(parallel) * shapes.dtype_bytes
    if chosen_engine(cfg)[0] == "vllm":
        key_values = cfg.generator.memory_fraction * gpu_bytes - sum(_engine(cfg, shapes).values())
    else:
        key_values = kv_per_token * _longest(cfg) * (cfg.generator.max_sequences or MOST_ROWS)
    if cfg.placement.kind == "in_process":
        places = [_one_process(cfg, shapes, gpu_bytes)]
    else:
        places = (_colocated if cfg.placement.mode == "colocated" else _split)(cfg, shapes, gpu_bytes)
    return MemoryPlan(
        gpus=tuple(places),
        hosts=hosts(cfg, shapes, _references(cfg), host),
        key_values_per_token=kv_per_token,
        key_values=key_values,
        longest=_longest(cfg),
        max_sequences=cfg.generator.max_sequences,
    )


def _longest(cfg: Config) -> int:
    """Return the most tokens of a prompt and its answer."""
    return cfg.sampling.max_prompt_tokens + cfg.longest_answer


def _split(cfg: Config, shapes: ModelShapes, gpu_bytes: float) -> list[Place]:
    """Return the GPUs of each role, where every role has its own."""
    place, context = cfg.placement, {"CUDA context and NCCL": CONTEXT}
    learner = tuple(one.plus(context) for one in learner_phases(cfg, shapes))
    found = [Place(name="learner", count=place.learners, capacity=gpu_bytes, phases=learner)]
    received = sending_buffers(cfg, shapes) if cfg.generator.transfer == "nccl" else {}
    engine = phase("generation", _engine_share(cfg, shapes, gpu_bytes) | received)
    count = place.generators * place.tensor_parallel
    found.append(Place(name="generator", count=count, capacity=gpu_bytes, phases=(engine,)))
    if "reference" in needed_roles(cfg):
        scoring = phase("scoring", _reference(cfg, shapes) | _scoring(cfg, shapes) | context)
        found.append(Place(name="reference", count=place.references, capacity=gpu_bytes, phases=(scoring,)))
    return found


def _colocated(cfg: Config, shapes: ModelShapes, gpu_bytes: float) -> list[Place]:
    """Return the GPUs that learner, generator and reference share: those with a reference, and those without."""
    place = cfg.placement
    references = place.references if "reference" in needed_roles(cfg) else 0
    groups: dict[tuple[bool, bool, bool], int] = {}
    for number in range(max(place.learners, place.generators, references)):
        has = (number < place.learners, number < place.generators, number < references)
        groups[has] = groups.get(has, 0) + 1
    roles = ("learner", "generator", "reference")
    return [
        Place(
            name=" + ".join(role for role, one in zip(roles, has, strict=True) if one),
            count=count,
            capacity=gpu_bytes,
            phases=tuple(_shared(cfg, shapes, gpu_bytes, *has)),
        )
        for has, count in groups.items()
    ]


def _one_process(cfg: Config, shapes: ModelShapes, gpu_bytes: float) -> Place:
    """Return the GPU that all roles of one process share."""
    reference = "reference" in needed_roles(cfg)
    phases = _shared(cfg, shapes, gpu_bytes, learner=True, generator=True, reference=reference)
    return Place(name="learner + generator", count=1, capacity=gpu_bytes, phases=tuple(phases))


def _shared(
    cfg: Config, shapes: ModelShapes, gpu_bytes: float, learner: bool, generator: bool, reference: bool
) -> list[Phase]:
    """Return the phases of a GPU that these roles share."""
    alone = cfg.placement.kind == "in_process"
    contexts = {"CUDA contexts and NCCL": CONTEXT * (1 if alone else learner + generator + reference)}
    engine = _engine_share(cfg, shapes, gpu_bytes) if generator else {}
    engine = {name: size * (cfg.placement.generators if alone else 1) for name, size in engine.items()}
    asleep = {name: size for name, size in engine.items() if name == "CUDA graphs"} if takes_turns(cfg) else engine
    beside = contexts | (_reference(cfg, shapes) if reference else {})
    kept = resident(cfg, shapes) if learner else {}
    found = [phase("generation", kept | engine | beside)]
    if learner:
        found += [one.plus(asleep | beside) for one in update_phases(cfg, shapes)]
        sent = learner_phases(cfg, shapes)[-1]
        # The engine's weights are back before new ones arrive, its key-values only after.
        awake = _engine(cfg, shapes) if generator and takes_turns(cfg) else engine
        found.append(sent.plus(awake | beside))
    if reference:
        found.append(phase("scoring", kept | asleep | beside | _scoring(cfg, shapes)))
    return found


def _engine(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of an engine on one GPU besides its key-values."""
    dtype, parallel = shapes.dtype_bytes, cfg.placement.tensor_parallel
    if chosen_engine(cfg)[0] == "transformers":
        copies, models = 4.0 * SAMPLER_COPIES * shapes.vocabulary, 1 + bool(cfg.sampling.mixed_with)
        sampled = copies * (cfg.generator.max_sequences or MOST_ROWS)
        return {
            "engine's weights": float(models * dtype * shapes.parameters),
            "engine's activations": max(shapes.activations.forward * PROMPT_TOKENS, sampled),
        }
    sampled = SAMPLER_COPIES * 4.0 * (cfg.generator.max_sequences or MOST_SEQUENCES) * shapes.vocabulary
    return {
        "engine's weights": dtype * (shapes.parameters / parallel + shapes.adapters * publishes_adapter(cfg)),
        "engine's activations": max(shapes.activations.forward * GPU_STEP_TOKENS / parallel, sampled),
    }


def _engine_share(cfg: Config, shapes: ModelShapes, gpu_bytes: float) -> dict[str, float]:
    """Return the bytes of an engine on one GPU. vLLM fills its fraction with key-values, at least one sequence. The
    transformers engine holds those of all its answers, as long as the longest."""
    engine = _engine(cfg, shapes)
    one = shapes.key_values_on(cfg.placement.tensor_parallel) * shapes.dtype_bytes * _longest(cfg)
    if chosen_engine(cfg)[0] == "transformers":
        models = 1 + bool(cfg.sampling.mixed_with)
        return engine | {"engine's key-values": models * one * (cfg.generator.max_sequences or MOST_ROWS)}
    filled = max(one, cfg.generator.memory_fraction * gpu_bytes - sum(engine.values()))
    return engine | {"engine's key-values": filled, "CUDA graphs": CUDA_GRAPHS}


def _references(cfg: Config) -> int:
    """Return how many policies a reference actor holds."""
    return len(references_on_actors(cfg))


def _reference(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    return {"weights of references": float(_references(cfg) * shapes.dtype_bytes * shapes.parameters)}


def _scoring(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of a reference's forward pass over a microbatch."""
    terms = cfg.objective.terms.values()
    chunks = WHOLE_CHUNKS if any(term.reweights or term.weights.certainty_power for term in terms) else SLICES
    return {
        "one layer's forward pass": shapes.activations.forward * microbatch_tokens(cfg),
        "hidden states": 4.0 * shapes.dtype_bytes * shapes.hidden * microbatch_tokens(cfg),
        "logits of a chunk": chunks * cfg.learner.logits_megabytes * 1e6,
    }
