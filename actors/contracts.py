"""The four roles (Generator, Grader, Reference, Learner) as async interfaces, and the messages they exchange.

`local.py` runs the roles in this process, `remote.py` in Ray actors. A ValueError is the user's fault and arrives as a
ValueError from both. From a Ray actor any other exception arrives as a RuntimeError, and so does a timeout.

Axes: N tokens of the batch, B trajectories, T tokens of one prompt, D hidden.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from actors.finished import Finished
from configs.term_weights import Certainty
from trajectories.trajectory import Grade

if TYPE_CHECKING:  # A grader's process imports this module, and needs no torch.
    from torch import Tensor

    from objectives.diagnostics import Stats
    from trajectories.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationJob:
    """One prompt, and how many answers to sample for it. The whole group runs on one engine, which computes the
    key-values of the prompt once.

    Example: GenerationJob(key="train/7", prompt_id="countdown/train/7", prompt_tokens=[5, 9], seeds=(91, 92),
    temperature=1.0, max_new_tokens=16)
    """

    key: str
    """Unique among all jobs in flight; training and evaluation may use one engine at the same time."""
    prompt_id: str
    prompt_tokens: np.ndarray
    """int32 [T]"""
    seeds: tuple[int, ...]
    """One per answer, derived from (run seed, prompt position, sample index), never from time."""
    temperature: float
    max_new_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    """Truncations, for held-out answers only: training samples the whole vocabulary. An engine applies min_p, then
    top_k, then top_p to the distribution at the temperature."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer, at the first token with which its text contains one."""
    mixture: float = 0.0
    """Share of the engine's second policy in the distribution of every token; 0: the policy's own distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeTask:
    """One answer to grade."""

    key: str
    """Key of the trajectory. Grades are matched to answers by key, never by order."""
    verifier: str
    problem: Mapping[str, Any]
    answer: str
    context: Mapping[str, Any] = field(default_factory=dict)
    """What a user verifier may be told besides; `rewards.forms.Call` describes it."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as a call: setting the fields of a frozen dataclass with slots one by one takes ten times as long."""
        return _grade_task, (self.key, self.verifier, self.problem, self.answer, self.context)


def _grade_task(
    key: str, verifier: str, problem: Mapping[str, Any], answer: str, context: Mapping[str, Any]
) -> GradeTask:
    return GradeTask(key=key, verifier=verifier, problem=problem, answer=answer, context=context)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInfo:
    """Names, shapes and dtype of the tensors in a `HostWeights`, in order. Sent once, before the first update."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    """torch name, e.g. "float32"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedMemory:
    """Where a process holds memory that others of its node can map (`actors/weights/shared_memory.py`)."""

    process: int
    descriptor: int
    name: str
    """Unique, so that no other memory is taken for it."""
    size: int
    """Bytes."""
    holds_parameters: bool = False
    """Whether the learner's parameters lie in it, so that training writes each version and nothing is left to copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWeights:
    """All weights of one version in host memory, or a piece of them: the tensors' bytes, concatenated."""

    version: int
    data: np.ndarray | None = None
    """uint8 [bytes]; None if they are in the learner's memory, which the generator has attached."""
    tensors: tuple[int, int] | None = None
    """Of a piece: the tensors from the first number up to the second, of those of `WeightsInfo`; None: all of them."""
    checksum: int | None = None
    """crc32 of `data`, or None to skip the check. A receiver raises ValueError if it does not match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A number per token [N] that a divergence term, or the mask of pairs, needs of its anchor besides log-probs.

    Example: Column(term="divergence", reference="reference", kind="certainty", temperature=4.0)
    """

    term: str
    """Name of the term; with kind activation, of the anchor."""
    reference: str
    """Name of the anchor."""
    kind: Literal["reweighted", "certainty", "activation"]
    """The dict of `Batch` that receives the column, under `term`. A reweighted column is computed from the powers in
    `Batch.power`."""
    certainty: Certainty = "negentropy"
    temperature: float = 0.0
    """Temperature of the distribution whose certainty is computed; 0: the sampling temperature."""


class Generator(Protocol):
    """Samples answers in the background, between `submit` and `collect`."""

    async def submit(self, jobs: Sequence[GenerationJob]) -> None:
        """Queue jobs and return at once.

        Raises:
            ValueError: a prompt is empty or too long, or a temperature too low. No job of the call is queued then.
        """
        ...

    async def collect(self, wait_s: float) -> Finished:
        """Return the answers that finished since the last call, in any order, as one block.

        Args:
            wait_s: longest wait for the first answer, in seconds. The block is empty if none finished by then.

        Returns:
            The block, whose `load` is the engine's of this moment, also where it has no answer.

        Raises:
            RoleLost: the engine ended with an exception, which is the cause.
            TimeoutError: answers are in flight and no token was generated for `generator.timeout_s`.
        """
        ...

    async def init_weights(self, info: WeightsInfo) -> None:
        """Set what later updates contain.

        Raises:
            ValueError: these are not the parameters of the engine's model.
        """
        ...

    async def update_weights(self, weights: HostWeights) -> int:
        """Load the weights between two decoding steps, without dropping the answers in flight.

        Args:
            weights: all, or a piece. The pieces come in the order of their tensors; nothing is decoded between them.

        Returns:
            The version now served, which changes with the last piece. Loading a version again does nothing.

        Raises:
            ValueError: the version is older than the one served, or the payload is damaged. It is not loaded.
            RuntimeError: loading failed part-way. The engine has ended.
        """
        ...

    async def close(self) -> None: ...


