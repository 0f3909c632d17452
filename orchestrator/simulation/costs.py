"""Seconds that engine, learner and the other parts of a step take, as functions of tokens, from a GPU's figures.

The simulation needs only these dataclasses, so costs measured on a machine (`calibration.py`) simulate as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from actors.generation.engine_limits import sequences_that_fit
from configs.config import Config
from orchestrator.engine import publishes_adapter
from orchestrator.placement import references_on_actors
from orchestrator.planning.learner_memory import shard_ranks
from orchestrator.planning.model_shapes import ModelShapes
from orchestrator.references import early_references
from orchestrator.simulation.hardware import MEMORY_EFFICIENCY, Gpu

STEP_OVERHEAD_S = 0.004
"""Seconds of one engine step besides the model: scheduling, sampling, detokenization. Assumed."""
SEQUENCE_OVERHEAD_S = 5e-6
"""Of it, seconds for each running answer. Assumed."""
ALL_REDUCE_S = 20e-6
"""Latency of an all-reduce of tensor parallelism, of which a layer has two. Assumed."""
ENGINE_RESERVE_BYTES = 4e9
"""Memory of an engine besides weights and key-value cache: activations, CUDA graphs. Assumed."""
MICROBATCH_S = 0.05
"""Seconds of a microbatch besides its matrix products and traffic: launches, loss terms. Assumed."""
PUBLISH_FRACTION = 0.15
"""Fraction of the link's rate with which weights reach the engines, loading included: 2 to 4 s for 7B. Estimated."""
HOST_BYTES_PER_S = 0.2e9
"""Rate of the host transfer: 60 to 90 s for 7B. Estimated."""
SLEEP_BYTES_PER_S = 25e9
"""Rate at which a colocated engine moves its weights between GPU and host memory. Assumed (PCIe 5)."""
GPUS_PER_NODE = 8


@dataclass(frozen=True, kw_only=True)
class EngineCosts:
    """Seconds of one engine. A decoding step of n answers with K cached tokens takes
    max(weights_s, n * sequence_s) + n * overhead_sequence_s + overhead_s + K * kv_s.

    Matrix products read all weights or are limited by FLOPs; attention, which comes after them, reads the cache.
    """

    weights_s: float = 0.0
    sequence_s: float = 0.0
    kv_s: float = 0.0
    overhead_s: float = 0.0
    overhead_sequence_s: float = 0.0
    prefill_s: float = 0.0
    """Seconds per token of a prompt."""
    kv_tokens: float = math.inf
    """Tokens that the key-value cache holds."""
    max_sequences: int = 256
    """Answers that are decoded at the same time."""
    one_submission: bool = False
    """Whether answers of different submissions are decoded one submission after another (transformers engine)."""

    def step_s(self, sequences: int) -> float:
        """Return the seconds of one decoding step, without those of the cache."""
        products = max(self.weights_s, sequences * self.sequence_s)
        return products + sequences * self.overhead_sequence_s + self.overhead_s


@dataclass(frozen=True, kw_only=True)
class LearnerCosts:
    """Seconds of an update. A microbatch takes max(computation, traffic) + microbatch_s: the ranks gather the next
    layer's parameters while they compute."""

    ranks: int = 1
    token_budget: int = 16_384
    token_s: float = 0.0
    """Seconds of one rank per token, forward and backward."""
    token_squared_s: float = 0.0
    """Seconds of one rank per squared length of a trajectory: attention."""
    traffic_s: float = 0.0
    """Seconds in which parameters are gathered and gradients reduced, for each microbatch."""
    microbatch_s: float = 0.0
    update_s: float = 0.0
    """Seconds once per update: optimizer step, sum over replicas, and what is not per token."""
    forward_share: float = 0.25
    """Fraction of a microbatch's computation and traffic that one forward pass without gradient takes."""

    def update(self, lengths: Sequence[int]) -> tuple[float, float]:
        """Return the seconds of an update, and how many of them are for traffic that computation does not hide.

        Args:
            lengths: tokens of each trajectory, prompt included.
        """
        computed, exposed, microbatches = self._passes(lengths)
        return computed + exposed + microbatches * self.microbatch_s + self.update_s, exposed

    def score(self, lengths: Sequence[int]) -> float:
        """Return the seconds in which the ranks compute the log-probs of a batch: a forward pass of the policy, or of a
        reference that they hold.

        Args:
            lengths: tokens of each trajectory, prompt included.
        """
        computed, exposed, microbatches = self._passes(lengths)
        return self.forward_share * (computed + exposed + microbatches * self.microbatch_s)

    def _passes(self, lengths: Sequence[int]) -> tuple[float, float, int]:
        """Return the seconds of computation, those of traffic that it does not hide, and the microbatches."""
        microbatches = max(1, math.ceil(sum(_shares(lengths, self.token_budget)) / self.ranks))
        computed = (sum(lengths) * self.token_s + _squares(lengths) * self.token_squared_s) / self.ranks
        return computed, max(0.0, microbatches * self.traffic_s - computed), microbatches


