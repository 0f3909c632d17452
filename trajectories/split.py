"""Split a batch into updates, the parts of learner ranks, and microbatches.

Every trajectory stays whole. Microbatches carry the totals of the batch that `divide` or `partition` splits, so their
losses sum to the loss of that batch. `deal` makes a batch with its own totals for each update.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from trajectories.batch import Batch, with_own_totals
from trajectories.trajectory import ROUTES


def plan(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Group trajectories of similar length into microbatches.

    Args:
        lengths: tokens of each trajectory.
        token_budget: the largest number of padded tokens (trajectories times the longest length) of a microbatch. A
            trajectory longer than the budget is a microbatch of its own.

    Returns:
        The trajectory indices of each microbatch, by ascending length.
    """
    planned: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if not planned or lengths[i] * (len(planned[-1]) + 1) > token_budget:
            planned.append([])
        planned[-1].append(i)
    return planned


def divide(batch: Batch, ranks: int, token_budget: int) -> list[list[list[int]]]:
    """Assign every trajectory to a microbatch of one of `ranks` learner ranks.

    All ranks get the same number of microbatches: the largest are halved until their number is a multiple of `ranks`,
    and where every microbatch is a single trajectory, empty ones are added. The numbers of stored answers of two ranks
    differ by at most the number in one microbatch.

    Returns:
        Trajectory indices, [rank][microbatch].
    """
    lengths, order = batch.lengths.tolist(), _interleaved(batch)
    stored = set((batch.route != ROUTES.index("explore")).nonzero().flatten().tolist())

    def padded_tokens(microbatch: list[int]) -> int:
        return len(microbatch) * lengths[microbatch[-1]]

    def stored_answers(microbatch: list[int]) -> int:
        return len(stored.intersection(microbatch))

    planned = [[order[i] for i in microbatch] for microbatch in plan([lengths[i] for i in order], token_budget)]
    while len(planned) % ranks and max(len(microbatch) for microbatch in planned) > 1:
        largest = max((microbatch for microbatch in planned if len(microbatch) > 1), key=padded_tokens)
        planned.remove(largest)
        planned += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
    planned.sort(key=padded_tokens, reverse=True)
    planned += [[] for _ in range(-len(planned) % ranks)]
    rank_parts: list[list[list[int]]] = [[] for _ in range(ranks)]
    # Of every `ranks` microbatches of similar size, the rank with the fewest stored answers gets the one with the most.
    for start in range(0, len(planned), ranks):
        fewest_first = sorted(rank_parts, key=lambda rank_part: sum(map(stored_answers, rank_part)))
        most_first = sorted(planned[start : start + ranks], key=stored_answers, reverse=True)
        for rank_part, microbatch in zip(fewest_first, most_first, strict=True):
            rank_part.append(microbatch)
    return rank_parts


def _interleaved(batch: Batch) -> list[int]:
    """Order all trajectories so that each route is spread evenly among the trajectories of one length."""
    kinds = list(zip(batch.lengths.tolist(), batch.route.tolist(), strict=True))
    sizes, seen, places = Counter(kinds), Counter[tuple[int, int]](), []
    for kind in kinds:
        places.append((seen[kind] + 0.5) / sizes[kind])
        seen[kind] += 1
    return sorted(range(len(kinds)), key=places.__getitem__)


def microbatches(batch: Batch, divided: Sequence[Sequence[Sequence[int]]]) -> list[list[Batch]]:
    """Return the microbatches that `divide` assigned, [rank][microbatch], each with the totals of `batch`.

    An empty microbatch becomes the shortest trajectory of the batch with its mask cleared: every rank must run the same
    number of forward passes, because each of them contains collectives.
    """
    idle = batch.select([int(batch.lengths.argmin())])
    idle = replace(idle, mask=torch.zeros_like(idle.mask))
    return [[batch.select(part) if part else idle for part in rank_part] for rank_part in divided]


def partition(batch: Batch, ranks: int, token_budget: int) -> list[list[Batch]]:
    """Return the microbatches of each rank, [rank][microbatch]: `divide`, then `microbatches`."""
    return microbatches(batch, divide(batch, ranks, token_budget))


def deal(batch: Batch, updates: int) -> list[Batch]:
    """Split a batch into one batch for each of `updates` successive optimizer updates.

    Groups stay whole. Groups and stored answers go to the updates in turn; an update that gets none is left out.

    Returns:
        At most `updates` batches, each with its own totals.
    """
    if updates == 1:
        return [batch]
    order = sorted(range(len(batch.group)), key=lambda i: (int(batch.group[i]) < 0, int(batch.group[i])))
    groups = sorted({int(g) for g in batch.group if g >= 0})
    dealt: list[list[int]] = [[] for _ in range(updates)]
    for turn, i in enumerate(order):
        group = int(batch.group[i])
        dealt[(groups.index(group) if group >= 0 else turn) % updates].append(i)
    return [with_own_totals(batch.select(sorted(indices))) for indices in dealt if indices]