class Grader(Protocol):
    """Grades answers with verifiers. No text of an answer makes it raise."""

    async def prove(self, verifiers: Sequence[str]) -> dict[str, int]:
        """Run the self-test of each verifier, before it grades its first answer.

        Returns:
            The sandbox's isolation level, for each verifier that runs untrusted code.

        Raises:
            RuntimeError: a verifier gave a wrong verdict in its self-test.
            ValueError: this machine cannot reach the isolation level that `sandbox.require` demands.
        """
        ...

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        """Return exactly one grade per task, by key."""
        ...

    async def stats(self) -> dict[str, float]:
        """Return the grader's metrics since its start."""
        ...

    async def close(self) -> None: ...


class Reference(Protocol):
    """One or more frozen or slowly moving policies, by name, that score the tokens of a batch."""

    async def score(
        self,
        batch: "Batch",
        names: Sequence[str] = ("reference",),
        hidden: Sequence[str] = (),
        columns: Sequence[Column] = (),
    ) -> "Batch":
        """Return the batch with the references' outputs.

        Args:
            names: references whose log-probs of explored and imitated trajectories are computed, float32 [N]. Those of
                "reference" go to `logp_reference`, where stored values of rehearsed trajectories stay; those of the
                others go to `anchors`, where rehearsed trajectories get NaN.
            hidden: references whose final hidden states [N, D] are added to `hidden`, on these and on rehearsed
                trajectories.
            columns: further numbers per token, float32 [N], on explored and imitated trajectories; NaN elsewhere.
        """
        ...

    async def move(self, name: str, info: WeightsInfo, weights: Any, mixing_weight: float) -> None:
        """Update one reference: reference <- mixing_weight * policy + (1 - mixing_weight) * reference.

        Args:
            weights: float32 weights of the policy, a HostWeights or a Ray object reference to one.
            mixing_weight: in [0, 1]; 1 copies the policy.
        """
        ...

    async def save(self, folder: str) -> None:
        """Write the weights of the references that have moved; the others can be loaded from their directories."""
        ...

    async def load(self, folder: str) -> None: ...

    async def close(self) -> None: ...


class Learner(Protocol):
    """The policy that is trained, its optimizer, and its critic if there is one."""

    async def score(self, batch: "Batch") -> "Batch":
        """Score the batch under the weights before this step's first update, without gradient.

        Returns:
            The batch with `logp_old` and `entropy_old`, float32 [N]; `distance`, for each divergence term whose token
            weights depend on KL(policy || anchor); and `value_old`, float32 [B], if there is a critic.
        """
        ...

    async def score_references(
        self, batch: "Batch", names: Sequence[str], columns: Sequence[Column]
    ) -> "dict[str, Tensor]":
        """Score a batch, all of whose trajectories are compared with references, under those that the learner holds.

        Returns:
            Log-probs of the references `names` and the columns, float32 [N], named as in `reference_parts.outputs`.
        """
        ...

    async def update(self, batch: "Batch", coefficients: Mapping[str, float]) -> "Stats":
        """Run one training step on the batch: one optimizer update, or `learner.updates_per_batch` of them.

        Args:
            batch: with the advantages and token weights that `credit` computes.
            coefficients: coefficient of each divergence term, by name.

        Returns:
            Metrics of the whole batch as (weighted sum, weight).

        Raises:
            RuntimeError: `learner.max_skipped_in_a_row` successive updates had a non-finite loss or gradient.
        """
        ...

    async def connect(self, generators: Sequence[Generator]) -> None:
        """Prepare the weight transfer to these generators. Call it once, before the first `publish`."""

    async def publish(self, version: int) -> None:
        """Send the current weights as `version`. When this returns, every connected generator serves them."""

    async def update_reference(self, reference: Reference, name: str, mixing_weight: float) -> None:
        """Move a reference towards the policy's float32 weights, as `Reference.move` does."""
        ...

    async def save(self, folder: str) -> None:
        """Copy policy, tokenizer, critic and optimizer state, and begin to write them to `folder`. Training goes on
        meanwhile. Resumed by `load` it is identical, bit for bit."""
        ...

    async def saved(self) -> None:
        """Wait until the files of the last `save` are on disk. Raises what writing raised."""
        ...

    async def load(self, folder: str) -> None: ...

    async def close(self) -> None: ...
