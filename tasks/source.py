"""Source: the problems of a task, as an endless train stream, a held-out list, and right answers where known."""

import hashlib
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from configs.checks import require
from trajectories.trajectory import Prompt

Item = TypeVar("Item")
HELDOUT_FRACTION = 1 / 8
"""Fraction of the problems of a synthetic task that is held out."""
MAX_REPEATS = 2_000
"""Consecutive draws without a new item after which `distinct` stops."""


class Source(Protocol):
    """Problems of one task. No problem is both in the train stream and held out."""

    def prompt(self, position: int) -> Prompt:
        """Return the problem at a position (0 or above) of the endless train stream. Seed and position determine it."""
        ...

    def heldout(self, count: int) -> list[Prompt]:
        """Return the first `count` held-out problems. They are the same for every seed, so that runs can be compared.

        Raises:
            ValueError: there are fewer; names `task.heldout_prompts`.
        """
        ...

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        """Return the train problem at a position and a right answer to it, drawn at random if several are known.

        Raises:
            ValueError: the task has no right answers.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedPrompt:
    """A prompt that was read from a file, and its origin."""

    prompt: Prompt
    file: Path
    line: int
    """Line of a jsonl file; in other files the index of the row, from 1."""
    columns: Mapping[str, str]
    """Column of the file by field of the problem, where the names differ."""

    @property
    def where(self) -> str:
        """File and line, for errors."""
        return f"{self.file}, line {self.line}"


@runtime_checkable
class ListedSource(Protocol):
    """A Source that has all of its problems, or some, from files."""

    def listed(self) -> Iterator[ListedPrompt]:
        """Yield every problem of a file once, the held-out ones too."""
        ...


class EvaluationOnly(ValueError):
    """A task has held-out prompts only, and none to train on."""


def evaluation_only(name: str, path: str) -> str:
    """Return the error of training on a task that is for evaluation only.

    Args:
        path: its held-out rows.
    """
    return (
        f"task.options.path: must name rows to train on; {name} has rows for evaluation only, and what is measured on "
        f"problems that a policy was trained on means nothing. To train on them nevertheless: task.options.path={path} "
        "task.options.heldout_path=''"
    )


def first_prompts(source: Source, count: int) -> list[Prompt]:
    """Return the first prompts of the train stream; of a task without one, the first held-out prompt."""
    try:
        return [source.prompt(position) for position in range(count)]
    except EvaluationOnly:
        return source.heldout(1)


def digest(text: str) -> int:
    """Return a 64-bit hash of the text, the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def held_out(problem: str) -> bool:
    """Return whether a problem is held out: one in eight, by a hash of the text that identifies it.

    No seed trains on a problem that another seed measures.
    """
    return digest(problem) < HELDOUT_FRACTION * 2**64


def generator(*key: object) -> random.Random:
    """Return a random generator seeded by its arguments, for example seed, stream and position."""
    return random.Random(digest("/".join(map(str, key))))


def distinct(
    draws: Iterator[Item], key: Callable[[Item], Hashable], count: int, found: Sequence[Item] = ()
) -> list[Item]:
    """Return `found` and the first draws with new keys, `count` items in all.

    Fewer are returned after `MAX_REPEATS` consecutive draws without a new key: probably no other key exists.
    """
    items, keys, repeats = list(found), {key(item) for item in found}, 0
    while len(items) < count and repeats < MAX_REPEATS:
        item = next(draws)
        repeats = repeats + 1 if key(item) in keys else 0
        if not repeats:
            keys.add(key(item))
            items.append(item)
    return items


def require_heldout(found: int, count: int) -> None:
    """Raise ValueError if the options of a task admit only `found` held-out problems, fewer than `count`."""
    rule = f"must be at most the {found} held-out problems that fit task.options"
    require(found >= count, "task.heldout_prompts", rule, count)
