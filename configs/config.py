"""Every knob of Breadth, here and in its neighbours: frozen dataclasses, each validated where it is declared.

The string under a field documents it; `breadth show-config` prints the resolved tree. Importing this
loads nothing heavy.
"""

from dataclasses import dataclass, field

from configs.checkpoint import CheckpointConfig
from configs.checks import require
from configs.evaluate import EvaluateConfig
from configs.generator import GeneratorConfig
from configs.grader import GraderConfig
from configs.learner import LearnerConfig
from configs.logbook import LogbookConfig
from configs.monitor import MonitorConfig
from configs.objective import ObjectiveConfig
from configs.placement import PlacementConfig
from configs.policy import PolicyConfig
from configs.references import ReferenceConfig
from configs.rehearsal import RehearsalConfig
from configs.replay import ReplayConfig
from configs.sampling import SamplingConfig
from configs.sandbox import SandboxConfig
from configs.task import TaskConfig
from configs.warm_start import WarmStartConfig


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
