"""Choose the inference engine where `generator.engine` is auto. Importing this loads no torch, Ray or vLLM."""

import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace

from configs.checks import require
from configs.config import Config

LONGEST_FOR_TRANSFORMERS = 96
"""Longest answer, in tokens, for which the transformers engine is chosen on a CPU.

CPU seconds per token of vLLM divided by those of the transformers engine, in float32 on one core, 64 to 512 answers:

| most new tokens | 0.36M parameters | 1.2M | 10.7M | 30M | 135M |
| --- | --- | --- | --- | --- | --- |
| 16 | 3.5 | | 1.5 | 1.3 | 1.3 |
| 64 | | 1.2 | 1.1 | 1.1 | |
| 128 | | | 0.95 | | |
| 200 | | 1.15 | | | |

vLLM's Python takes as long for a token of a small model as for one of a large model.
"""

HIGHEST_RANK = 512
"""Largest `learner.lora.r` of an adapter that vLLM computes."""


def chosen_engine(cfg: Config) -> tuple[str, str]:
    """Return the engine of a run's generators, and the reason in words."""
    if cfg.generator.engine != "auto":
        return cfg.generator.engine, "as set"
    if cfg.sampling.mixed_with:
        return "transformers", "sampling.mixed_with needs an engine that reads two policies"
    if cfg.placement.kind == "in_process":
        return "transformers", "placement.kind is in_process"
    if cfg.placement.device == "gpu":
        return "vllm", "it is the engine for GPUs"
    elsewhere = bool(os.environ.get("RAY_ADDRESS"))  # where vLLM may be installed although it is not here
    if not elsewhere and importlib.util.find_spec("vllm") is None:
        return "transformers", "vLLM is not installed"
    most, limit = cfg.sampling.max_new_tokens, LONGEST_FOR_TRANSFORMERS
    engine, words = ("transformers", "at most") if most <= limit else ("vllm", "more than")
    return engine, (
        f"on a CPU it is the faster one for answers of {words} {limit} tokens, and sampling.max_new_tokens is {most}"
    )


def publishes_adapter(cfg: Config) -> bool:
    """Return whether the generators get the LoRA adapter of the policy alone, and not its weights.

    Raises:
        ValueError: the settings ask for this of an engine without adapters, or for adapters that vLLM does not have.
    """
    lora, engine = cfg.learner.lora, chosen_engine(cfg)[0]
    if not lora.r or lora.publish == "merged":
        return False
    rule = "must not be 'adapter' with the transformers engine, which has no adapters"
    require(lora.publish == "auto" or engine == "vllm", "learner.lora.publish", rule, lora.publish)
    rule = f"must be at most {HIGHEST_RANK} unless learner.lora.publish=merged: vLLM computes no larger adapters"
    require(engine != "vllm" or lora.r <= HIGHEST_RANK, "learner.lora.r", rule, lora.r)
    return engine == "vllm"


def with_engine(cfg: Config, report: Callable[[str], None] = lambda line: None) -> Config:
    """Return the settings with the chosen engine in place of auto, and what a LoRA run publishes.

    Args:
        report: is called with a line that says which engine was chosen, and why.
    """
    engine, why = chosen_engine(cfg)
    if cfg.generator.engine == "auto":
        report(f"generator.engine=auto: {engine}, because {why}")
    adapter = publishes_adapter(cfg)
    # An adapter is small, and goes through host memory.
    generator = replace(cfg.generator, engine=engine, transfer="host" if adapter else cfg.generator.transfer)  # type: ignore[arg-type]
    if not cfg.learner.lora.r:
        return replace(cfg, generator=generator)
    lora = replace(cfg.learner.lora, publish="adapter" if adapter else "merged")
    return replace(cfg, generator=generator, learner=replace(cfg.learner, lora=lora))
