"""Source: where problems come from. A train stream by position, a held-out list, worked solutions where known."""

import hashlib
import random
from typing import Protocol

from trajectories.trajectory import Prompt


class Source(Protocol):
    """Problems of one task. Train and held-out problems are disjoint by construction."""

    def prompt(self, position: int) -> Prompt:
        """The problem at a position (0 or above) of the endless train stream; a pure function of (seed, position)."""
        ...

    def heldout(self, count: int) -> list[Prompt]:
        """The first `count` held-out problems, the same for every seed, so that runs can be compared. Raises
        ValueError naming `task.heldout_prompts` if there are fewer."""
        ...

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        """A train problem and a random valid answer to it. Raises ValueError if the task knows none."""
        ...


def digest(text: str) -> int:
    """64 bits that depend on the text alone: the same in every process, on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def generator(*place: object) -> random.Random:
    """A random generator fixed by its place, such as (seed, stream, position)."""
    return random.Random(digest("/".join(map(str, place))))
