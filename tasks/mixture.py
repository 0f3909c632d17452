"""Mixture: one stream of prompts from several tasks, its domains, by weight.

The train stream consists of periods. Every period holds an exact number of prompts of each domain, its quota, in an
order that differs from period to period. A position therefore determines the domain, and the position in the domain's
own stream, without reference to earlier positions; a run resumes from the one position, as with any task. The id of a
prompt begins with its domain (see `trajectories.trajectory.domain`).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import reduce
from math import gcd, inf
from typing import Any

from configs.checks import require
from configs.extraction import RULE, STRICT, is_mode
from configs.task import TaskConfig
from tasks.options import VERIFIER, settings_named
from tasks.source import ListedPrompt, ListedSource, Source, generator
from trajectories.trajectory import Prompt

PERIOD_LIMIT = 10_000
"""Largest number of prompts in a period. Weights that need a longer one are rounded."""
DOMAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
RESERVED = ("low", "high", "replay")
"""Not allowed as names of domains. Metric names use low and high for the ends of an interval, and replay for the
weight of the replay loss."""
DOMAINS = "task.options.domains"


@dataclass(frozen=True, kw_only=True)
class MixtureDomain:
    """One task of a mixture."""

    name: str = ""
    """A name of `tasks/registry.py`, any but mixture."""
    weight: float = 1.0
    """Number of prompts, relative to the weights of the other domains."""
    options: dict[str, Any] = field(default_factory=dict)
    """The task's own options."""
    verifier: str = field(default="", metadata=VERIFIER)
    """Overrides the task's verifier, as `task.verifier` does for all domains."""
    extraction: str = STRICT
    """Extraction mode of this domain, as `task.extraction`, which overrides it for all domains unless it is strict."""
    domain: str = ""
    """Name of the domain in ids and metrics: letters, digits, - and _, beginning with a letter. Empty: the task's
    name."""


@dataclass(frozen=True, kw_only=True)
class MixtureOptions:
    """`task.options` of mixture."""

    domains: list[MixtureDomain] = field(default_factory=list)
    """The domains, each with the keys `name` (a task), `domain`, `weight`, `options` and `verifier`."""

    def __post_init__(self) -> None:
        require(bool(self.domains), DOMAINS, "must hold at least one domain", self.domains)
        seen: dict[str, int] = {}
        for index, one in enumerate(self.domains):
            where = f"{DOMAINS}[{index}]"
            require(bool(one.name), f"{where}.name", "must be the name of a task", one.name)
            rule = "must not be a mixture (list its domains here)"
            require(one.name != "mixture", f"{where}.name", rule, one.name)
            require(is_mode(one.extraction), f"{where}.extraction", RULE, one.extraction)
            require(0 < one.weight < inf, f"{where}.weight", "must be above 0 and finite", one.weight)
            domain = one.domain or one.name
            rule = f"must be letters, digits, - and _, begin with a letter, and be none of {', '.join(RESERVED)}"
            allowed = DOMAIN.fullmatch(domain) is not None and domain not in RESERVED
            require(allowed, f"{where}.domain", rule, domain)
            rule = f"must differ from that of domains[{seen.get(domain)}], because ids and metrics are named by it"
            require(domain not in seen, f"{where}.domain", rule, domain)
            seen[domain] = index


