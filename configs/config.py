"""All settings of one run: frozen dataclasses, each checked where it is declared.

The string below a field documents it; `breadth show-config --explain KEY` prints it, and `docs/settings.md` lists all.
Importing this loads no torch, ray or vllm.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from configs.checkpoint import CheckpointConfig
from configs.checks import require, require_not_negative, require_positive
from configs.coefficient import LARGEST_KL_ERROR
from configs.evaluate import EvaluateConfig
from configs.generator import GeneratorConfig
from configs.grader import GraderConfig
from configs.inspect_task import InspectTaskConfig
from configs.learner import LearnerConfig
from configs.logbook import LogbookConfig
from configs.monitor import MonitorConfig
from configs.objective import AIM_AT_PASS_K, ObjectiveConfig
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
    """All settings of one run."""

    name: str = "run"
    """Name of the run; its directory is `<runs>/<name>`."""
    runs: str = "runs"
    """Directory of all runs, relative to the working directory (in a Ray job, to the home directory). A URL, such as
    `s3://bucket/runs`, sets `mirror`, and the run works in a folder below `~/.cache/breadth/runs`."""
    mirror: str = ""
    """URL of a place to which the run's directory is copied while the run goes on, as `<mirror>/<name>`: `s3://`, `gs://`,
    `file://` and others of fsspec. Empty: it is not copied."""
    method: str = "grpo"
    """Preset of `configs/methods/`; all other settings override it."""
    scale: str = "cpu"
    """Preset of `configs/scales/`; it overrides `method`, but for a `lag` of the method, and all other settings
    override it."""
    seed: int = 0
    """Seed of the run: of the order of prompts, of every sampled answer, and of the learner."""
    steps: int = 100
    """Optimizer steps of the run. TRL: max_steps; verl: trainer.total_training_steps."""
    lag: int = 0
    """Number of optimizer steps that rollouts may run ahead of the learner, the bound of their staleness; 0: fully
    on-policy."""
    take: Literal["fifo", "any_order"] = "fifo"
    """Order in which groups are trained on. fifo: that of their prompts, each `lag` steps old. any_order: complete
    groups first; most are `lag` - 1 steps old, and one that takes longer is waited for only when it would become older
    than `lag`. This keeps one step less of rollouts in progress, and needs a lag of at least 2."""
    groups_per_step: int = 32
    """Prompts per step, P. verl: data.train_batch_size."""
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    """The policy."""
    reference_path: str = ""
    """Directory of the reference policy, or its name on the Hub; empty: the starting policy."""
    references: dict[str, ReferenceConfig] = field(default_factory=dict)
    """Further references by names of your own, for `objective.terms.NAME.anchor` and `objective.pairs`."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """The task and its verifier."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Sampling of answers."""
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """The method's slots."""
    rehearsal: RehearsalConfig = field(default_factory=RehearsalConfig)
    """Stored answers of the reference."""
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    """Replayed right answers."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """Optimizer and microbatching."""
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    """Inference engines."""
    grader: GraderConfig = field(default_factory=GraderConfig)
    """Verifier processes."""
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    """Isolation of untrusted programs."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    """Processes and devices."""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """Pass@k during training."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    logbook: LogbookConfig = field(default_factory=LogbookConfig)
    """Logging."""
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    """`breadth evaluate`."""
    inspect_task: InspectTaskConfig = field(default_factory=InspectTaskConfig)
    """`breadth inspect-task`."""
    warm_start: WarmStartConfig = field(default_factory=WarmStartConfig)
    """`breadth warm-start`."""

    def __post_init__(self) -> None:
        folder = bool(self.name) and "/" not in self.name and self.name not in (".", "..")
        require(folder, "name", "must be a folder name without '/'", self.name)
        require_positive(self, "steps", "groups_per_step")
        require_not_negative(self, "lag", "seed")
        require(self.take == "fifo" or self.lag >= 2, "lag", "must be at least 2 with take=any_order", self.lag)
        taken = {"reference", "old"}.intersection(self.references)
        require(not taken, "references", "must not be named 'reference' or 'old'", sorted(taken))
        for name in self.objective.terms:
            self._check_term(name)
        self._check_objective()
        self._check_extragradient()
        if self.sampling.mixed_with:
            self._check_mixture()
        self._check_placement()
        self._check_monitor()

    def _check_term(self, name: str) -> None:
        """Check a divergence term against the other sections."""
        term, path = self.objective.terms[name], f"objective.terms.{name}"
        self._check_reference(f"{path}.anchor", term.anchor, "'reference', 'old'", "old")
        hidden = term.reads_distributions or term.weights.needs_distance
        moves = term.anchor in self.references and self.references[term.anchor].moves
        rule = "must be a reference that is never updated: the learner ranks hold it, frozen"
        require(not (hidden and moves), f"{path}.anchor", rule, term.anchor)
        informed = self.reads_feedback(term.anchor)
        rule = "must be 'reward' for an anchor that reads feedback, which not every answer has"
        require(not informed or term.wiring == "reward", f"{path}.wiring", rule, term.wiring)
        rule = "must be 'none' for an anchor that reads feedback: only its log-probs of the answers are known"
        require(not (informed and term.reweights), f"{path}.reweight", rule, term.reweight)
        rule = "must be a reference that reads the prompt alone, whose certainty or distance the token weights need"
        weighs = term.weights.certainty_power > 0 or term.weights.needs_distance
        require(not (informed and weighs), f"{path}.anchor", rule, term.anchor)
        rule = "must not be 'all' for plackett_luce on rehearsed answers, whose tokens are taken as the true ones"
        labelled = term.name == "plackett_luce" and term.rehearses
        require(not labelled or self.rehearsal.right_only, "rehearsal.keep", rule, self.rehearsal.keep)
        left = self.lag > 0 or self.learner.updates_per_batch > 1 or bool(self.sampling.mixed_with)
        rule = f"must be above 1 at lag 0 for {path}.hinge: in one update no token leaves the policy that sampled it"
        idle = term.hinge > 0 and term.anchor == "old" and not left
        require(not idle, "learner.updates_per_batch", rule, self.learner.updates_per_batch)
        most = LARGEST_KL_ERROR * self.groups_per_step * self.sampling.group_size
        rule = (
            f"must be above {LARGEST_KL_ERROR} x trajectories per step ({most:g}), or the coefficient changes its sign"
        )
        slow = term.coefficient.kind != "adaptive" or term.coefficient.horizon > most
        require(slow, f"{path}.coefficient.horizon", rule, term.coefficient.horizon)

    def _check_objective(self) -> None:
        """Check the objective's other slots against the other sections."""
        objective = self.objective
        single = objective.advantage == "pairs" and not objective.pairs.needs_two_answers
        if not single and objective.advantage not in ("mean_only", "global_whiten", "weighted_sign", "critic", "none"):
            rule = f"must be above 1 for objective.advantage={objective.advantage}"
            require(self.sampling.group_size > 1, "sampling.group_size", rule, self.sampling.group_size)
        if objective.advantage == "pairs":
            self._check_pairs()
        if objective.has_experience:
            rule = f"must be at least 1 / groups_per_step ({1 / self.groups_per_step:g}): a fraction of the groups"
            whole = self.groups_with_experience >= 1
            require(whole, "objective.experience.fraction", rule, objective.experience.fraction)
            rule = "must be above 1 with objective.experience: one answer of a group is an old one"
            require(self.sampling.group_size > 1, "sampling.group_size", rule, self.sampling.group_size)
        self._check_pass_k()
        rule = "must be 'sampler' when lag is above 0 (the learner's log-probs ignore staleness)"
        current = self.lag == 0 or objective.old_policy == "sampler"
        require(current, "objective.old_policy", rule, objective.old_policy)
        several = objective.replays or objective.weighs_rewards or self.task.name == "mixture"
        rule = (
            "must be 0 without a mixture, objective.replay_weight, or objective.rewards that are not combined by "
            "weighted_sum: there are no two objectives to weigh"
        )
        require(several or not objective.recap.window, "objective.recap.window", rule, objective.recap.window)

    def _check_pairs(self) -> None:
        """Check that the references of the pairs exist."""
        pairs = self.objective.pairs
        self._check_reference("objective.pairs.anchor", pairs.anchor, "'reference'")
        self._check_reference("objective.pairs.mixed_with", pairs.mixed_with, "empty, 'reference'", "")
        rule = "must be a reference that reads the prompt alone: a pair is of two answers to one prompt"
        for key, name in (("anchor", pairs.anchor), ("mixed_with", pairs.mixed_with)):
            require(not self.reads_feedback(name), f"objective.pairs.{key}", rule, name)

    def _check_reference(self, path: str, name: str, words: str, *also: str) -> None:
        """Check that a reference exists; `words` are the names that always do, `also` those beside `reference`."""
        rule = f"must be {words} or one of references ({', '.join(self.references) or 'none'})"
        require(name in ("reference", *also, *self.references), path, rule, name)

    def _check_mixture(self) -> None:
        """Check that the generators can hold the policy that is mixed in, and that the ratio corrects the mixture."""
        name = self.sampling.mixed_with
        self._check_reference("sampling.mixed_with", name, "'reference'")
        reference = self.references.get(name)
        rule = "must be a reference with a directory of its own that is never updated: the generators load it once"
        fixed = reference is None or not (reference.moves or reference.soup)
        require(fixed, "sampling.mixed_with", rule, name)
        rule = "must not be 'vllm' with sampling.mixed_with: vLLM reads one policy, and a mixed token needs two"
        require(self.generator.engine != "vllm", "generator.engine", rule, self.generator.engine)
        rule = "must be 'host' with sampling.mixed_with: the transformers engine loads weights from host memory"
        require(self.generator.transfer == "host", "generator.transfer", rule, self.generator.transfer)
        why = "with sampling.mixed_with: the ratio policy / sampler is the importance weight of a mixed token"
        ratio, old_policy = self.objective.ratio, self.objective.old_policy
        require(ratio == "token", "objective.ratio", f"must be 'token' {why}", ratio)
        require(old_policy == "sampler", "objective.old_policy", f"must be 'sampler' {why}", old_policy)

    def _check_pass_k(self) -> None:
        """Check k against the size of a group."""
        if self.objective.advantage not in AIM_AT_PASS_K:
            return
        settings, size = self.objective.pass_k, self.sampling.group_size
        key = "k" if settings.k == settings.largest_k else "final_k"
        fits, rule = settings.largest_k <= size, f"must be at most sampling.group_size ({size})"
        if self.objective.advantage == "pass_k_zscore":
            fits = settings.largest_k < size
            rule = f"must be below sampling.group_size ({size}) for pass_k_zscore: a single set of answers has std 0"
        require(fits, f"objective.pass_k.{key}", rule, settings.largest_k)

    def _check_extragradient(self) -> None:
        """Check that nothing is measured, saved or copied between the two steps of a pair, and nothing is stale."""
        if not self.learner.extragradient:
            return
        rule = "must be 0 with learner.extragradient: each step of a pair needs answers of its own policy"
        require(self.lag == 0, "lag", rule, self.lag)
        every = {"steps": self.steps, "monitor.every": self.monitor.every, "checkpoint.every": self.checkpoint.every}
        for name, reference in self.references.items():
            rule = "must not be 'kl' with learner.extragradient, whose odd steps look ahead"
            require(reference.update != "kl", f"references.{name}.update", rule, reference.update)
            if reference.moves:
                every[f"references.{name}.every"] = reference.every
        rule = "must be even with learner.extragradient: the weights of an odd step are those of a look-ahead"
        for key, value in every.items():
            require(value % 2 == 0, key, rule, value)

    def _check_placement(self) -> None:
        """Check engines and transfer against the placement."""
        remote = self.placement.kind == "ray"
        rule = "must be 'transformers' when placement.kind is 'in_process' (vLLM alters the process it runs in)"
        fits = remote or self.generator.engine != "vllm"
        require(fits, "generator.engine", rule, self.generator.engine)
        fits = self.generator.transfer == "host" or self.placement.device == "gpu"
        rule = "must be 'host' when placement.device is 'cpu'"
        require(fits, "generator.transfer", rule, self.generator.transfer)
        own = self.generator.engine == "transformers"
        rule = "must be 'host' with the transformers engine, which loads weights from host memory"
        fits = not own or self.generator.transfer == "host"
        require(fits, "generator.transfer", rule, self.generator.transfer)
        rule = "must be 1 with the transformers engine"
        fits = not own or self.placement.tensor_parallel == 1
        require(fits, "placement.tensor_parallel", rule, self.placement.tensor_parallel)
        rule = "must be 1 when placement.kind is 'in_process'"
        require(remote or self.placement.learners == 1, "placement.learners", rule, self.placement.learners)
        for name in ("replicas", "context_parallel"):
            value = getattr(self.learner, name)
            rule = f"must divide placement.learners ({self.placement.learners})"
            require(self.placement.learners % value == 0, f"learner.{name}", rule, value)

    def _check_monitor(self) -> None:
        """Check that the monitor's KL is that of the distribution of training."""
        rule = "must be false when monitor.sampling has another temperature than training, or truncates"
        fits = self.measures_as_trained or not (self.monitor.every and self.monitor.kl_to_base)
        require(fits, "monitor.kl_to_base", rule, self.monitor.kl_to_base)

    def reads_feedback(self, name: str) -> bool:
        """Return whether a name is that of a reference that reads feedback."""
        return name in self.references and self.references[name].informed

    @property
    def groups_with_experience(self) -> int:
        """Most groups of a step that have experience."""
        return int(self.objective.experience.fraction * self.groups_per_step)

    def starts_from(self, path: str) -> bool:
        """Return whether a directory is that of the policy the run starts from. An empty path stands for it."""
        return not path or Path(path).resolve() == Path(self.policy.path).resolve()

    @property
    def window_slots(self) -> int:
        """Most prompts in progress, from their admission until their groups are trained on."""
        return (self.lag + (self.take == "fifo")) * self.groups_per_step

    @property
    def repeatable(self) -> bool:
        """Whether nothing may depend on timing: at lag 0 on a CPU a run is repeatable bit for bit."""
        return self.lag == 0 and self.placement.device == "cpu"

    @property
    def binds_late(self) -> bool:
        """Whether groups wait for a generator that has room. The transformers engine decodes only what was submitted
        together in one batch, so that groups sent one by one would make small batches."""
        return not self.repeatable and self.placement.generators > 1 and self.generator.engine == "vllm"

    @property
    def measures_as_trained(self) -> bool:
        """Whether the monitor samples from the distribution of training; its answers may be longer or shorter."""
        decoding = self.monitor.sampling.resolved(self.sampling)
        return decoding.temperature == self.sampling.temperature and not decoding.truncated

    @property
    def longest_answer(self) -> int:
        """Most tokens of an answer that a training run samples, measurements included."""
        own, training, further = self.monitor.sampling, self.sampling, self.monitor.also.values()
        measured = [own.resolved(training), *(task.decoding(own, training) for task in further)]
        return max([training.max_new_tokens, *(one.max_new_tokens for one in measured if self.monitor.every)])

    @property
    def scores_first(self) -> bool:
        """Whether the learner must score a batch before its first update."""
        several = self.learner.updates_per_batch > 1 and self.objective.old_policy == "learner"
        mixed = bool(self.sampling.mixed_with)  # The sampler's log-probs are not the policy's.
        return several or mixed or self.objective.scores_first
