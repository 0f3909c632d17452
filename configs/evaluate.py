"""`breadth evaluate`: checkpoints, answers per prompt and sampling temperatures."""

from dataclasses import dataclass, field, replace

from configs.checks import FILE_NAME, fit_ks, is_file_name, require, require_positive, require_temperatures
from configs.extraction import check_mode
from configs.heldout import Decoding, HeldOutSampling
from configs.heldout_task import HeldOutTaskConfig
from configs.sampling import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """A Pass@k measurement of one or more policies on the held-out prompts."""

    checkpoints: list[str] = field(default_factory=list)
    """Policies to measure, each as `name=directory` or `directory`: of a Hugging Face policy, of a checkpoint, or of a
    run, whose last checkpoint it is; or a name on the Hub, `org/name[@revision]`. Without a run on the command line
    the first one is the base, and the default is `policy.path`. With one its starting policy is the base, unless an
    item is named `base`; `last`, `best`, a step or `step-000100` is a checkpoint of it, and the default is its last
    one. Several checkpoints of it are `all`, `every:100` (those whose step is a multiple), and `100..500`, `100..`
    or `..500` (those between two steps)."""
    answers: int = 128
    """Answers per held-out prompt, n of the unbiased Pass@k estimator."""
    ks: list[int] = field(default_factory=lambda: [1, 4, 16, 64, 128])
    """Values of k for Pass@k, each at most `answers`. With fewer answers the default ends there: 1, 4 and 8 for 8.
    Pass@1 is always measured."""
    headline_k: int = 0
    """The k of the report's first figure, Pass@1 against Pass@k, one of `ks`; 0: 16, or the largest of `ks` if 16 is
    not among them."""
    temperatures: list[float] = field(default_factory=list)
    """Sampling temperatures at which every policy is measured; 0 is greedy decoding. Changes are since the base at the
    first one, and the report's two answers are about the policies at the first one. Empty: `sampling.temperature`, or
    none if there are `samplings`."""
    samplings: dict[str, HeldOutSampling] = field(default_factory=dict)
    """Further ways of sampling by names of your own, such as `samplings.nucleus.top_p=0.95`. Each is an evaluation of
    its own, with the base at `frontier` under the same truncation and length limit, in a folder of its name."""
    tasks: dict[str, HeldOutTaskConfig] = field(default_factory=dict)
    """Further tasks on which every policy is measured, by names of your own, such as
    `tasks.gsm8k={name: dataset, options: {path: gsm8k.jsonl}}`. Each is an evaluation of its own, at one sampling and
    without `frontier` and `kl_to_base`, in a folder of its name."""
    extraction: str = ""
    """Which part of a response is its final answer, as `task.extraction`. Empty: that of training."""
    frontier: list[float] = field(default_factory=lambda: [1.3, 1.0, 0.8, 0.6, 0.4, 0.2, 0.0])
    """Further temperatures at which the base alone is measured: with `temperatures` they are its sharpening frontier.
    Those above 1 show what sampling it hotter gives."""
    kl_to_base: bool = True
    """Measure KL(policy || base) at the first sampling, and the map of the policies: each policy scores 16 answers of
    every policy to each prompt, in a reference role. Not measured of policies with another tokenizer than the base, nor
    where the first sampling is greedy or truncated, which has no finite KL."""
    watch: str = ""
    """A run, by directory, name or URL, that is followed while it goes on: its starting policy and each new checkpoint
    are measured, and the evaluation is written anew after each. Ends when the run has ended. Empty: `checkpoints` are
    measured."""
    watch_patience_s: float = 1800.0
    """With `watch`: seconds without a step, event or checkpoint of the run after which the evaluation ends too."""
    name: str = ""
    """Name of the evaluation, whose results are in `<run directory>/evaluations/<name>`. One that has ended is not
    replaced; one that was interrupted goes on. Empty: the date and a number, as in `2026-01-31-1`."""

    def __post_init__(self) -> None:
        require_positive(self, "answers", "watch_patience_s")
        both = bool(self.watch and self.checkpoints)
        require(not both, "checkpoints", "must be empty with evaluate.watch", self.checkpoints)
        if self.extraction:
            check_mode(self.extraction)
        require_temperatures(self.temperatures, "temperatures")
        require_temperatures(self.frontier, "frontier")
        fit_ks(self)
        known = self.headline_k in (0, 1, *self.ks)
        require(known, "headline_k", f"must be one of ks ({', '.join(map(str, self.ks))}), or 0", self.headline_k)
        for name in self.tasks:
            require(name != "run", "tasks", "must not have the name 'run', the task of the run itself", name)
        is_folder = not self.name or is_file_name(self.name)
        require(is_folder, "name", f"must be a folder name {FILE_NAME}", self.name)

    def scored(self, training: SamplingConfig) -> Decoding | None:
        """Return the sampling at which the KL to the base is measured; None if it is not."""
        first = next(iter(self.decodings(training).values()))[0]
        return first if self.kl_to_base and first.temperature > 0 and not first.truncated else None

    def decodings(self, training: SamplingConfig) -> dict[str, list[Decoding]]:
        """Return the samplings at which every policy is measured, by name, "" for that of training.

        The decodings of one name differ in temperature only.
        """
        plain = HeldOutSampling().resolved(training)
        temperatures = list(self.temperatures) or ([] if self.samplings else [training.temperature])
        found = {"": [replace(plain, temperature=t) for t in temperatures]} if temperatures else {}
        return found | {name: [sampling.resolved(training)] for name, sampling in self.samplings.items()}
