"""Memory of one learner rank on its GPU: an update with FSDP2, and the publication of its weights.

The formulas follow `actors/learning/sharding.py` and torch's FSDP2: every rank holds 1 / R of the float32 weights,
gradients and moments. Root (embedding, LM head, last norm) and layer weights are gathered in the dtype of the forward
pass, the root for the whole microbatch, a layer for its own pass while the next one is being gathered. Gradients are
reduced in float32. The tests hold the peak to torch's FSDPMemTracker.

Axes: T tokens of a microbatch, D hidden, V vocabulary, R ranks of a copy of the policy, P parameters.
"""

import math

from actors.scoring.token_scores import SLICE_BYTES
from actors.weights.transfer import BUFFER_BYTES
from configs.config import Config
from orchestrator.engine import publishes_adapter
from orchestrator.placement import held_by_learner
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.planning.phases import Phase, phase

FLOAT32 = 4
"""Bytes of master weights and gradients; two moments take twice as much."""
SLICES = 4
"""Float32 slices of logits that exist at a time in `token_scores`."""
WHOLE_CHUNKS = 6
"""Float32 chunks of logits that exist at a time where terms compare whole distributions: those of policy and anchor,
their log-softmax, the products of them, and the gradient."""
CRITIC = "states of the critic"
IN_FLIGHT = 2
"""Layers whose shards or activations are on their way between GPU and host at a time."""


def learner_phases(cfg: Config, shapes: ModelShapes) -> list[Phase]:
    """Return what one learner rank holds at the moments of a step at which it may be most."""
    publication = {**resident(cfg, shapes), **_sent(cfg, shapes)}
    return [*update_phases(cfg, shapes), phase("the publication", publication)]


def update_phases(cfg: Config, shapes: ModelShapes) -> list[Phase]:
    """Return the phases of the second or later microbatch of an update, whose gradients are added to others.

    Adam's step is none: its kernel is fused and works in place.
    """
    references = _references(cfg, shapes)
    held = {**states(cfg, shapes), **references, **_gathered(cfg, shapes)}
    found = [
        phase("the backward pass of a layer", held | _backward(cfg, shapes)),
        phase("the backward pass of the LM head", held | _head(cfg, shapes)),
    ]
    if is_sharded(cfg) and not shapes.adapters:  # adapters are in layers only
        whole = cfg.learner.accumulate == "unsharded"
        reduced = {
            "root gradients": float((FLOAT32 if whole else shapes.dtype_bytes) * shapes.root),
            "reduce-scatter buffer": FLOAT32 * shapes.root * (1 + 1 / shard_ranks(cfg)),
        }
        # All gathered weights are freed before the root's gradients, the last ones, are reduced.
        kept = {**states(cfg, shapes), **references}
        found.append(phase("the reduction of the root's gradients", kept | reduced))
    if held_by_learner(cfg):
        found.append(phase("the forward pass of a reference", states(cfg, shapes) | references | _scoring(cfg, shapes)))
    return found


