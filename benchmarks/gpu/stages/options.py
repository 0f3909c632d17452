"""One update of a sharded bfloat16 policy under each setting that changes how it is computed, beside the default.

The policy is tiny: each update takes below 1 s, compiled layers take 20 s the first time. With imports 40 s.
"""

import importlib.util
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from actors.learning.rank_parts import plan_updates
from benchmarks.gpu.inputs import TINY, KeepingLearner, credited, random_batch, random_policy, relative_error
from benchmarks.gpu.record import Record
from configs.learner import LearnerConfig
from configs.load import load
from configs.lora import LoraConfig
from objectives.diagnostics import means

SHAPES = [(6, 4 + 3 * number) for number in range(8)]
CHECKPOINTING = {"gradient_checkpointing": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "layout=pad": {"layout": "pad"},
    "share_prefixes=false": {"share_prefixes": False},
    "gradient_checkpointing": CHECKPOINTING,
    "checkpoint_every=2": CHECKPOINTING | {"checkpoint_every": 2},
    "offload_activations": CHECKPOINTING | {"offload_activations": True},
    "offload_states": {"offload_states": True},
    "accumulate=unsharded": {"accumulate": "unsharded"},
    "extragradient": {"extragradient": True},
    "compile": {"compile": True},
}
"""`compile` comes last, as it takes longest; on a CPU it is left out."""
GRADIENT_LIMIT, METRIC_LIMIT = 0.1, 0.05
"""Largest relative error of the gradient, and largest difference of a metric, in bfloat16."""


def run(record: Record) -> None:
    """Compare the gradient under each setting with that under the default."""
    path = random_policy(record.scratch / "policy", TINY, device=record.device, dtype=torch.float32)
    expected, metrics = _updated(record, path, {})
    record.check("gradient norm by default", metrics["grad_norm"], at_most=1e6, at_least=1e-3)
    _adapters(record, path)
    for name, option in OPTIONS.items():
        if name == "compile" and not record.gpu:
            continue
        with record.part(name):
            with record.phase(name):
                gradient, found = _updated(record, path, option)
            record.check(f"{name}: gradient", relative_error(gradient, expected), at_most=GRADIENT_LIMIT)
            largest = max(abs(found[key] - value) / max(1.0, abs(value)) for key, value in metrics.items())
            record.check(f"{name}: metrics", largest, at_most=METRIC_LIMIT)


def _adapters(record: Record, path: str) -> None:
    """Update adapters, which have gradients of their own."""
    if importlib.util.find_spec("peft") is None:
        record.value("lora", "left out: peft is not installed")
        return
    with record.part("lora"):
        with record.phase("lora"):
            _, found = _updated(record, path, {"lora": LoraConfig(r=4)})
        record.check("lora: gradient norm", found["grad_norm"], at_most=1e6, at_least=1e-4)


def _updated(record: Record, path: str, option: dict[str, Any]) -> tuple[Tensor, dict[str, float]]:
    """Return the gradient [parameters] and the metrics of one update in three microbatches."""
    cfg = load(["method=grpo"])
    learner = KeepingLearner(
        path,
        config=LearnerConfig(token_budget=70, logits_megabytes=0.02, max_grad_norm=1e9, **option),
        objective=cfg.objective,
        dtype="bfloat16",
        temperature=1.0,
        total_steps=10,
        collective_timeout_s=30.0,
        device=record.device,
    )
    learner.join()
    batch = credited(random_batch(SHAPES, group=4), cfg.objective, 0.0)
    [updates] = plan_updates(batch, learner.config, 1, learner.linear_width())
    metrics = means(learner.update(updates, {}))
    assert metrics["skipped_updates"] == 0, metrics
    gradients = [p.grad for p in learner.policy.parameters() if p.grad is not None]
    whole = [grad.full_tensor() if isinstance(grad, DTensor) else grad for grad in gradients]
    return torch.cat([each.detach().flatten().cpu() for each in whole]), metrics
