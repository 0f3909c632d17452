"""The four roles as async contracts. `local.py` and `remote.py` provide them in process and over Ray."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from configs.term_weights import Certainty
from objectives.diagnostics import Stats
from trajectories.batch import Batch
from trajectories.trajectory import Grade, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationJob:
    """One prompt and the answers wanted of it. The whole group runs on one engine, so its prefix is cached once.

    Example: GenerationJob(key="train/7", prompt_id="countdown/train/7", prompt_tokens=[5, 9], seeds=(91, 92),
    temperature=1.0, max_new_tokens=16)
    """

    key: str
    """Names the job among all that are in flight (training and evaluation may share an engine)."""
    prompt_id: str
    prompt_tokens: np.ndarray
    """int32 [T]"""
    seeds: tuple[int, ...]
    """One per answer, derived from (run seed, prompt position, sample index), never from time."""
    temperature: float
    max_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One answer, handed over as soon as it ended. Its trajectory has no grade yet."""

    key: str
    trajectory: Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeTask:
    """One answer to grade. `key` names the trajectory: results are matched by it, never by order."""

    key: str
    verifier: str
    problem: Mapping[str, Any]
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsInfo:
    """What a host weight payload holds, in order; sent once before the first update."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    """torch name, e.g. "float32"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWeights:
    """All weights of one version end to end as bytes, and a checksum of them when asked for."""

    version: int
    data: np.ndarray
    """uint8 [bytes]"""
    checksum: int | None = None
    """crc32 of `data`; generators refuse a payload that does not match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What a divergence term needs of its anchor besides log-probs: a number [N] from the whole distributions.

    Example: Column(term="divergence", reference="reference", kind="certainty", temperature=4.0)
    """

    term: str
    reference: str
    kind: Literal["reweighted", "certainty"]
    """The table of `Batch` it goes into, under the name of the term; reweighted reads `Batch.power`."""
    certainty: Certainty = "negentropy"
    temperature: float = 0.0
    """Of the distribution whose certainty it is; 0: that of sampling."""


class Generator(Protocol):
    """Samples answers. Jobs run in the background; `collect` hands over what has finished."""

    async def submit(self, jobs: Sequence[GenerationJob]) -> None: ...

    async def collect(self, wait_s: float) -> list[Finished]:
        """Answers finished since the last call; waits at most `wait_s` seconds for the first. Raises what the
        engine raised."""
        ...

    async def init_weights(self, info: WeightsInfo) -> None: ...

    async def update_weights(self, weights: HostWeights) -> int:
        """Load the weights between two decoding steps and return the version now served. Repeating a version is
        harmless; going back is an error."""
        ...

    async def close(self) -> None: ...


class Grader(Protocol):
    """Judges answers; never raises on what an answer holds."""

    async def prove(self, verifiers: Sequence[str]) -> dict[str, int]:
        """Test these verifiers before the first answer; the isolation level of each that has one. Raises RuntimeError
        when one judges wrongly, ValueError when the level demanded is not reached."""
        ...

    async def grade(self, tasks: Sequence[GradeTask]) -> dict[str, Grade]:
        """Exactly one grade for every task, by key."""
        ...

    async def stats(self) -> dict[str, float]: ...

    async def close(self) -> None: ...


class Reference(Protocol):
    """A frozen policy that scores tokens others generated."""

    async def score(
        self,
        batch: Batch,
        names: Sequence[str] = ("reference",),
        hidden: Sequence[str] = (),
        columns: Sequence[Column] = (),
    ) -> Batch:
        """Fill the log-probs of the references `names` on explored trajectories: `logp_reference` of the main one,
        where stored values of rehearsed trajectories stay, and `anchors` of the others; the final hidden states of
        the references `hidden`; and `columns` on explored trajectories."""
        ...

    async def move(self, name: str, info: WeightsInfo, weights: Any, share: float) -> None:
        """Take the reference so far towards the weights (HostWeights, or a Ray reference to them) of a learner."""
        ...

    async def save(self, folder: str) -> None: ...

    async def load(self, folder: str) -> None: ...

    async def close(self) -> None: ...


class Learner(Protocol):
    """The policy being trained."""

    async def score(self, batch: Batch) -> Batch:
        """Fill what the policy says of the batch before its first update: `logp_old`, `entropy_old`, `distance` of the
        divergence terms whose weights ask for it, and `value_old` where there is a critic."""
        ...

    async def update(self, batch: Batch, coefficients: Mapping[str, float]) -> Stats:
        """One optimizer step (or several, if configured) on the whole batch; `coefficients` of the divergence terms."""
        ...

    async def connect(self, generators: Sequence[Generator]) -> None:
        """Agree with the generators on what will be published; once, before the first `publish`."""
        ...

    async def publish(self, version: int) -> None:
        """Every connected generator serves these weights as `version` when this returns."""
        ...

    async def lead(self, reference: Reference, name: str, share: float) -> None:
        """Have the reference follow: share * policy + (1 - share) * reference, from float32 weights."""
        ...

    async def save(self, folder: str) -> None:
        """Write policy, tokenizer and optimizer state so that `load` continues bit for bit."""
        ...

    async def load(self, folder: str) -> None: ...

    async def close(self) -> None: ...
