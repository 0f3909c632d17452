"""Whether a placement fits the memory of its GPUs, with the arithmetic."""

from configs.config import Config
from orchestrator.planning.costs import kv_tokens, sharded_over
from orchestrator.planning.hardware import Gpu
from orchestrator.planning.shapes import WEIGHT_BYTES, Shapes

STATE_BYTES = 16
"""Bytes per parameter of float32 weights, gradients and Adam's two moments."""
GB = 1e9


def learner_bytes(cfg: Config, shapes: Shapes) -> dict[str, float]:
    """Return the bytes of one learner rank at its peak, by what they are for."""
    tokens, root = cfg.learner.token_budget, shapes.parameters - shapes.layers * shapes.layer
    return {
        "states": STATE_BYTES * shapes.parameters / sharded_over(cfg),
        "embedding and head": root * (WEIGHT_BYTES * 2 + 4),
        "inputs of the layers": tokens * shapes.hidden * shapes.layers * WEIGHT_BYTES,
        "one layer": tokens * (4 * shapes.hidden + 3 * shapes.intermediate) * 2 * WEIGHT_BYTES,
        "gathered layers": 3 * shapes.layer * (WEIGHT_BYTES + 4),
        "logits": 3e6 * cfg.learner.logits_megabytes,
    }


def too_large(cfg: Config, shapes: Shapes, gpu: Gpu, roles: list[str]) -> list[str]:
    """Return what does not fit, one line of arithmetic each; nothing if all does.

    Args:
        roles: the roles that the run starts.
    """
    problems, place = [], cfg.placement
    room = gpu.memory_bytes * 0.95  # CUDA contexts and NCCL's buffers take the rest.
    parts = learner_bytes(cfg, shapes)
    engine = gpu.memory_bytes * cfg.generator.memory_fraction if place.mode == "colocated" else 0.0
    if sum(parts.values()) + engine > room:
        shown = " + ".join(f"{name} {size / GB:.1f}" for name, size in parts.items())
        beside = f" + engine {engine / GB:.1f}" if engine else ""
        total = (sum(parts.values()) + engine) / GB
        problems.append(f"learner rank: {shown}{beside} = {total:.0f} GB of {room / GB:.0f} GB")
    longest = cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens
    held = kv_tokens(cfg, shapes, gpu)
    if held < longest:
        weights = shapes.parameters * WEIGHT_BYTES / place.tensor_parallel / GB
        problems.append(
            f"engine: weights {weights:.1f} GB of {gpu.memory_bytes * cfg.generator.memory_fraction / GB:.0f} GB leave "
            f"key-values for {max(held, 0):,.0f} tokens, below one answer of {longest:,}"
        )
    if "reference" in roles and place.mode == "split" and shapes.parameters * WEIGHT_BYTES > 0.9 * room:
        size = shapes.parameters * WEIGHT_BYTES / GB
        problems.append(f"reference: weights {size:.0f} GB of {room / GB:.0f} GB")
    return problems
