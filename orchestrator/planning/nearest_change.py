"""Find the smallest changes of settings with which a run fits into memory, by trying them."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product

from configs.config import Config
from orchestrator.planning.changes import Change, change
from orchestrator.planning.memory import memory_plan
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.planning.phases import GB, UNKNOWN, Host, MemoryPlan, Place

COUNTS = (2, 3, 4, 6, 8, 12, *range(16, 65, 8), 96, 128, 192, 256, 384, 512)
"""Numbers of GPUs that are tried."""
SHORTEST_BUDGET = 1_024
FRACTIONS = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)


def lacking(plan: MemoryPlan) -> list[str]:
    """Return the names of what does not fit: GPUs by their roles, "sequence" for generators that hold none, "host"."""
    found = [place.name for place in plan.gpus if not place.fits and (place.name != "generator" or plan.sequences)]
    found += [] if plan.sequences else ["sequence"]
    return found if all(host.fits for host in plan.hosts) else [*found, "host"]


def nearest_changes(
    cfg: Config, shapes: ModelShapes, gpu_bytes: float, problem: str, host: Host = UNKNOWN
) -> list[str]:
    """Return the changes that solve a problem of `lacking`: of each setting the smallest, or of two settings together
    if no single one solves it. Empty if there are none.

    Example: ["placement.learners=64", "learner.token_budget=8192"]
    """

    before = set(lacking(memory_plan(cfg, shapes, gpu_bytes, host)))

    def solves(changed: Config) -> bool:
        after = set(lacking(memory_plan(changed, shapes, gpu_bytes, host)))
        return problem not in after and after < before

    knobs = _knobs(cfg, shapes, problem)
    singles = [next((words for words, changed in knob(cfg) if solves(changed)), None) for knob in knobs]
    found = [words for words in singles if words]
    if found:
        return found
    for first, second in product(knobs, knobs):
        for words, changed in first(cfg) if first is not second else ():
            for more, both in second(changed):
                if solves(both):
                    return [f"{words} {more}"]
    return []


def refusal(cfg: Config, shapes: ModelShapes, gpu_bytes: float, host: Host = UNKNOWN) -> str:
    """Return why a run does not fit, with the arithmetic and the changes that do; empty if it fits."""
    plan = memory_plan(cfg, shapes, gpu_bytes, host)
    lines = []
    for problem in lacking(plan):
        changes = nearest_changes(cfg, shapes, gpu_bytes, problem, host)
        advice = "No change of two settings fits: take a scale with more GPUs, or a smaller policy"
        if changes:
            advice = f"It fits with {', or with '.join(changes)}"
        places = {"host": plan.hosts[0]} | {place.name: place for place in plan.gpus}
        reason = _too_long(cfg, plan, gpu_bytes) if problem == "sequence" else _arithmetic(places[problem], problem)
        lines.append(f"{reason}. {advice}")
    return "\n".join(lines)


def terms(place: Place) -> str:
    """Return the parts of a peak as a sum, the largest first."""
    parts = sorted(place.peak.parts.items(), key=lambda part: -part[1])
    return " + ".join(f"{name} {size / GB:.1f}" for name, size in parts if size >= 0.05 * GB)


def _arithmetic(place: Place, problem: str) -> str:
    where = f"a host of {place.name}" if problem == "host" else f"a {place.name} GPU ({place.count} of them)"
    rule = f"placement: {where} must hold {place.peak.name} in {place.capacity / GB:.1f} GB"
    return f"{rule}, got {terms(place)} = {place.peak.bytes / GB:.1f} GB"


def _too_long(cfg: Config, plan: MemoryPlan, gpu_bytes: float) -> str:
    used = cfg.generator.memory_fraction * gpu_bytes
    return (
        f"generator.memory_fraction: must leave room for one sequence of {plan.longest:,} tokens x "
        f"{plan.key_values_per_token / 1e3:.0f} KB, got {cfg.generator.memory_fraction:g} x {gpu_bytes / GB:.1f} GB - "
        f"{(used - plan.key_values) / GB:.1f} GB of weights and activations = {plan.key_values / GB:.1f} GB"
    )


Knob = Callable[[Config], Iterator[Change]]
"""Yields the changes of one setting, the smallest first."""


def _knobs(cfg: Config, shapes: ModelShapes, problem: str) -> list[Knob]:
    """Return the settings that may be changed for a problem."""
    colocated = cfg.placement.mode == "colocated"
    if problem == "reference":
        return [_without_base_kl]
    if problem == "host":
        on_gpu = [_switched("offload_states", False), _switched("offload_activations", False)]
        return [*on_gpu, _float32_checkpoint, _learners]
    if problem in ("sequence", "generator"):
        return [_fraction] if colocated else [partial(_tensor_parallel, shapes), _fraction]
    found: list[Knob] = [_switched("gradient_checkpointing", True), _token_budget]
    found += [_switched("offload_activations", True), _learners, _switched("offload_states", True)]
    found.append(partial(_context_parallel, shapes))
    if colocated:
        found += [_fraction, *([_without_base_kl] if "reference" in problem else [])]
    return found


def _switched(key: str, on: bool) -> Knob:
    """Return the change of a switch of the learner to `on`. None where it is so already, or the settings refuse it."""

    def knob(cfg: Config) -> Iterator[Change]:
        if getattr(cfg.learner, key) != on:
            with suppress(ValueError):
                yield change(cfg, {f"learner.{key}": on})

    return knob


def _token_budget(cfg: Config) -> Iterator[Change]:
    budget = cfg.learner.token_budget // 2
    while budget >= max(SHORTEST_BUDGET, cfg.sampling.max_prompt_tokens + cfg.sampling.max_new_tokens):
        yield change(cfg, {"learner.token_budget": budget})
        budget //= 2


def _context_parallel(shapes: ModelShapes, cfg: Config) -> Iterator[Change]:
    for count in (2, 4, 8):
        if count > cfg.learner.context_parallel and shapes.divides_heads(count):
            with suppress(ValueError):  # of a count that does not divide the ranks, or of another layout
                yield change(cfg, {"learner.context_parallel": count})


def _float32_checkpoint(cfg: Config) -> Iterator[Change]:
    if cfg.checkpoint.dtype != "float32":  # then the float32 weights are not copied twice
        yield change(cfg, {"checkpoint.dtype": "float32"})


def _learners(cfg: Config) -> Iterator[Change]:
    roles = ("learners", "generators") if cfg.placement.mode == "colocated" else ("learners",)
    for count in COUNTS:
        if count > cfg.placement.learners:
            with suppress(ValueError):  # of a count that the settings refuse
                yield change(cfg, {f"placement.{role}": count for role in roles})


def _tensor_parallel(shapes: ModelShapes, cfg: Config) -> Iterator[Change]:
    for count in (2, 4, 8):
        if count > cfg.placement.tensor_parallel and shapes.divides_layers(count):
            with suppress(ValueError):  # of an engine that has one GPU
                yield change(cfg, {"placement.tensor_parallel": count})


def _fraction(cfg: Config) -> Iterator[Change]:
    """Yield other fractions, the nearest first."""
    given = cfg.generator.memory_fraction
    for fraction in sorted(FRACTIONS, key=lambda one: abs(one - given)):
        if fraction != given:
            yield change(cfg, {"generator.memory_fraction": fraction})


def _without_base_kl(cfg: Config) -> Iterator[Change]:
    if cfg.monitor.kl_to_base:
        yield change(cfg, {"monitor.kl_to_base": False})
