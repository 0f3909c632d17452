"""Split a batch into updates, ranks and microbatches; no trajectory is split, and every part carries the totals."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from trajectories.batch import Batch, with_own_totals
from trajectories.trajectory import ROUTES


def plan(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Which trajectories share a microbatch: at most `token_budget` padded tokens each, similar lengths together.

    A trajectory longer than the budget is a microbatch of its own.
    """
    parts: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if not parts or lengths[i] * (len(parts[-1]) + 1) > token_budget:
            parts.append([])
        parts[-1].append(i)
    return parts


def divide(batch: Batch, ranks: int, token_budget: int) -> list[list[list[int]]]:
    """Which trajectories are in each microbatch of each rank, [rank][microbatch], in equal numbers of microbatches.

    Large microbatches are halved until the ranks share them evenly; where trajectories run out, some are empty. No rank
    has more stored answers than another by more than one microbatch holds.
    """
    lengths, order = batch.lengths.tolist(), _interleaved(batch)
    apart = set((batch.route != ROUTES.index("explore")).nonzero().flatten().tolist())

    def padded_tokens(part: list[int]) -> int:
        return len(part) * lengths[part[-1]]

    def stored(part: list[int]) -> int:
        return len(apart.intersection(part))

    parts = [[order[i] for i in part] for part in plan([lengths[i] for i in order], token_budget)]
    while len(parts) % ranks and max(len(part) for part in parts) > 1:
        largest = max((part for part in parts if len(part) > 1), key=padded_tokens)
        parts.remove(largest)
        parts += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    parts.sort(key=padded_tokens, reverse=True)
    parts += [[] for _ in range(-len(parts) % ranks)]
    shares: list[list[list[int]]] = [[] for _ in range(ranks)]
    for start in range(0, len(parts), ranks):
        fewest = sorted(shares, key=lambda share: sum(map(stored, share)))
        most = sorted(parts[start : start + ranks], key=stored, reverse=True)
        for share, part in zip(fewest, most, strict=True):
            share.append(part)
    return shares


def _interleaved(batch: Batch) -> list[int]:
    """All trajectories, so that among those of one length each route is spread evenly."""
    kinds = list(zip(batch.lengths.tolist(), batch.route.tolist(), strict=True))
    sizes, seen, places = Counter(kinds), Counter[tuple[int, int]](), []
    for kind in kinds:
        places.append((seen[kind] + 0.5) / sizes[kind])
        seen[kind] += 1
    return sorted(range(len(kinds)), key=places.__getitem__)


def microbatches(batch: Batch, divided: Sequence[Sequence[Sequence[int]]]) -> list[list[Batch]]:
    """The parts of a batch that `divide` named; an empty one is a trajectory with its mask cleared, so that every rank
    has as many forward passes, hence collectives, as the others."""
    idle = batch.select([int(batch.lengths.argmin())])
    idle = replace(idle, mask=torch.zeros_like(idle.mask))
    return [[batch.select(part) if part else idle for part in parts] for parts in divided]


def partition(batch: Batch, ranks: int, token_budget: int) -> list[list[Batch]]:
    """Split into microbatches and deal them to `ranks`."""
    return microbatches(batch, divide(batch, ranks, token_budget))


def deal(batch: Batch, parts: int) -> list[Batch]:
    """Deal whole groups, and the stored answers, into `parts` batches for successive updates.

    Each part is a batch of its own: its totals are its own.
    """
    if parts == 1:
        return [batch]
    order = sorted(range(len(batch.group)), key=lambda i: (int(batch.group[i]) < 0, int(batch.group[i])))
    groups = sorted({int(g) for g in batch.group if g >= 0})
    hands: list[list[int]] = [[] for _ in range(parts)]
    for turn, i in enumerate(order):
        group = int(batch.group[i])
        hands[(groups.index(group) if group >= 0 else turn) % parts].append(i)
    dealt = [batch.select(sorted(hand)) for hand in hands if hand]
    return [with_own_totals(part) for part in dealt]
