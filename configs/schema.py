"""Every knob of Breadth, here and in its neighbours: frozen dataclasses, each validated where it is declared.

The string under a field documents it; `breadth show-config` prints the resolved tree. Importing this
loads nothing heavy.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from configs.checks import require
from configs.divergence_schema import DivergenceName
from configs.grading_schema import GraderConfig, SandboxConfig
from configs.learner_schema import LearnerConfig
from configs.objective_schema import ObjectiveConfig
from configs.reference_schema import ReferenceConfig
from configs.replay_schema import ReplayConfig
from configs.supervised_schema import check_supervised
from configs.watch_schema import CheckpointConfig, EvaluateConfig, LogbookConfig, MonitorConfig


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    path: str = "tasks/base_policies/countdown"
    """Directory of a Hugging Face causal language model with its tokenizer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype of the forward passes; master weights, reductions and optimizer state are always float32."""
    chat_template: bool = False
    """Wrap each prompt as one user turn of the tokenizer's chat template."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    name: str = "countdown"
    """A name of `tasks/registry.py`: countdown, scratchpad_addition, sql_questions, programs, dataset (rows of files),
    or mixture."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the task's own dataclass, checked by the task."""
    verifier: str = ""
    """Overrides the task's verifier: a name of `rewards/registry.py` or an import path `package.module:function`."""
    heldout_prompts: int = 64
    """Prompts of the held-out stream on which the monitor and `breadth evaluate` measure Pass@k."""

    def __post_init__(self) -> None:
        require(self.heldout_prompts > 0, "task.heldout_prompts", "must be positive", self.heldout_prompts)


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    group_size: int = 16
    """Answers per prompt (G)."""
    temperature: float = 1.0
    """Log-probs everywhere are taken at this temperature."""
    top_p: float = 1.0
    top_k: int = 0
    """0: off."""
    max_prompt_tokens: int = 512
    """A longer prompt is skipped and counted."""
    max_refills: int = 0
    """DAPO's dynamic sampling (arXiv:2503.14476): groups whose rewards are all equal are dropped and replaced by fresh
    prompts, at most this many times groups_per_step in one step; what is left then is used as it is. 0: off."""
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        require(self.group_size > 0, "sampling.group_size", "must be positive", self.group_size)
        require(self.temperature >= 0.01, "sampling.temperature", "must be at least 0.01", self.temperature)
        require(self.max_prompt_tokens > 0, "sampling.max_prompt_tokens", "must be positive", self.max_prompt_tokens)
        require(self.max_refills >= 0, "sampling.max_refills", "must not be negative", self.max_refills)
        require(self.max_new_tokens > 0, "sampling.max_new_tokens", "must be positive", self.max_new_tokens)
        rule = (
            "truncated sampling biases every importance ratio (the learner's log-probs cover the whole vocabulary) "
            "and no correction here accounts for it; must be {}"
        )
        require(self.top_p == 1.0, "sampling.top_p", rule.format("1.0"), self.top_p)
        require(self.top_k == 0, "sampling.top_k", rule.format("0"), self.top_k)


