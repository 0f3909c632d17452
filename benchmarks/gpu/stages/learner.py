"""The learner at world size 1 over NCCL on a random policy of 1.5B parameters, by phases, beside the memory plan.

Files: 3.1 GB written and read. Join: 25 GB on the GPU. An update of 64k tokens is 64k x 6 x 1.54e9 x 4/3 (layers are
recomputed) = 0.8 PFLOP: 2 s at 40 % of 989 TFLOP/s; four of them, and one after loading. A checkpoint has 18.5 GB:
20 s to write and 10 s to read at 1 and 2 GB/s. With 15 s of imports about 80 s.
"""

import asyncio
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from actors.learning.learner import FsdpLearner
from actors.learning.rank_parts import plan_updates
from actors.local import LocalLearner
from actors.policy_files.weights import part_of
from benchmarks.gpu.inputs import QWEN_1_5B, TINY, credited, random_batch, random_policy
from benchmarks.gpu.record import Record
from configs.config import Config
from configs.load import load
from objectives.diagnostics import means
from orchestrator.planning.learner_memory import learner_phases, states, update_phases
from orchestrator.planning.model_shapes import ModelShapes, read_shapes
from orchestrator.simulation.hardware import GPUS
from trajectories.batch import Batch

WORDS = ("scale=1gpu", "method=grpo", "learner.learning_rate=1e-5", "learner.warmup_steps=0")
UPDATES = 3
LOWEST, HIGHEST = 0.7, 1.15
"""Measured memory as a share of the planned."""
GROUPS, GROUP, PROMPT = 8, 8, 256
ANSWERS = (256, 512, 640, 768, 896, 1024, 1280, 1536)
"""Tokens of the answers of a group: 64 answers and 71,680 tokens, of which 55,296 are trained."""
CHECKPOINT_BYTES = 12
"""Bytes of a checkpoint per parameter: weights and two moments in float32."""
LOADED_LIMIT, CONTINUED_LIMIT = 0.0, 0.02
"""Largest difference of a tensor after loading, and relative one of the gradient norm of the update that follows:
backward passes of attention on a GPU add in any order."""


def run(record: Record) -> None:
    """Run all phases."""
    shape = TINY if record.small else QWEN_1_5B
    with record.phase("write the policy"):
        path = random_policy(record.scratch / "policy", shape, device=record.device, dtype=torch.bfloat16)
    cfg = load([*WORDS, f"policy.path={path}", *(["learner.token_budget=256"] if record.small else [])])
    if record.gpu:
        torch.cuda.empty_cache()
    with record.phase("build"):
        learner = FsdpLearner(
            path,
            config=cfg.learner,
            objective=cfg.objective,
            dtype="bfloat16",
            temperature=1.0,
            total_steps=100,
            collective_timeout_s=60.0,
            device=record.device,
        )
    with record.phase("join"):
        learner.join()
    record.value("backend", dist.get_backend())
    record.value("layout", learner.policy.layout)
    parameters = sum(p.numel() for p in learner.policy.model.parameters())
    record.value("parameters", parameters)
    batch = _batch(record.small, cfg)
    with record.part("scores"):
        _scores(record, learner, batch)
    for number in range(1, UPDATES + 1):
        _update(record, learner, batch, f"update {number}")
    _speed(record, learner, batch)
    with record.part("publication"), record.phase("the publication"):
        learner.weights(0)
    with record.part("memory plan"):
        _against_plan(record, cfg, read_shapes(path, "bfloat16", cfg.learner.lora))
    with record.part("checkpoint"):
        _checkpoint(record, learner, batch, parameters)
    learner.close()


def _batch(small: bool, cfg: Config) -> Batch:
    shapes = [(PROMPT, answer) for _ in range(GROUPS) for answer in ANSWERS]
    if small:
        shapes = [(8, 8 + 4 * index) for _ in range(2) for index in range(GROUP)]
    return credited(random_batch(shapes, group=GROUP), cfg.objective, 0.0)


def _scores(record: Record, learner: FsdpLearner, batch: Batch) -> None:
    """Score the batch as before an update, and check that a random policy gives every token about 1 / V."""
    with record.phase("scores"):
        scored = asyncio.run(LocalLearner(learner, checksum=False).score(batch))
    assert scored.logp_old is not None and scored.entropy_old is not None
    logp = scored.logp_old[batch.mask]
    record.value("mean log-prob", float(logp.mean()))
    record.check("scores that are not finite", int((~logp.isfinite()).sum()), at_most=0)
    entropy = float(scored.entropy_old[batch.mask].max())
    record.check("largest entropy", entropy, at_most=learner.policy.log_vocabulary + 1e-3)


def _update(record: Record, learner: FsdpLearner, batch: Batch, name: str) -> dict[str, float]:
    [updates] = plan_updates(batch, learner.config, 1, learner.linear_width())
    with record.phase(name) as measured:
        stats = means(learner.update(updates, {}))
    measured["microbatches"] = len(updates[0])
    assert stats["skipped_updates"] == 0, stats
    record.value(f"{name}: loss", stats["loss"])
    record.value(f"{name}: gradient norm", stats["grad_norm"])
    return stats