class Mixture:
    """A Source that takes its prompts from the sources of its domains. Ids are `<domain>/<id within the task>`."""

    def __init__(self, options: MixtureOptions, seed: int, build: Callable[[TaskConfig, int], Source]) -> None:
        """Make the sources of all domains.

        Args:
            build: makes the Source of a domain; `tasks.registry.build`, which this module cannot import.

        Raises:
            ValueError: a domain's task refuses its options; names the domain.
        """
        self.domains = options.domains
        self.seed = seed
        self._sources: list[Source] = []
        for index, one in enumerate(self.domains):
            with _errors_name_domain(index):
                config = TaskConfig(
                    name=one.name, options=one.options, verifier=one.verifier, extraction=one.extraction
                )
                self._sources.append(build(config, seed))
        self._quotas = quotas([one.weight for one in self.domains])
        self._period: tuple[int, list[tuple[int, int]]] = (-1, [])

    def prompt(self, position: int) -> Prompt:
        index, inner = self._place(position)
        return self._renamed(index, position, self._sources[index].prompt(inner))

    def demonstration(self, position: int) -> tuple[Prompt, str]:
        index, inner = self._place(position)
        with _errors_name_domain(index):
            prompt, answer = self._sources[index].demonstration(inner)
        return self._renamed(index, position, prompt), answer

    def heldout(self, count: int) -> list[Prompt]:
        """Return held-out prompts of all domains, interleaved by weight in an order that is the same for every seed."""
        order = interleaved(self._quotas, count)
        prompts: list[Iterator[Prompt]] = []
        for index, source in enumerate(self._sources):
            with _errors_name_domain(index):
                prompts.append(iter(source.heldout(order.count(index))))
        return [self._renamed(index, position, next(prompts[index])) for position, index in enumerate(order)]

    def listed(self) -> Iterator[ListedPrompt]:
        for index, source in enumerate(self._sources):
            for one in source.listed() if isinstance(source, ListedSource) else ():
                yield replace(one, prompt=self._renamed(index, one.prompt.position, one.prompt))

    def _place(self, position: int) -> tuple[int, int]:
        """Return the domain at a position of the train stream, and the position in the domain's own stream."""
        require(position >= 0, "position", "must not be negative", position)
        period, offset = divmod(position, sum(self._quotas))
        if self._period[0] != period:
            self._period = (period, _period_order(self._quotas, self.seed, period))
        index, count = self._period[1][offset]
        return index, period * self._quotas[index] + count

    def _renamed(self, index: int, position: int, prompt: Prompt) -> Prompt:
        one = self.domains[index]
        inner = prompt.id.removeprefix(f"{one.name}/")
        return replace(prompt, id=f"{one.domain or one.name}/{inner}", position=position)


def quotas(weights: Sequence[float]) -> list[int]:
    """Return the number of prompts of each domain in a period.

    The quotas are the smallest whole numbers in the exact ratio of the weights, if they sum to at most `PERIOD_LIMIT`.
    Otherwise the fractions of the weights are rounded to multiples of 1 / PERIOD_LIMIT by largest remainder, and every
    domain gets at least one prompt.
    """
    exact = [Fraction(repr(weight)) for weight in weights]
    scale = Fraction(1) / reduce(_common_divisor, exact)
    counts = [int(weight * scale) for weight in exact]
    if sum(counts) <= PERIOD_LIMIT:
        return counts
    ideal = [weight * PERIOD_LIMIT / sum(exact) for weight in exact]
    counts = [int(count) for count in ideal]
    by_remainder = sorted(range(len(ideal)), key=lambda index: (counts[index] - ideal[index], index))
    for index in by_remainder[: PERIOD_LIMIT - sum(counts)]:
        counts[index] += 1
    return [max(count, 1) for count in counts]


def interleaved(counts: Sequence[int], length: int) -> list[int]:
    """Return `length` domain indices in an order of which every beginning has the proportions of `counts`.

    Each place goes to the domain whose number so far is furthest below its proportional number.
    """
    taken = [0] * len(counts)
    order = []
    for place in range(1, length + 1):
        index = max(range(len(counts)), key=lambda index: (place * counts[index] - taken[index] * sum(counts), -index))
        taken[index] += 1
        order.append(index)
    return order


def _common_divisor(one: Fraction, other: Fraction) -> Fraction:
    """Return the largest number of which both are whole multiples."""
    bottom = one.denominator * other.denominator
    return Fraction(gcd(one.numerator * other.denominator, other.numerator * one.denominator), bottom)


def _period_order(counts: Sequence[int], seed: int, period: int) -> list[tuple[int, int]]:
    """Return the domain index of each place of a period, and how many places of that domain come before it."""
    shuffled = [index for index, count in enumerate(counts) for _ in range(count)]
    generator(seed, "mixture", "period", period).shuffle(shuffled)
    before = [0] * len(counts)
    order = []
    for index in shuffled:
        order.append((index, before[index]))
        before[index] += 1
    return order


@contextmanager
def _errors_name_domain(index: int) -> Iterator[None]:
    """Make a ValueError of a domain's source name the domain's settings."""
    where = f"{DOMAINS}[{index}]"
    try:
        with settings_named(f"{where}.name", f"{where}.options"):
            yield
    except ValueError as error:
        words = str(error).replace("task.heldout_prompts: must", f"task.heldout_prompts: those of {where} must", 1)
        words = words.replace("task.extraction:", f"{where}.extraction:", 1)
        raise ValueError(words if where in words else f"{where}: {words}") from None
