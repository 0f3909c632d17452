"""The learner alone: an update beside a bare forward and backward pass, padding, memory, and two ranks."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from actors.contracts import Learner
from benchmarks.speed.batches import credited, long_batch, make_batch, task_batch
from benchmarks.speed.plan import IN_PROCESS, Plan
from benchmarks.speed.policies import SIZES, random_policy
from benchmarks.speed.result import Row
from configs.config import Config
from configs.load import load
from orchestrator import cluster
from orchestrator.commands.paths import absolute
from trajectories.batch import Batch


def settings(*words: str) -> Config:
    """Return the settings of a run on a CPU."""
    return absolute(load(["scale=cpu", *words]))


def small(plan: Plan) -> tuple[str, ...]:
    """Return the settings of a quick batch."""
    return ("groups_per_step=2", "sampling.group_size=4") if plan.quick else ()


async def started(cfg: Config) -> Learner:
    """Start a learner."""
    learner = (await cluster.start(cfg, ["learner"])).learner
    assert learner is not None
    return learner


async def seconds(action: Callable[[], Awaitable[object]]) -> float:
    """Return the wall seconds of an awaited call."""
    start = time.perf_counter()
    await action()
    return time.perf_counter() - start


def measure(plan: Plan) -> list[Row]:
    """Measure updates in this process."""
    torch.set_num_threads(1)
    return asyncio.run(_rows(plan))


async def _rows(plan: Plan) -> list[Row]:
    cfg = settings(*IN_PROCESS, *small(plan))
    return [await _update(plan, cfg), *[await _packing(name, cfg, batch) for name, cfg, batch in _shapes(plan)]]


async def _update(plan: Plan, cfg: Config) -> Row:
    """Compare an update with a bare forward and backward pass of the same rows, padded to the longest."""
    batch = credited(cfg, task_batch(cfg))
    learner = await started(cfg)
    bare = bare_pass(cfg.policy.path, batch)
    ours, other = [], []
    for number in range(2 * plan.rounds + 1):
        update_s = await seconds(partial(learner.update, batch, {}))
        bare_s = _timed(bare)
        if number:  # the first one fills caches
            ours.append(update_s)
            other.append(bare_s)
    await learner.close()
    return Row(
        name="learner/update",
        title="update of the learner, Countdown",
        unit="s",
        ours=tuple(ours),
        other_name="bare forward and backward of the padded rows",
        other=tuple(other),
        higher_is_better=False,
        goal=1.0,
        note=f"{cfg.groups_per_step} prompts x {cfg.sampling.group_size} answers, one thread",
    )


def bare_pass(path: str, batch: Batch) -> Callable[[], None]:
    """Return a function that runs transformers' own loss on the padded rows, forward and backward."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    lengths = batch.lengths
    position = torch.arange(len(batch.tokens)) - (lengths.cumsum(0) - lengths)[batch.seq]
    rows = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.long)
    labels = torch.full_like(rows, -100)
    rows[batch.seq, position] = batch.tokens.long()
    labels[batch.seq, position] = torch.where(batch.mask, batch.tokens.long(), -100)

    def run() -> None:
        model.zero_grad()
        model(input_ids=rows, labels=labels, use_cache=False).loss.backward()

    return run


def _timed(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _shapes(plan: Plan) -> list[tuple[str, Config, Batch]]:
    """Return batches of several shapes, with the settings they are updated under."""
    countdown = settings(*IN_PROCESS, *small(plan))
    sums = settings(*IN_PROCESS, "task.name=few_shot_sums", "groups_per_step=8", "sampling.group_size=8", *small(plan))
    long = settings(*IN_PROCESS, "groups_per_step=8", "sampling.group_size=8", *small(plan))
    return [
        ("Countdown", countdown, task_batch(countdown)),
        ("four-shot sums", sums, task_batch(sums)),
        ("long answers", long, long_batch(long, 100, 128 if plan.quick else 800)),
    ]


async def _packing(name: str, cfg: Config, batch: Batch) -> Row:
    """Count the tokens that an update sends through the model's embedding."""
    counted: list[int] = []

    def count(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Embedding):
            counted.append(arguments[0].numel())

    learner = await started(cfg)
    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        await learner.update(credited(cfg, batch), {})
    finally:
        hook.remove()
        await learner.close()
    return Row(
        name=f"packing/{name.replace(' ', '_')}",
        title=f"tokens of a batch / tokens through the learner's model, {name}",
        unit="",
        ours=(len(batch.tokens) / sum(counted),),
        note=f"{len(batch.tokens)} tokens, {sum(counted)} computed",
    )


def memory(plan: Plan) -> list[Row]:
    """Peak memory of log-probs, entropies and their backward pass, as a share of one full tensor of logits."""
    return asyncio.run(_memory(plan))


async def _memory(plan: Plan) -> list[Row]:
    size = "tiny" if plan.quick else "152k"
    vocabulary, rows, length = SIZES[size].vocabulary, 8, 64 if plan.quick else 1024
    cfg = settings(*IN_PROCESS, f"policy.path={random_policy(size, plan.policies)}")
    learner = await started(cfg)
    warm_up = credited(cfg, make_batch(cfg, [[2]], [[8, 8]]))
    batch = credited(cfg, make_batch(cfg, [[2]], [[length] * rows]))
    full = 4 * rows * length * vocabulary
    shares = []
    await learner.update(warm_up, {})  # allocates gradients and the optimizer's moments
    for _ in range(plan.rounds):
        before = reset_peak()
        await learner.update(batch, {})
        shares.append((status_bytes("VmHWM") - before) / full)
    await learner.close()
    return [
        Row(
            name="learner/memory",
            title=f"peak of log-probs, entropy and backward, N = {rows * length}, V = {vocabulary}",
            unit="of one full logits tensor",
            ours=tuple(shares),
            higher_is_better=False,
            goal=0.1,
            note=f"one full tensor of logits: {full / 1e9:.2f} GB; growth of the process during an update",
        )
    ]


def reset_peak() -> int:
    """Let the kernel count the peak of resident memory from now on, and return the resident bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def ranks(plan: Plan) -> list[Row]:
    """Updates per second of two learner ranks beside one, each rank with one thread."""
    title = "updates, 2 learner ranks beside 1, 358k policy, Countdown"
    if plan.quick:  # it starts Ray
        reason = "left out of a quick benchmark"
        return [Row(name="scaling/learners", title=title, unit="updates/s", other_name="1 rank", reason=reason)]
    return [asyncio.run(_ranks(plan, title))]


async def _ranks(plan: Plan, title: str) -> Row:
    cfgs = [settings(f"placement.learners={n}", "placement.threads_per_learner=1") for n in (1, 2)]
    batch = credited(cfgs[0], task_batch(cfgs[0]))
    learners = [await started(cfg) for cfg in cfgs]
    measured: Sequence[list[float]] = ([], [])
    try:
        for number in range(2 * plan.rounds + 1):
            for values, learner in zip(measured, learners, strict=True):
                took = await seconds(partial(learner.update, batch, {}))
                if number:
                    values.append(1 / took)
    finally:
        await asyncio.gather(*(learner.close() for learner in learners))
    one, two = measured
    return Row(
        name="scaling/learners",
        title=title,
        unit="updates/s",
        ours=tuple(two),
        other_name="1 rank",
        other=tuple(one),
        note="each rank computes half of the batch with one thread, and gradients are summed over gloo",
    )