def states(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of weights, gradients and moments on the GPU of a rank during an update, by part."""
    return {} if cfg.learner.offload_states else all_states(cfg, shapes)


def resident(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes that a rank holds on its GPU from step to step: gradients are freed after an update."""
    found = states(cfg, shapes)
    found.pop("float32 gradients", None)
    if CRITIC in found:
        found[CRITIC] *= 3 / 4
    return found


def all_states(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of weights, gradients and moments of a rank, on its GPU or in host memory, by part."""
    mine = FLOAT32 * shapes.trained / shard_ranks(cfg)
    found = {"frozen weights": shapes.dtype_bytes * shapes.parameters / shard_ranks(cfg)} if shapes.adapters else {}
    found |= {"float32 weights": mine, "float32 gradients": mine, "Adam's moments": 2 * mine}
    if cfg.learner.extragradient:
        found["weights before a look-ahead"] = mine
    if cfg.objective.value_heads is not None:
        heads = cfg.objective.value_heads.heads * shapes.hidden * (shapes.hidden // 4 + 2)
        found[CRITIC] = 4 * FLOAT32 * heads / shard_ranks(cfg)
    return found


def shard_ranks(cfg: Config) -> int:
    """Return R, the ranks among which a copy of the policy is divided."""
    return cfg.placement.learners // cfg.learner.replicas


def is_sharded(cfg: Config) -> bool:
    """Return whether the learner uses FSDP2; one rank in float32 does not."""
    return cfg.placement.learners > 1 or cfg.policy.dtype == "bfloat16" or cfg.learner.offload_states


def microbatch_tokens(cfg: Config) -> int:
    """Return the most tokens of a microbatch: a trajectory longer than the budget is one of its own."""
    return max(cfg.learner.token_budget, cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens)


def kept_inputs(cfg: Config, shapes: ModelShapes) -> float:
    """Return the bytes of the inputs of recomputed layers, on the GPU or in host memory."""
    return _recomputed(cfg, shapes) * shapes.dtype_bytes * shapes.hidden * _tokens(cfg)


def _tokens(cfg: Config) -> int:
    """Return T of one rank."""
    return math.ceil(microbatch_tokens(cfg) / cfg.learner.context_parallel)


def _recomputed(cfg: Config, shapes: ModelShapes) -> int:
    """Return the number of layers that are recomputed in the backward pass."""
    return math.ceil(shapes.layers / cfg.learner.checkpoint_every) if cfg.learner.gradient_checkpointing else 0


def _gathered(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes that are gathered for a whole microbatch."""
    if not is_sharded(cfg):
        return {}
    if cfg.learner.accumulate == "unsharded":
        # A reduced gradient takes the place of the whole one, so only the larger of the two is counted.
        whole = shapes.trained * FLOAT32
        return {
            "gathered weights": float(shapes.dtype_bytes * (shapes.parameters + shapes.adapters)),
            "whole gradient": whole - states(cfg, shapes).get("float32 gradients", 0.0),
        }
    return {"gathered root weights": float(shapes.dtype_bytes * shapes.root)}


def _kept(cfg: Config, shapes: ModelShapes, layers: int) -> dict[str, float]:
    """Return the bytes that the first `layers` layers keep for the backward pass."""
    recomputed, found = _recomputed(cfg, shapes), dict[str, float]()
    if recomputed == shapes.layers:
        recomputed = layers
    if recomputed:
        one = shapes.dtype_bytes * shapes.hidden * _tokens(cfg)
        on_gpu = min(recomputed, IN_FLIGHT) if cfg.learner.offload_activations else recomputed
        found[f"checkpointed inputs of {on_gpu} layers"] = float(on_gpu * one)
    if layers > recomputed:
        found[f"activations of {layers - recomputed} layers"] = (
            (layers - recomputed) * shapes.activations.saved * _tokens(cfg)
        )
    return found


def _backward(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of the backward pass of the layer at which they are most: with recomputation that before the
    last, during which the last one's gradients are still being reduced, else the last."""
    dtype, activations = shapes.dtype_bytes, shapes.activations
    sharded, whole = is_sharded(cfg), cfg.learner.accumulate == "unsharded"
    recomputes = _recomputed(cfg, shapes) == shapes.layers
    before_last = recomputes and sharded and shapes.layers > 1
    passing = activations.backward if recomputes else activations.backward - activations.saved
    # One rank copies its weights to the other dtype for the layer alone, and gathers nothing ahead.
    copies = 0 if whole or not sharded else 2 if shard_ranks(cfg) > 1 else 1
    frozen = dtype * shapes.layer if shapes.adapters else 0
    on_the_way = IN_FLIGHT * (FLOAT32 * shapes.layer_trained + frozen) / shard_ranks(cfg)
    return {
        "gathered layer weights": float(copies * dtype * (shapes.layer + shapes.layer_adapters)),
        "layer gradients": float(dtype * shapes.layer_trained if sharded else 0),
        "reduce-scatter buffer": float(FLOAT32 * shapes.layer_trained if before_last else 0),
        "shards from and to the host": on_the_way if cfg.learner.offload_states else 0.0,
        "gradient of the LM head": float(dtype * shapes.head if sharded and not shapes.adapters else 0),
        **_kept(cfg, shapes, shapes.layers - before_last),
        ("one recomputed layer" if recomputes else "gradients in one layer"): passing * _tokens(cfg),
    }


def _head(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of the LM head's backward pass: hidden states, logits of a chunk, and its weight's gradient,
    which is summed in float32."""
    dtype, tokens = shapes.dtype_bytes, _tokens(cfg)
    chunk = min(tokens, max(1, int(cfg.learner.logits_megabytes * 1e6) // (FLOAT32 * shapes.vocabulary)))
    logits = FLOAT32 * chunk * shapes.vocabulary
    chunks = (
        WHOLE_CHUNKS * logits
        if cfg.objective.head_anchors
        # The gradient of the logits is cast to the dtype of the head.
        else logits * (1 + dtype / FLOAT32) + SLICES * min(SLICE_BYTES["cuda"], logits)
    )
    copies = 0 if cfg.learner.accumulate == "unsharded" or not is_sharded(cfg) else 1
    of_weight = FLOAT32 + (dtype if dtype < FLOAT32 else 0)
    return {
        "gathered layer weights": float(copies * dtype * (shapes.layer + shapes.layer_adapters)),
        **_kept(cfg, shapes, shapes.layers),
        # The last norm keeps its input, a float32 copy and its output; the head the trained rows, and their gradient.
        "final hidden states": float((4 * dtype + FLOAT32) * shapes.hidden * tokens),
        "logits of a chunk": float(chunks),
        "gradient of the LM head": 0.0 if shapes.adapters else float(of_weight * shapes.head),
    }


def _references(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes that references of the learner ranks hold on the GPU. Shards of them are in host memory."""
    anchors, dtype = len(cfg.objective.head_anchors), shapes.dtype_bytes
    whole = 0 if is_sharded(cfg) else len(held_by_learner(cfg)) * dtype * shapes.parameters
    return {
        "weights of references": float(whole),
        "LM heads of references": float(anchors * dtype * shapes.head),
        "hidden states of references": float(anchors * dtype * shapes.hidden * microbatch_tokens(cfg)),
    }


def _scoring(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of a reference's forward pass over a microbatch, on a learner rank."""
    # Two layers: the next one is gathered meanwhile.
    gathered = shapes.root + 2 * shapes.layer if is_sharded(cfg) else 0
    return {
        "gathered weights of a reference": float(shapes.dtype_bytes * gathered),
        "one layer's forward pass": shapes.activations.forward * _tokens(cfg),
        "logits of a chunk": SLICES * cfg.learner.logits_megabytes * 1e6,
    }


def sending_buffers(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of the buffers of a transfer between GPUs: two with `nccl`, on either side; one with `ipc`."""
    one = max(float(BUFFER_BYTES), float(shapes.dtype_bytes * shapes.largest_tensor))
    count = 0 if publishes_adapter(cfg) else {"nccl": 2, "ipc": 1, "host": 0}[cfg.generator.transfer]
    return {"buffers of the transfer": count * one}


def _sent(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of a publication: the largest tensor, cast and gathered, and what carries the weights."""
    gathered = 2.0 * shapes.dtype_bytes * shapes.largest_tensor
    if shapes.adapters:  # W + s B A of a rank's rows, and its terms
        gathered += 3.0 * FLOAT32 * shapes.largest_tensor / shard_ranks(cfg)
    return {"largest tensor, cast and gathered": gathered, **sending_buffers(cfg, shapes)}