@dataclass(frozen=True, kw_only=True)
class ReferenceCosts:
    """Seconds of the reference actors together, for one reference."""

    token_s: float = 0.0
    token_squared_s: float = 0.0
    """Seconds per squared length of a trajectory: attention."""

    def score(self, lengths: Sequence[int]) -> float:
        """Return the seconds of the log-probs of trajectories of these lengths, prompt included."""
        return sum(lengths) * self.token_s + _squares(lengths) * self.token_squared_s


def _squares(lengths: Sequence[int]) -> float:
    return sum(float(length) ** 2 for length in lengths)


def _shares(lengths: Sequence[int], token_budget: int) -> list[float]:
    """Return the fraction of a microbatch that each trajectory fills, with padding to whole rows of its width."""
    return [1.0 / max(1, token_budget // length) for length in lengths]


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Costs of every role of a run."""

    engine: EngineCosts
    learner: LearnerCosts
    publish_s: float = 0.0
    scores: int = 0
    """Forward passes of the learner ranks with the policy before the update: 1 with `Config.scores_first`."""
    held_references: int = 0
    """References with which the learner ranks score, before the update."""
    early_references: int = 0
    """References on actors that score each group as soon as it is complete."""
    late_references: int = 0
    """References on actors that score the whole batch, before the update."""
    reference: ReferenceCosts = ReferenceCosts()
    grade_s: float = 0.01
    """Seconds of one verifier call in one worker process."""
    cores: float = math.inf
    """Cores that all roles share (`Cores`); infinite where each has devices of its own."""
    other_s: float = 0.0
    """Seconds of a step in the driver: packing, credit, records."""
    other_answer_s: float = 0.0
    """Of it, seconds for each answer."""

    def scoring(self, lengths: Sequence[int]) -> tuple[float, float]:
        """Return the seconds for which a step waits for scores of references, and of the policy.

        Args:
            lengths: tokens of each trajectory of the batch, prompt included.
        """
        pass_s = self.learner.score(lengths) if self.scores or self.held_references else 0.0
        late = self.late_references * self.reference.score(lengths) if self.late_references else 0.0
        return late + self.held_references * pass_s, self.scores * pass_s


def multiplied(shapes: ModelShapes) -> int:
    """Return the parameters that take part in a matrix product for every token: all but the input embedding."""
    return shapes.parameters - shapes.root + shapes.head


def gpu_costs(cfg: Config, shapes: ModelShapes, gpu: Gpu) -> Costs:
    """Return the costs of a run on GPUs. References have the size of the policy."""
    rate = gpu.flops * gpu.compute_efficiency * cfg.placement.references
    own, early = references_on_actors(cfg), early_references(cfg)
    scoring = list(dict.fromkeys([*cfg.objective.anchors, *cfg.objective.hidden_anchors]))
    return Costs(
        engine=_engine(cfg, shapes, gpu),
        learner=_learner(cfg, shapes, gpu),
        publish_s=_publication(cfg, shapes, gpu),
        scores=int(cfg.scores_first),
        held_references=sum(name not in own for name in scoring),
        early_references=len(early),
        late_references=sum(name in own and name not in early for name in scoring),
        reference=ReferenceCosts(
            token_s=2.0 * multiplied(shapes) / rate, token_squared_s=2.0 * shapes.layers * shapes.queries / rate
        ),
        other_s=1.0,
    )


def _engine(cfg: Config, shapes: ModelShapes, gpu: Gpu) -> EngineCosts:
    parallel = cfg.placement.tensor_parallel
    held, longest = kv_tokens(cfg, shapes, gpu), cfg.sampling.max_prompt_tokens + cfg.longest_answer
    bandwidth = gpu.bandwidth * MEMORY_EFFICIENCY
    flops = gpu.flops * gpu.compute_efficiency * parallel
    reduced = 2 * shapes.dtype_bytes * shapes.hidden * (parallel - 1) / parallel / gpu.interconnect(crosses_nodes=False)
    return EngineCosts(
        weights_s=multiplied(shapes) * shapes.dtype_bytes / parallel / bandwidth,
        sequence_s=2.0 * multiplied(shapes) / flops,
        kv_s=shapes.key_values_on(parallel) * shapes.dtype_bytes / bandwidth,
        overhead_s=STEP_OVERHEAD_S + (2 * shapes.layers * ALL_REDUCE_S if parallel > 1 else 0.0),
        overhead_sequence_s=SEQUENCE_OVERHEAD_S + 2 * shapes.layers * reduced,
        prefill_s=2.0 * multiplied(shapes) / flops,
        kv_tokens=held,
        max_sequences=cfg.generator.max_sequences or sequences_that_fit(held, longest),
    )


def kv_tokens(cfg: Config, shapes: ModelShapes, gpu: Gpu) -> float:
    """Return the tokens that the key-value cache of one engine holds, below 0 if the weights do not fit."""
    parallel = cfg.placement.tensor_parallel
    weights = shapes.parameters * shapes.dtype_bytes / parallel
    free = gpu.memory_bytes * cfg.generator.memory_fraction - weights - ENGINE_RESERVE_BYTES
    return free / (shapes.key_values_on(parallel) * shapes.dtype_bytes)


def _learner(cfg: Config, shapes: ModelShapes, gpu: Gpu) -> LearnerCosts:
    learner, ranks = cfg.learner, cfg.placement.learners
    passes = 4.0 if learner.gradient_checkpointing else 3.0  # forward, backward (2), and the recomputed forward
    passes -= learner.lora.r > 0  # frozen weights have no gradient
    passes += len(cfg.objective.head_anchors)  # a forward pass of each with every microbatch
    rate = gpu.flops * gpu.compute_efficiency
    per_microbatch, per_update = traffic_s(cfg, shapes, gpu)
    states = 28.0 * shapes.trained / shard_ranks(cfg) / (gpu.bandwidth * MEMORY_EFFICIENCY)
    return LearnerCosts(
        ranks=ranks,
        token_budget=learner.token_budget,
        token_s=passes * 2.0 * multiplied(shapes) / rate,
        token_squared_s=passes * 2.0 * shapes.layers * shapes.queries / rate,
        traffic_s=per_microbatch,
        microbatch_s=MICROBATCH_S,
        update_s=states + per_update,
        forward_share=1 / passes,
    )


def traffic_s(cfg: Config, shapes: ModelShapes, gpu: Gpu) -> tuple[float, float]:
    """Return the seconds of FSDP2's traffic for each microbatch, and once per update.

    A rank of n sends (n - 1) / n of the parameters in bfloat16 for each gathering, of which forward and backward pass
    have one each, and of the gradients in float32 for their reduction. The gradients of replicas are summed once.
    """
    ranks, size = cfg.placement.learners, shard_ranks(cfg)
    sent = (size - 1) / size / gpu.interconnect(size > GPUS_PER_NODE)
    gathers, reduction = 2 * shapes.dtype_bytes * shapes.parameters * sent, 4 * shapes.trained * sent
    copies = ranks // size
    summed = 8.0 * shapes.trained / size * (copies - 1) / copies / gpu.interconnect(ranks > GPUS_PER_NODE)
    if cfg.learner.accumulate == "unsharded":
        return 0.0, gathers / 2 + reduction + summed
    return gathers + reduction, summed


def _publication(cfg: Config, shapes: ModelShapes, gpu: Gpu) -> float:
    adapter = publishes_adapter(cfg)
    weights = float((shapes.adapters if adapter else shapes.parameters) * shapes.dtype_bytes)
    if adapter or cfg.generator.transfer == "host":
        return weights / HOST_BYTES_PER_S
    if cfg.generator.transfer == "ipc":
        moved = 2 * weights / SLEEP_BYTES_PER_S  # The engine sleeps during the update and wakes after it.
        return moved + weights / (PUBLISH_FRACTION * gpu.interconnect(crosses_nodes=False))
    crosses = cfg.placement.learners + cfg.placement.generators * cfg.placement.tensor_parallel > GPUS_PER_NODE
    return weights / (PUBLISH_FRACTION * gpu.interconnect(crosses))
