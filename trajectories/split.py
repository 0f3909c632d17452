"""Split a batch into updates, the parts of learner ranks, and microbatches.

Every trajectory stays whole. Microbatches carry the totals of the batch that `divide` or `partition` splits, so their
losses sum to the loss of that batch. `deal` makes a batch with its own totals for each update.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from trajectories.batch import Batch, with_own_totals
from trajectories.shared_prefixes import Row, shared_rows
from trajectories.trajectory import ROUTES

MICROBATCH_COST = 512
"""Tokens whose forward and backward pass takes as long as what a further microbatch costs besides its tokens."""


def plan(widths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group rows of similar width into microbatches so that they cost least.

    A microbatch costs its padded tokens and MICROBATCH_COST. Rows of one width stay together as far as the budget
    allows.

    Args:
        widths: columns of each row.
        token_budget: the largest number of padded tokens (rows times the width of the widest) of a microbatch. A row
            wider than the budget is a microbatch of its own.

    Returns:
        The row indices of each microbatch, by ascending width.
    """
    order = sorted(range(len(widths)), key=lambda i: (widths[i], i))
    ends = [n + 1 for n, i in enumerate(order) if n + 1 == len(order) or widths[order[n + 1]] != widths[i]]
    columns = np.cumsum([0, *(widths[i] for i in order)]).tolist()
    # best[end] = (cost of the first `end` rows, start of their last part), over all cuts where the width changes.
    best = {0: (0.0, 0)}
    for last, end in enumerate(ends):
        width = widths[order[end - 1]]
        for start in itertools.chain(map(ends.__getitem__, range(last - 1, -1, -1)), [0]):
            count = end - start
            padding = count * width - (columns[end] - columns[start])
            cost = best[start][0] + count * width + MICROBATCH_COST * math.ceil(count / max(token_budget // width, 1))
            if end not in best or cost < best[end][0]:
                best[end] = (cost, start)
            # The padding is the sum over j of d_j, by which the jth row is narrower than the widest. It is at most
            # max_j (j d_j) times 1 + log(count), and a cut behind row j saves j d_j, with more rows before it too.
            if padding > MICROBATCH_COST * (1 + math.log(count)):
                break
    parts: list[list[int]] = []
    end = len(order)
    while end:
        start = best[end][1]
        parts.append(order[start:end])
        end = start
    return [micro for part in reversed(parts) for micro in _filled(part, widths, token_budget)]


def _filled(order: Sequence[int], widths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Divide rows of ascending width into microbatches, each as full as the budget allows."""
    filled: list[list[int]] = []
    for i in order:
        if not filled or widths[i] * (len(filled[-1]) + 1) > token_budget:
            filled.append([])
        filled[-1].append(i)
    return filled


def divide(batch: Batch, ranks: int, token_budget: int, linear_width: float = 0.0) -> list[list[list[int]]]:
    """Assign every trajectory to a microbatch of one of `ranks` learner ranks.

    Trajectories that share a row stay together. All ranks get the same number of microbatches: the largest are halved
    until their number is a multiple of `ranks`, and where every microbatch is a single row, empty ones are added. The
    numbers of stored answers of two ranks differ by at most the number in one microbatch. Trajectories that need no
    scores (`Batch.in_loss`) are in the first microbatch.

    Args:
        linear_width: of the policy, see `shared_rows`.

    Returns:
        Trajectory indices, [rank][microbatch].
    """
    scored, unscored = _by_need(batch)
    sequences = batch.sequences
    found = shared_rows([sequences[i] for i in scored], linear_width, token_budget)
    explored = (batch.route == ROUTES.index("explore")).tolist()
    rows = _interleaved([Row([scored[i] for i in row.members], row.width) for row in found], explored)
    planned = [[rows[i] for i in microbatch] for microbatch in plan([row.width for row in rows], token_budget)]
    planned = _halved(planned, ranks)
    planned.sort(key=_padded_tokens, reverse=True)
    planned += [[] for _ in range(-len(planned) % ranks if planned else ranks)]
    rank_parts: list[list[list[int]]] = [[] for _ in range(ranks)]
    stored = [0] * ranks
    # Of every `ranks` microbatches of similar size, the rank with the fewest stored answers gets the one with the most.
    for start in range(0, len(planned), ranks):
        members = [[i for row in microbatch for i in row.members] for microbatch in planned[start : start + ranks]]
        of_each = [sum(not explored[i] for i in indices) for indices in members]
        fewest_first = sorted(range(ranks), key=stored.__getitem__)
        most_first = sorted(range(ranks), key=of_each.__getitem__, reverse=True)
        for rank, microbatch in zip(fewest_first, most_first, strict=True):
            rank_parts[rank].append(members[microbatch])
            stored[rank] += of_each[microbatch]
    rank_parts[0][0] += unscored
    return rank_parts


def _padded_tokens(microbatch: Sequence[Row]) -> int:
    return len(microbatch) * microbatch[-1].width


def _halved(planned: list[list[Row]], ranks: int) -> list[list[Row]]:
    """Halve the largest microbatches of several rows until their number is a multiple of `ranks`, or none is left."""
    while len(planned) % ranks:
        several = [n for n, microbatch in enumerate(planned) if len(microbatch) > 1]
        if not several:
            break
        largest = planned.pop(max(several, key=lambda n: _padded_tokens(planned[n])))
        planned += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    return planned


def _by_need(batch: Batch) -> tuple[list[int], list[int]]:
    """Return the trajectories that the learner must score, and the others."""
    if batch.in_loss is None:
        return list(range(len(batch.route))), []
    return batch.in_loss.nonzero().flatten().tolist(), (~batch.in_loss).nonzero().flatten().tolist()


def _interleaved(rows: Sequence[Row], explored: Sequence[bool]) -> list[Row]:
    """Order all rows so that those with equally many stored answers are spread evenly among the rows of one width.

    Args:
        explored: bool [B], whether each trajectory is on the route explore.
    """
    kinds = [(row.width, sum(not explored[i] for i in row.members)) for row in rows]
    sizes, seen, places = Counter(kinds), Counter[tuple[int, int]](), []
    for kind in kinds:
        places.append((seen[kind] + 0.5) / sizes[kind])
        seen[kind] += 1
    return [rows[i] for i in sorted(range(len(kinds)), key=places.__getitem__)]


@dataclass(frozen=True)
class Microbatches(Sequence[Batch]):
    """The microbatches of one rank, each with the totals of the batch that was split.

    They are one batch until they are read, so that they travel as one message.
    """

    batch: Batch
    """The trajectories of all microbatches, in their order."""
    counts: Sequence[int]
    """Number of trajectories of each microbatch."""

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: Any) -> Any:
        return self.batch.cut(self.counts)[index]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batch.cut(self.counts))


def microbatches(batch: Batch, divided: Sequence[Sequence[Sequence[int]]]) -> list[Microbatches]:
    """Return the microbatches of each rank that `divide` assigned, each with the totals of `batch`.

    An empty microbatch becomes the shortest trajectory of the batch with its mask cleared: every rank must run the same
    number of forward passes, because each of them contains collectives. The empty microbatches of a rank are its last.
    """
    shortest = int(batch.lengths.argmin())
    return [_arranged(batch, rank_part, shortest) for rank_part in divided]


def _arranged(batch: Batch, rank_part: Sequence[Sequence[int]], shortest: int) -> Microbatches:
    indices = [i for part in rank_part for i in part]
    empty = sum(not part for part in rank_part)
    assert not any(rank_part[len(rank_part) - empty :]), "empty microbatches are last"
    arranged = batch.select(indices + empty * [shortest])
    if empty:
        trained = int(arranged.lengths[: len(indices)].sum())
        arranged = replace(arranged, mask=arranged.mask & (torch.arange(len(arranged.mask)) < trained))
    return Microbatches(arranged, tuple(len(part) or 1 for part in rank_part))


def partition(batch: Batch, ranks: int, token_budget: int, linear_width: float = 0.0) -> list[Microbatches]:
    """Return the microbatches of each rank: `divide`, then `microbatches`."""
    return microbatches(batch, divide(batch, ranks, token_budget, linear_width))


def deal(batch: Batch, updates: int) -> list[Batch]:
    """Split a batch into one batch for each of `updates` successive optimizer updates.

    Groups stay whole. Groups and stored answers go to the updates in turn; an update that gets none is left out.

    Returns:
        At most `updates` batches, each with its own totals.
    """
    if updates == 1:
        return [batch]
    group = batch.group.tolist()
    grouped = sum(number >= 0 for number in group)
    place = {number: place for place, number in enumerate(sorted({number for number in group if number >= 0}))}
    dealt: list[list[int]] = [[] for _ in range(updates)]
    # Stored answers take their turns behind all answers of groups.
    stored = itertools.count(grouped)
    for i, number in enumerate(group):
        dealt[(place[number] if number >= 0 else next(stored)) % updates].append(i)
    return [with_own_totals(batch.select(indices)) for indices in dealt if indices]