def _speed(record: Record, learner: FsdpLearner, batch: Batch) -> None:
    """Note tokens a second and the share of the card's operations that the model's formulas need (MFU)."""
    seconds = min(record.found["phases"][f"update {n}"]["seconds"] for n in range(2, UPDATES + 1))
    computed: list[int] = []
    hook = learner.policy.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, arguments: computed.append(arguments[0].numel())
    )
    _update(record, learner, batch, "update that counts tokens")
    hook.remove()
    record.value("tokens of the batch", len(batch.tokens))
    record.value("tokens computed", sum(computed))
    record.value("tokens a second", round(len(batch.tokens) / seconds))
    if not record.gpu:
        return
    name = torch.cuda.get_device_name()
    peak = next((gpu.flops for gpu in GPUS.values() if gpu.name.partition("-")[0].upper() in name), None)
    record.value("MFU", peak and round(_operations(learner, batch, sum(computed)) / seconds / peak, 4))


def _operations(learner: FsdpLearner, batch: Batch, computed: int) -> float:
    """Return the operations of a forward and backward pass without recomputation: 6 per parameter and token, and 12 for
    each pair of tokens that attend, layer and dimension of the heads, halved as attention is causal."""
    model = learner.policy.model
    config = model.config
    head = model.get_output_embeddings().weight.numel()
    body = sum(p.numel() for p in model.base_model.parameters()) - model.get_input_embeddings().weight.numel()
    pairs = float((batch.lengths.double() ** 2).sum()) / 2
    return float(
        6 * body * computed
        + 6 * head * int(batch.mask.sum())
        + 12 * pairs * config.num_hidden_layers * config.hidden_size
    )


def _against_plan(record: Record, cfg: Config, shapes: ModelShapes) -> None:
    """Compare the most memory of join, updates and publication with the plan."""
    held = states(cfg, shapes)
    cfg = replace(cfg, generator=replace(cfg.generator, transfer="host"))  # without buffers on the GPU
    [publication] = [phase for phase in learner_phases(cfg, shapes) if phase.name == "the publication"]
    planned = {
        "join": sum(held.values()),  # gradients of 0 create the moments
        "update 3": max(phase.bytes for phase in update_phases(cfg, shapes)),
        "the publication": publication.bytes,
    }
    record.value("planned GB", {name: round(size / 1e9, 3) for name, size in planned.items()})
    parts = max(update_phases(cfg, shapes), key=lambda phase: phase.bytes)
    record.value("planned peak", {parts.name: {part: round(size / 1e9, 3) for part, size in parts.parts.items()}})
    if record.gpu:
        for name, size in planned.items():
            share = record.found["phases"][name]["gb_peak"] * 1e9 / size
            record.check(f"memory of {name}, of the plan", share, at_most=HIGHEST, at_least=LOWEST)


def _checkpoint(record: Record, learner: FsdpLearner, batch: Batch, parameters: int) -> None:
    """Save, update, load, and check that state and next update are those after saving."""
    needed = 1.1 * CHECKPOINT_BYTES * parameters
    free = shutil.disk_usage(record.scratch).free
    assert free > needed, f"a checkpoint needs {needed / 1e9:.1f} GB, and {record.scratch} has {free / 1e9:.1f}"
    folder = record.scratch / "checkpoint"
    folder.mkdir()
    before = _state(learner)
    with record.phase("copy for saving"):
        learner.save(str(folder))
    with record.phase("write what was copied"):
        learner.saved()
    written = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    record.value("checkpoint, GB", round(written / 1e9, 3))
    first = _update(record, learner, batch, "update after saving")
    with record.phase("load"):
        learner.load(str(folder))
    after = _state(learner)
    assert before.keys() == after.keys()
    largest = max(float((before[name] - after[name]).abs().max()) for name in before)
    record.check("largest difference of a state after loading", largest, at_most=LOADED_LIMIT)
    again = _update(record, learner, batch, "update after loading")
    for name in ("grad_norm", "entropy"):
        change = abs(again[name] - first[name]) / max(abs(first[name]), 1e-30)
        record.check(f"{name} of the update after loading", change, at_most=CONTINUED_LIMIT)
    assert math.isfinite(again["loss"])


def _state(learner: FsdpLearner) -> dict[str, Tensor]:
    """Return sums over the rows of every weight and moment, which change if any element does."""
    found: dict[str, Tensor] = {}
    for name, parameter in learner.policy.named_parameters():
        tensors: dict[str, Any] = {"weight": parameter.detach(), **learner.optimizer.state[parameter]}
        for kind, tensor in tensors.items():
            local, _ = part_of(tensor)
            found[f"{name}/{kind}"] = local.double().sum(0).cpu() if local.dim() else local.double().cpu()
    return found
