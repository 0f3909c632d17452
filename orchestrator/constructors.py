"""Which class an actor's process builds, and with which arguments. Importing this loads no Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from configs.config import Config
from orchestrator.placement import held_by_learner, takes_turns
from orchestrator.references import policies


def constructor(
    cfg: Config,
    role: str,
    number: int,
    *,
    names: Sequence[str],
    policy: str,
    references: Mapping[str, Mapping[str, float]],
) -> tuple[str, str, dict[str, Any]]:
    """Return the module, class and constructor arguments of the actor `number` of a role.

    Args:
        names: the roles that are started.
        policy: directory of the policy that the generators load first.
        references: policies of the reference actors.
    """
    if role == "learner":
        ranks = {"rank": number, "ranks": cfg.placement.learners}
        return "actors.learning.learner", "FsdpLearner", learner_arguments(cfg) | ranks
    if role == "generator" and cfg.generator.engine == "vllm":
        learns = "learner" in names
        own = {"sleeps": takes_turns(cfg) and learns, "lora": cfg.learner.lora if learns else None}
        return "actors.generation.vllm_engine", "VllmGenerator", generator_arguments(cfg, policy) | own
    if role == "generator":
        return "actors.generation.transformers_engine", "TransformersGenerator", generator_arguments(cfg, policy)
    if role == "reference":
        return "actors.reference", "References", reference_arguments(cfg, references)
    return "actors.grader", "PooledGrader", grader_arguments(cfg)


def generator_arguments(cfg: Config, policy: str) -> dict[str, Any]:
    """Return the constructor arguments of a Generator that loads the directory `policy`."""
    arguments = {
        "policy_path": policy,
        "config": cfg.generator,
        "dtype": cfg.policy.dtype,
        "max_length": cfg.sampling.max_prompt_tokens + cfg.longest_answer,
        "device": _device(cfg),
        "tensor_parallel": cfg.placement.tensor_parallel,
    }
    if cfg.sampling.mixed_with:
        [arguments["mixed_with"]] = policies(cfg)[cfg.sampling.mixed_with]
    return arguments


def grader_arguments(cfg: Config) -> dict[str, Any]:
    """Return the constructor arguments of a Grader."""
    reserved = int(cfg.placement.cpus_per_grader) if cfg.placement.kind == "ray" else 0
    return asdict(cfg.grader) | {"require": cfg.sandbox.require, "cores": reserved}


def reference_arguments(cfg: Config, references: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return the constructor arguments of a Reference that holds these policies."""
    return {
        "policies": references,
        "config": cfg.learner,
        "dtype": cfg.policy.dtype,
        "temperature": cfg.sampling.temperature,
        "device": _device(cfg),
    }


def learner_arguments(cfg: Config) -> dict[str, Any]:
    """Return the constructor arguments of a Learner, without its rank."""
    return {
        "policy_path": cfg.policy.path,
        "config": cfg.learner,
        "objective": cfg.objective,
        "references": {name: policies(cfg)[name] for name in held_by_learner(cfg)},
        "dtype": cfg.policy.dtype,
        "temperature": cfg.sampling.temperature,
        "total_steps": cfg.steps,
        "seed": cfg.seed,
        "checkpoint_dtype": cfg.checkpoint.dtype,
        "collective_timeout_s": cfg.placement.collective_timeout_s,
        "device": _device(cfg),
    }


def _device(cfg: Config) -> str:
    return "cuda" if cfg.placement.device == "gpu" else "cpu"
