"""Mixture: the prompts of several tasks in one stream, by weight.

The stream goes in periods. Within every period each part has exactly its quota of prompts, in an order of the period's
own; so a position tells part and inner position without a look at the positions before, and a run resumes from the one
integer as with any task. The id of a prompt begins with the label of its part (see `trajectories.trajectory.domain`).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial, reduce
from math import gcd, inf
from typing import Any, TypeVar

from configs.checks import require
from configs.task import TaskConfig
from tasks.source import Source, generator
from trajectories.trajectory import Prompt

Result = TypeVar("Result")
PERIOD_LIMIT = 10_000
"""Prompts in a period. Weights that need a longer one are rounded to it."""
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
RESERVED_LABELS = ("low", "high", "replay")
"""Ends of an interval in the names of metrics, and the name of the replay loss among the objectives."""
PARTS = "task.options.parts"


@dataclass(frozen=True, kw_only=True)
class MixturePart:
    """One task of a mixture."""

    name: str = ""
    """A name of `tasks/registry.py`, any but mixture."""
    weight: float = 1.0
    """Share of the prompts, relative to the other weights."""
    options: dict[str, Any] = field(default_factory=dict)
    """The task's own options."""
    verifier: str = ""
    """Overrides the task's verifier, as `task.verifier` does for all parts."""
    label: str = ""
    """Names the part in ids and metrics; empty: its name. Letters, digits, - and _, beginning with a letter."""


@dataclass(frozen=True, kw_only=True)
class MixtureOptions:
    """`task.options` of mixture."""

    parts: list[MixturePart] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(bool(self.parts), PARTS, "must hold at least one part", self.parts)
        labels: dict[str, int] = {}
        for index, part in enumerate(self.parts):
            where = f"{PARTS}[{index}]"
            require(bool(part.name), f"{where}.name", "must be the name of a task", part.name)
            require(part.name != "mixture", f"{where}.name", "must not be a mixture (give its parts here)", part.name)
            require(0 < part.weight < inf, f"{where}.weight", "must be above 0 and finite", part.weight)
            label = part.label or part.name
            rule = "must be letters, digits, - and _, begin with a letter, and not be low, high or replay"
            fits = LABEL.fullmatch(label) is not None and label not in RESERVED_LABELS
            require(fits, f"{where}.label", rule, label)
            rule = f"must differ from that of part {labels.get(label)} (labels name parts in ids and metrics)"
            require(label not in labels, f"{where}.label", rule, label)
            labels[label] = index


class Mixture:
    """A Source that takes its prompts from several; ids read `<label>/<id within the part>`."""

    def __init__(self, options: MixtureOptions, seed: int, build: Callable[[TaskConfig, int], Source]) -> None:
        """`build` makes the part's own Source. Raises ValueError naming the part on what a part refuses."""
        self.parts = options.parts
        self.seed = seed
        self._sources = [
            _of_part(
                index, partial(build, TaskConfig(name=part.name, options=part.options, verifier=part.verifier), seed)
            )
            for index, part in enumerate(self.parts)
        ]
        self._quotas = quotas([part.weight for part in self.parts])
        self._turns: tuple[int, list[tuple[int, int]]] = (-1, [])

    def prompt(self, position: int) -> Prompt:
        part, inner = self._place(position)
        return self._named(part, position, self._sources[part].prompt(inner))

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        part, inner = self._place(position)
        prompt, answer = _of_part(part, partial(self._sources[part].demonstration, inner))
        return self._named(part, position, prompt), answer

    def heldout(self, count: int) -> list[Prompt]:
        """The parts' own held-out problems, interleaved by weight in an order that is fixed for every seed."""
        turns = interleaved(self._quotas, count)
        lists = [
            iter(_of_part(part, partial(source.heldout, turns.count(part))))
            for part, source in enumerate(self._sources)
        ]
        return [self._named(part, index, next(lists[part])) for index, part in enumerate(turns)]

    def _place(self, position: int) -> tuple[int, int]:
        """Part of a position of the train stream, and the position within that part's own stream."""
        require(position >= 0, "position", "must not be negative", position)
        period, turn = divmod(position, sum(self._quotas))
        if self._turns[0] != period:
            self._turns = (period, _turns(self._quotas, self.seed, period))
        part, rank = self._turns[1][turn]
        return part, period * self._quotas[part] + rank

    def _named(self, part: int, position: int, prompt: Prompt) -> Prompt:
        inner = prompt.id.removeprefix(f"{self.parts[part].name}/")
        return replace(prompt, id=f"{self.parts[part].label or self.parts[part].name}/{inner}", position=position)


def quotas(weights: Sequence[float]) -> list[int]:
    """Prompts of each part in a period: exactly in proportion to the weights where that takes at most `PERIOD_LIMIT`.

    Otherwise to the nearest ten-thousandth, largest remainders first, at least one each.
    """
    exact = [Fraction(repr(weight)) for weight in weights]
    scale = Fraction(1) / reduce(_common, exact)
    counts = [int(weight * scale) for weight in exact]
    if sum(counts) <= PERIOD_LIMIT:
        return counts
    shares = [weight * PERIOD_LIMIT / sum(exact) for weight in exact]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda part: (counts[part] - shares[part], part))
    for part in by_remainder[: PERIOD_LIMIT - sum(counts)]:
        counts[part] += 1
    return [max(count, 1) for count in counts]


def interleaved(counts: Sequence[int], length: int) -> list[int]:
    """Parts in turn: at each turn the one that is furthest behind its share, so every beginning is in proportion."""
    taken = [0] * len(counts)
    turns = []
    for turn in range(1, length + 1):
        part = max(range(len(counts)), key=lambda part: (turn * counts[part] - taken[part] * sum(counts), -part))
        taken[part] += 1
        turns.append(part)
    return turns


def _common(one: Fraction, other: Fraction) -> Fraction:
    """The largest number that both are whole multiples of."""
    bottom = one.denominator * other.denominator
    return Fraction(gcd(one.numerator * other.denominator, other.numerator * one.denominator), bottom)


def _turns(counts: Sequence[int], seed: int, period: int) -> list[tuple[int, int]]:
    """Part and rank within that part, for each turn of a period."""
    order = [part for part, count in enumerate(counts) for _ in range(count)]
    generator(seed, "mixture", "period", period).shuffle(order)
    ranks = [0] * len(counts)
    turns = []
    for part in order:
        turns.append((part, ranks[part]))
        ranks[part] += 1
    return turns


def _of_part(index: int, call: Callable[[], Result]) -> Result:
    """What the call returns; a refusal names the part it comes from."""
    try:
        return call()
    except ValueError as error:
        rest = str(error).removeprefix("task")
        raise ValueError(f"{PARTS}[{index}]{rest if rest.startswith('.') else f': {error}'}") from None
