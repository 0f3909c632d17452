"""Memory of one learner rank on its GPU: an update with FSDP2, and the publication of its weights.

The formulas follow `actors/learning/sharding.py` and torch's FSDP2: every rank holds 1 / R of the float32 weights,
gradients and moments. Root (embedding, LM head, last norm) and layer weights are gathered in the dtype of the forward
pass, the root for the whole microbatch, a layer for its own pass while the next one is being gathered. Gradients are
reduced in float32. The tests hold the peak to torch's FSDPMemTracker.

Axes: T tokens of a microbatch, D hidden, V vocabulary, R ranks of a copy, P parameters.
"""

import math

from configs.config import Config
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.planning.phases import Phase, phase

FLOAT32 = 4
"""Bytes of master weights and gradients; two moments take twice as much."""
PACKED_BUFFER = 2**30
"""Bytes of one of vLLM's buffers in which tensors are sent (DEFAULT_PACKED_BUFFER_SIZE_BYTES)."""
PACKED_BUFFERS = 2
"""Buffers of vLLM's nccl backend, which are filled and sent in turn (DEFAULT_PACKED_NUM_BUFFERS)."""
SLICES = 4
"""Float32 slices of logits that exist at a time in `token_scores`."""
WHOLE_CHUNKS = 6
"""Float32 chunks of logits that exist at a time where terms compare whole distributions: those of policy and anchor,
their log-softmax, the products of them, and the gradient."""


def learner_phases(cfg: Config, shapes: ModelShapes) -> list[Phase]:
    """Return what one learner rank holds at the moments of an update at which it may be most.

    It is the second or later microbatch of an update, whose gradients are added to those that exist.
    """
    return [
        *update_phases(cfg, shapes),
        phase("the publication", {**states(cfg, shapes), **_sent(cfg, shapes)}),
    ]


def update_phases(cfg: Config, shapes: ModelShapes) -> list[Phase]:
    """Return the phases of an update."""
    dtype, learner = shapes.dtype_bytes, cfg.learner
    activations, tokens = shapes.activations, microbatch_tokens(cfg)
    recomputes = learner.gradient_checkpointing
    layer_kept = dtype * shapes.hidden if recomputes else activations.saved
    kept = "checkpointed inputs of {} layers" if recomputes else "activations of {} layers"
    passing = "one recomputed layer" if recomputes else "gradients in one layer"
    in_layer = activations.backward if recomputes else activations.backward - activations.saved
    sharded = is_sharded(cfg)
    root, layer = (dtype * shapes.root, dtype * shapes.layer) if sharded else (0.0, 0.0)
    gathered = 2 * layer if cfg.placement.learners > 1 else layer
    # With recomputation the layer before the last needs most: the last one's gradients are still being reduced.
    at_layer = shapes.layers - (1 if recomputes and sharded and shapes.layers > 1 else 0)
    held = {**states(cfg, shapes), **_anchor_heads(cfg, shapes), "gathered root weights": root}
    backward = {
        "gathered layer weights": gathered,
        "layer gradients": layer,
        "reduce-scatter buffer": FLOAT32 * shapes.layer if sharded and at_layer < shapes.layers else 0.0,
        "gradient of the LM head": dtype * shapes.head if sharded else 0.0,
        kept.format(at_layer): at_layer * layer_kept * tokens,
        passing: in_layer * tokens,
    }
    head = {
        "gathered layer weights": layer,
        kept.format(shapes.layers): shapes.layers * layer_kept * tokens,
        # The last norm keeps its input, a float32 copy and its output; the head the trained rows, and their gradient.
        "final hidden states": (4 * dtype + FLOAT32) * shapes.hidden * tokens,
        **_head_chunk(cfg, shapes, tokens),
    }
    reduced = {
        "root gradients": dtype * shapes.root,
        "reduce-scatter buffer": FLOAT32 * shapes.root * (1 + 1 / cfg.placement.learners),
    }
    phases = [
        phase("the backward pass of a layer", held | backward),
        phase("the backward pass of the LM head", held | head),
    ]
    if sharded:
        phases.append(phase("the reduction of the root's gradients", held | {"gathered root weights": 0.0} | reduced))
    return phases


def states(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes that a rank holds from step to step, by part."""
    mine = FLOAT32 * shapes.parameters / cfg.placement.learners
    found = {"float32 weights": mine, "float32 gradients": mine, "Adam's moments": 2 * mine}
    if cfg.learner.extragradient:
        found["weights before a look-ahead"] = mine
    if cfg.objective.value_heads is not None:
        heads = cfg.objective.value_heads.heads * shapes.hidden * (shapes.hidden // 4 + 2)
        found["critic with its gradients and moments"] = 4 * FLOAT32 * heads / cfg.placement.learners
    return found


def is_sharded(cfg: Config) -> bool:
    """Return whether the learner uses FSDP2; one rank in float32 does not."""
    return cfg.placement.learners > 1 or cfg.policy.dtype == "bfloat16"


def microbatch_tokens(cfg: Config) -> int:
    """Return the most tokens of a microbatch: a trajectory longer than the budget is one of its own."""
    return max(cfg.learner.token_budget, cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens)


def _head_chunk(cfg: Config, shapes: ModelShapes, tokens: int) -> dict[str, float]:
    """Return the bytes of the LM head's backward pass: logits of a chunk, and the gradient of its weight."""
    dtype, wanted = shapes.dtype_bytes, cfg.learner.logits_megabytes * 1e6
    chunk = min(tokens, max(1, int(wanted) // (FLOAT32 * shapes.vocabulary)))
    if cfg.objective.head_anchors:
        chunks = WHOLE_CHUNKS * FLOAT32 * chunk * shapes.vocabulary
        return {"logits of a chunk": chunks, "gradient of the LM head": 2 * dtype * shapes.head}
    slices = SLICES * min(2.0**25, FLOAT32 * chunk * shapes.vocabulary)
    several = math.ceil(tokens / chunk) > 1
    gradient = (dtype + (FLOAT32 if several and dtype < FLOAT32 else 0)) * shapes.head
    return {"logits of a chunk": dtype * chunk * shapes.vocabulary + slices, "gradient of the LM head": gradient}


def _anchor_heads(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    return {"LM heads of references": float(len(cfg.objective.head_anchors) * shapes.dtype_bytes * shapes.head)}


def _sent(cfg: Config, shapes: ModelShapes) -> dict[str, float]:
    """Return the bytes of a publication: the largest tensor gathered in float32, and what carries the weights."""
    gathered = {"largest tensor, gathered": (FLOAT32 + shapes.dtype_bytes) * shapes.largest_tensor}
    if cfg.generator.transfer == "nccl":
        return gathered | {"packed buffers": PACKED_BUFFERS * PACKED_BUFFER}
    if cfg.generator.transfer == "ipc":
        return gathered | {"copy of the weights": float(shapes.dtype_bytes * shapes.parameters)}
    return gathered
