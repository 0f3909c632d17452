"""The placements that a plan compares, and a quick estimate that decides which of them are simulated."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from configs.config import Config
from configs.load import load
from orchestrator.placement import needed_roles, reservations
from orchestrator.planning.changes import changed
from orchestrator.planning.memory import memory_plan
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.planning.phases import MemoryPlan
from orchestrator.simulation.costs import GPUS_PER_NODE, Costs, gpu_costs
from orchestrator.simulation.hardware import Gpu
from orchestrator.simulation.lengths import Lengths

BUDGETS = (16_384, 32_768, 65_536)
"""Token budgets that are compared: larger microbatches need more memory and less traffic."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One placement."""

    words: tuple[str, ...]
    """Settings that choose it, without those that are the preset's."""
    cfg: Config
    costs: Costs
    memory: MemoryPlan

    @property
    def name(self) -> str:
        """The placement in words."""
        place = self.cfg.placement
        size = f" of {place.tensor_parallel} GPUs" if place.tensor_parallel > 1 else ""
        turns = " in turns on the same GPUs" if place.mode == "colocated" else ""
        references = f", {place.references} reference(s)" if "reference" in needed_roles(self.cfg) else ""
        learner = self.cfg.learner
        copies = f" in {learner.replicas} replicas" if learner.replicas > 1 else ""
        learners = f"{place.learners} learner rank(s){copies}, microbatches of {learner.token_budget:,} tokens"
        return f"{place.generators} generator(s){size}, {learners}{references}{turns}"

    @property
    def problems(self) -> int:
        """Number of places whose memory does not suffice."""
        return sum(not place.fits for place in self.memory.gpus) + (not self.memory.sequences)


def candidates(gpus: int, words: Sequence[str], file: str | None, shapes: ModelShapes, gpu: Gpu) -> list[Candidate]:
    """Return the placements on so many GPUs that the settings allow.

    Args:
        words: settings of the user, which win over those of a placement.
        file: a file of settings.
    """
    given = {word.partition("=")[0] for word in words}
    mode = load(words, file).placement.mode if "scale" in given else ""
    found: list[Candidate] = []
    for colocated, scale in _scales(gpus):
        if mode and gpus > 1 and colocated != (mode == "colocated"):
            continue
        chosen = () if "scale" in given else (f"scale={scale}",)
        preset = load([*chosen, *words], file)
        for changes in _placements(gpus, preset, shapes):
            free = {key: value for key, value in changes.items() if key not in given and _at(preset, key) != value}
            try:
                cfg = changed(preset, free)
            except ValueError:  # Settings of the user exclude it, such as a lag that a method does not allow.
                continue
            roles = needed_roles(cfg)
            used = sum(reservation.gpus for reservation in reservations(cfg, roles))
            if round(used) > gpus or any(cfg == other.cfg for other in found):
                continue
            found.append(
                Candidate(
                    words=(*chosen, *(f"{key}={value}" for key, value in free.items())),
                    cfg=cfg,
                    costs=gpu_costs(cfg, shapes, gpu),
                    memory=memory_plan(cfg, shapes, gpu.memory_bytes),
                )
            )
    return found


def _scales(gpus: int) -> list[tuple[bool, str]]:
    """Return the presets to begin with: whether engine and learner share GPUs, and the name."""
    if gpus == 1:
        return [(True, "1gpu")]
    split = "8gpu" if gpus <= GPUS_PER_NODE else "16gpu" if gpus < 64 else "64gpu"
    return [(False, split), (True, "8gpu_colocated")]


def _placements(gpus: int, preset: Config, shapes: ModelShapes) -> Iterator[dict[str, Any]]:
    """Yield settings of placements, in place of those of the preset."""
    if preset.placement.mode == "colocated":
        for budget in BUDGETS:
            yield {"placement.generators": gpus, "placement.learners": gpus, "learner.token_budget": budget}
        return
    references = {1, max(1, gpus // 16)} if "reference" in needed_roles(preset) else {0}
    step = max(1, gpus // GPUS_PER_NODE)
    for parallel, learners, count in product((1, 2, 4, 8), range(step, gpus, step), references):
        generators = (gpus - learners - count) // parallel
        if generators < 1 or not shapes.divides_layers(parallel) or parallel > min(gpus, GPUS_PER_NODE):
            continue
        placed = {
            "placement.generators": generators,
            "placement.tensor_parallel": parallel,
            "placement.learners": learners,
            **({"placement.references": count} if count else {}),
        }
        nodes = learners // GPUS_PER_NODE if learners % GPUS_PER_NODE == 0 else 1
        for replicas, budget in product({1, max(1, nodes)}, BUDGETS):
            yield placed | {"learner.replicas": replicas, "learner.token_budget": budget}


def _at(cfg: Config, key: str) -> Any:
    value: Any = cfg
    for name in key.split("."):
        value = getattr(value, name)
    return value


def estimate(candidate: Candidate, lengths: Lengths, prompt_tokens: int) -> float:
    """Return the seconds of a step without waiting for single long answers, to choose what is simulated."""
    cfg, costs, engine = candidate.cfg, candidate.costs, candidate.costs.engine
    answers = cfg.groups_per_step * cfg.sampling.group_size
    per_engine = answers / cfg.placement.generators
    length, held = lengths.mean, prompt_tokens + lengths.mean / 2
    running = int(max(1, min(engine.max_sequences, engine.kv_tokens / held, (cfg.lag + 1) * per_engine / 2)))
    decoded = per_engine / running * length * (engine.step_s(running) + running * held * engine.kv_s)
    decoded += per_engine / cfg.sampling.group_size * prompt_tokens * engine.prefill_s
    if cfg.lag == 0 or cfg.placement.mode == "colocated":
        decoded = max(decoded, lengths.longest(answers) * engine.step_s(1))
    total = int(prompt_tokens + length)
    batch = [total] * answers
    learned = costs.learner.update(batch)[0] + sum(costs.scoring(batch)) + costs.publish_s + costs.other_s
    scored = costs.early_references * costs.reference.score(batch)  # while others are generated
    in_turns = cfg.lag == 0 or cfg.placement.mode == "colocated"
    return max(decoded, scored) + learned if in_turns else max(decoded, scored, learned)