@dataclass(frozen=True, kw_only=True)
class RehearsalConfig:
    """DPH-RL's stored reference answers (arXiv:2509.07430); used when the divergence samples from rehearsal."""

    path: str = ""
    """Parquet file made by `breadth presample`; empty: `breadth train` makes one in its run directory."""
    batch: int = 256
    """Rehearsed answers per step."""
    prompts: int = 4096
    """Prompts of the train stream to presample."""
    answers: int = 8
    """Reference answers per prompt (k)."""
    threshold: int = 6
    """A prompt is mastered when at least this many of the k answers are correct."""
    explore: Literal["unmastered", "fresh"] = "unmastered"
    """unmastered: the presampled prompts that were not mastered are explored too; fresh: exploring starts behind the
    presampled prompts."""
    keep: Literal["one_fresh", "all_correct"] = "one_fresh"
    """one_fresh: draw one more answer of a mastered prompt and keep it if correct (unbiased); all_correct: keep the
    correct ones among the k."""

    def __post_init__(self) -> None:
        require(self.batch > 0, "rehearsal.batch", "must be positive", self.batch)
        require(self.prompts > 0, "rehearsal.prompts", "must be positive", self.prompts)
        require(self.answers > 0, "rehearsal.answers", "must be positive", self.answers)
        require(
            1 <= self.threshold <= self.answers,
            "rehearsal.threshold",
            f"must be between 1 and rehearsal.answers ({self.answers})",
            self.threshold,
        )


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig:
    engine: Literal["vllm", "transformers"] = "vllm"
    transfer: Literal["host", "nccl", "ipc"] = "host"
    """Backend of vLLM's weight-transfer interface: host memory, NCCL between GPUs, CUDA IPC on a shared GPU."""
    max_sequences: int = 256
    """Answers decoded at a time by one engine."""
    kv_cache_bytes: int = 134_217_728
    """Key-value cache of one engine on CPU; a GPU engine takes `memory_fraction` instead."""
    memory_fraction: float = 0.85
    """Share of the GPU's memory the engine may take."""
    checksum: bool = False
    """Debug: verify every published byte."""
    timeout_s: float = 600.0
    """A generator that finishes nothing for this long while it has work ends the run with an error."""

    def __post_init__(self) -> None:
        require(self.max_sequences > 0, "generator.max_sequences", "must be positive", self.max_sequences)
        require(self.kv_cache_bytes >= 2**24, "generator.kv_cache_bytes", "must be at least 2**24", self.kv_cache_bytes)
        require(0 < self.memory_fraction < 1, "generator.memory_fraction", "must be in (0, 1)", self.memory_fraction)
        require(self.timeout_s > 0, "generator.timeout_s", "must be positive", self.timeout_s)


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    kind: Literal["ray", "in_process"] = "ray"
    """ray: every role is a Ray actor; in_process: one process, for tests and debugging (transformers engine only)."""
    mode: Literal["split", "colocated"] = "split"
    """split: generators and learners have devices of their own; colocated: they share them."""
    device: Literal["cpu", "gpu"] = "cpu"
    generators: int = 1
    tensor_parallel: int = 1
    """GPUs of one generator."""
    learners: int = 1
    """FSDP2 ranks."""
    graders: int = 1
    references: int = 1
    """Reference actors, started only when something needs them."""
    cpus_per_generator: float = 1.0
    cpus_per_learner: float = 0.5
    cpus_per_grader: float = 0.25
    cpus_per_reference: float = 0.25
    start_timeout_s: float = 300.0
    """Bound on every role's start."""
    call_timeout_s: float = 1800.0
    """Bound on every call to a role; a learner's update is the longest."""

    def __post_init__(self) -> None:
        for name in ("generators", "tensor_parallel", "learners", "graders", "references"):
            require(getattr(self, name) > 0, f"placement.{name}", "must be positive", getattr(self, name))
        for role in ("generator", "learner", "grader", "reference"):
            name = f"cpus_per_{role}"
            require(getattr(self, name) >= 0, f"placement.{name}", "must not be negative", getattr(self, name))
        for name in ("start_timeout_s", "call_timeout_s"):
            require(getattr(self, name) > 0, f"placement.{name}", "must be positive", getattr(self, name))
        require(
            self.tensor_parallel == 1 or (self.device == "gpu" and self.mode == "split"),
            "placement.tensor_parallel",
            "must be 1 on cpu, and where generators and learners are colocated",
            self.tensor_parallel,
        )


