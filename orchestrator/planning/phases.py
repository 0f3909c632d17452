"""What a memory plan consists of: bytes by part, in each phase of a step, on each kind of GPU and host."""

from collections.abc import Mapping
from dataclasses import dataclass

GB = 1e9
"""Bytes of the unit in which memory is printed."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """What is known of the smallest host with GPUs."""

    memory: float = 0.0
    """Bytes; 0: unknown."""
    gpus: int = 8


UNKNOWN = Host()
"""Hosts elsewhere: of 8 GPUs, with enough memory."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Bytes that exist at the same time, at the moment of a phase at which they are most."""

    name: str
    parts: Mapping[str, float]
    """Bytes by part; parts of 0 bytes are left out."""

    @property
    def bytes(self) -> float:
        """The sum of the parts."""
        return sum(self.parts.values())

    def plus(self, others: Mapping[str, float]) -> "Phase":
        """Return the phase with further parts."""
        return phase(self.name, {**self.parts, **others})


def phase(name: str, parts: Mapping[str, float]) -> Phase:
    """Return a phase without its empty parts."""
    return Phase(name=name, parts={part: size for part, size in parts.items() if size})


@dataclass(frozen=True, kw_only=True)
class Place:
    """Memory of one GPU, or of one host, of which there are `count` alike."""

    name: str
    """The roles on it."""
    count: int
    capacity: float
    """Bytes; 0: unknown, as of a host elsewhere."""
    phases: tuple[Phase, ...]

    @property
    def peak(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda one: one.bytes)

    @property
    def fits(self) -> bool:
        """Whether the peak is at most the capacity, if that is known."""
        return not self.capacity or self.peak.bytes <= self.capacity


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Memory of a run, before it starts."""

    gpus: tuple[Place, ...]
    hosts: tuple[Place, ...]
    key_values_per_token: float
    """Bytes of one token's keys and values on one GPU of a generator."""
    key_values: float
    """Bytes for keys and values on one GPU of a generator; negative: the weights alone do not fit."""
    longest: int
    """Most tokens of a prompt and its answer."""
    max_sequences: int
    """`generator.max_sequences`."""

    @property
    def sequences(self) -> int:
        """Longest sequences whose keys and values one generator holds at a time."""
        return max(0, int(self.key_values // (self.key_values_per_token * self.longest)))

    @property
    def shortest(self) -> "Place | None":
        """The GPU that lacks most, or None if all fit."""
        lacking = [place for place in self.gpus if not place.fits]
        return max(lacking, key=lambda place: place.peak.bytes - place.capacity, default=None)

    @property
    def fits(self) -> bool:
        """Whether every GPU and host holds its peak, and every generator at least one of the longest sequences."""
        return self.shortest is None and self.sequences > 0 and all(host.fits for host in self.hosts)