@dataclass(frozen=True, kw_only=True)
class WarmStartConfig:
    """Supervised training of a small policy on a task's own solutions, through the same learner."""

    steps: int = 700
    batch: int = 256
    output: str = ""
    """Directory of the policy to write."""
    divergence: DivergenceName = "forward_kl"
    """D(policy || data) at every token of an answer, of which the data is certain; forward_kl: cross entropy."""
    alpha: float = 0.2
    """The parameter of a family, as in `objective.divergence.alpha`."""
    hidden_size: int = 96
    layers: int = 3
    heads: int = 3
    intermediate_size: int = 256

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "hidden_size", "layers", "heads", "intermediate_size"):
            require(getattr(self, name) > 0, f"warm_start.{name}", "must be positive", getattr(self, name))
        check_supervised("warm_start.divergence", self.divergence, "warm_start.alpha", self.alpha)
        require(0 < self.alpha < 1, "warm_start.alpha", "must be in (0, 1)", self.alpha)
        require(
            self.hidden_size % (2 * self.heads) == 0,
            "warm_start.hidden_size",
            "must be an even multiple of warm_start.heads",
            self.hidden_size,
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run, whole."""

    name: str = "run"
    """The run directory is `<runs>/<name>`."""
    runs: str = "runs"
    method: str = "grpo"
    """The preset in `configs/methods/` this config started from."""
    scale: str = "cpu"
    """The preset in `configs/scales/` this config started from."""
    seed: int = 0
    steps: int = 100
    """Optimizer steps of the run."""
    lag: int = 0
    """How many optimizer steps rollouts may run ahead; 0 is fully on-policy."""
    groups_per_step: int = 32
    """Prompts per step (P)."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    reference_path: str = ""
    """Directory of the reference policy; empty: the starting policy."""
    references: dict[str, ReferenceConfig] = field(default_factory=dict)
    """Further references by names of your own, for `objective.divergence.anchor`."""
    task: TaskConfig = field(default_factory=TaskConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    grader: GraderConfig = field(default_factory=GraderConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logbook: LogbookConfig = field(default_factory=LogbookConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)

    def __post_init__(self) -> None:
        folder = bool(self.name) and "/" not in self.name and self.name not in (".", "..")
        require(folder, "name", "must be a folder name without '/'", self.name)
        require(self.steps > 0, "steps", "must be positive", self.steps)
        require(self.lag >= 0, "lag", "must not be negative", self.lag)
        require(self.groups_per_step > 0, "groups_per_step", "must be positive", self.groups_per_step)
        require(self.seed >= 0, "seed", "must not be negative", self.seed)
        for anchor in self.objective.hidden_anchors:
            moves = anchor in self.references and self.references[anchor].moves
            rule = f"must be a reference that does not move, got '{anchor}', for objective.divergence.wiring"
            require(not moves, "objective.divergence.anchor", rule, "vocabulary")
        for anchor in {*self.objective.anchors, *self.objective.hidden_anchors}:
            rule = f"must be 'reference', 'old' or one of references ({', '.join(self.references) or 'none'})"
            require(anchor in ("reference", *self.references), "objective.divergence.anchor", rule, anchor)
        blocks = any(term.name == "batch_sinkhorn" for term in self.objective.terms.values())
        rule = "must be at least 32 for batch_sinkhorn, whose blocks of 32 tokens have to fit into a chunk"
        require(not blocks or self.learner.logits_chunk >= 32, "learner.logits_chunk", rule, self.learner.logits_chunk)
        taken = [name for name in self.references if name in ("reference", "old")]
        require(not taken, "references", "must not be named 'reference' or 'old'", taken)
        if self.objective.advantage not in ("mean_only", "global_whiten", "critic", "none"):
            require(
                self.sampling.group_size > 1,
                "sampling.group_size",
                f"must be above 1 for objective.advantage={self.objective.advantage}",
                self.sampling.group_size,
            )
        require(
            self.lag == 0 or self.objective.old_policy == "sampler",
            "objective.old_policy",
            "must be 'sampler' when lag is above 0 (the learner's log-probs ignore staleness)",
            self.objective.old_policy,
        )
        several = self.objective.replays or self.task.name == "mixture"
        rule = "must be 0 without a mixture or objective.replay_weight: there are no two objectives to weigh"
        require(several or not self.objective.recap.window, "objective.recap.window", rule, self.objective.recap.window)
        require(
            self.placement.kind == "ray" or self.generator.engine == "transformers",
            "generator.engine",
            "must be 'transformers' when placement.kind is 'in_process' (vLLM alters the process it runs in)",
            self.generator.engine,
        )
        require(
            self.generator.transfer == "host" or self.placement.device == "gpu",
            "generator.transfer",
            "must be 'host' when placement.device is 'cpu'",
            self.generator.transfer,
        )
        require(
            self.placement.kind == "ray" or self.placement.learners == 1,
            "placement.learners",
            "must be 1 when placement.kind is 'in_process'",
            self.placement.learners,
        )

    @property
    def scores_first(self) -> bool:
        """Whether the learner has to score a batch before its first update of it."""
        several = self.learner.updates_per_batch > 1 and self.objective.old_policy == "learner"
        return several or self.objective.scores_first
