"""Split of a batch into updates, ranks and microbatches."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.trajectories.given_lengths import PROMPT, batch_of, trajectory
from trajectories.batch import Batch, pack
from trajectories.split import MICROBATCH_COST, deal, partition, plan
from trajectories.trajectory import Group


@settings(max_examples=100, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=12),
    ranks=st.integers(1, 4),
    budget=st.integers(1, 60),
)
def test_partition_gives_every_rank_as_many_microbatches_and_every_token_once(
    shapes: list[tuple[int, int]], ranks: int, budget: int
) -> None:
    batch = batch_of(*shapes)
    rank_parts = partition(batch, ranks, budget)
    assert len(rank_parts) == ranks
    assert len({len(rank_part) for rank_part in rank_parts}) == 1
    micro = [m for rank_part in rank_parts for m in rank_part]
    trained = sorted(int(token) for m in micro for token in m.tokens[m.mask])
    assert trained == sorted(batch.tokens[batch.mask].tolist())
    for m in micro:
        assert len(m.route) == 1 or len(m.route) * int(m.lengths.max()) <= budget
        assert m.totals == batch.totals


def rehearsed(micro: Batch) -> int:
    """Number of rehearsed answers of a microbatch that are trained on."""
    return len(micro.seq[micro.on_route("rehearse")].unique())


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    ("explored", "stored", "together"), [(16, 8, 3), (16, 4, 5), (6, 6, 1), (12, 6, 1), (5, 13, 4)]
)
def test_rehearsed_answers_of_one_length_are_spread_over_microbatches_and_ranks(
    ranks: int, explored: int, stored: int, together: int
) -> None:
    group = Group(prompt=PROMPT, trajectories=tuple(trajectory(i, 1, 3) for i in range(explored)))
    batch = pack([group], [trajectory(100 + i, 1, 3, route="rehearse") for i in range(stored)])
    rank_parts = partition(batch, ranks, token_budget=4 * together)
    for micro in (micro for rank_part in rank_parts for micro in rank_part if micro.mask.any()):
        even = len(micro.route) * stored / (explored + stored)
        assert abs(rehearsed(micro) - even) <= 1, "each microbatch has the batch's fraction of rehearsed answers"
    counts = [sum(map(rehearsed, rank_part)) for rank_part in rank_parts]
    assert sum(counts) == stored
    assert max(counts) - min(counts) <= math.ceil(together * stored / (explored + stored))


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=16),
    ranks=st.integers(1, 4),
    budget=st.integers(1, 20),
)
def test_no_rank_has_more_rehearsed_answers_than_another_by_more_than_a_microbatch_holds(
    lengths: list[tuple[int, bool]], ranks: int, budget: int
) -> None:
    answers = [trajectory(i, 1, n, route="rehearse" if stored else "explore") for i, (n, stored) in enumerate(lengths)]
    rank_parts = partition(pack([], answers), ranks, budget)
    counts = [sum(map(rehearsed, rank_part)) for rank_part in rank_parts]
    assert sum(counts) == sum(stored for _, stored in lengths)
    assert max(counts) - min(counts) <= max(rehearsed(micro) for rank_part in rank_parts for micro in rank_part)


@settings(max_examples=200, deadline=None)
@given(
    widths=st.lists(st.integers(1, 4_000), min_size=1, max_size=10),
    budget=st.sampled_from([100, 2_000, 5_000, 100_000]),
)
@example(widths=[1, 2, 3, 18, 43, 145], budget=2_000)  # more padding than a microbatch costs, and no cut saves as much
def test_microbatches_cost_least_of_all_divisions_of_the_sorted_rows(widths: list[int], budget: int) -> None:
    def cost(micro: list[int]) -> float:
        return len(micro) * max(widths[i] for i in micro) + MICROBATCH_COST

    found = plan(widths, budget)
    order = [i for micro in found for i in micro]
    assert sorted(order) == list(range(len(widths))) and [widths[i] for i in order] == sorted(widths)
    for micro in found:
        assert len(micro) == 1 or len(micro) * max(widths[i] for i in micro) <= budget
    if len(set(widths)) == len(widths):  # rows of one width may only be cut by the budget
        divisions = [
            [order[a:b] for a, b in itertools.pairwise([0, *cuts, len(order)])]
            for count in range(len(order))
            for cuts in itertools.combinations(range(1, len(order)), count)
        ]
        allowed = [d for d in divisions if all(len(m) == 1 or cost(m) - MICROBATCH_COST <= budget for m in d)]
        assert sum(map(cost, found)) == min(sum(map(cost, d)) for d in allowed)


def test_rows_are_cut_where_widths_change_if_the_padding_costs_more_than_a_microbatch() -> None:
    assert plan([10, 1000, 10, 1000], token_budget=100_000) == [[0, 2], [1, 3]]
    assert plan([10, 100, 10, 100], token_budget=100_000) == [[0, 2, 1, 3]]


def test_a_group_shares_a_microbatch_whose_budget_counts_its_prompt_once() -> None:
    prompts = [trajectory(0, 20, 5), trajectory(1, 20, 5)]
    groups = []
    for prompt in prompts:
        own = [replace(prompt, tokens=np.r_[prompt.tokens[:20], 1000 + np.arange(5) + 10 * i]) for i in range(4)]
        groups.append(Group(prompt=PROMPT, trajectories=tuple(own)))
    batch = pack(groups)
    apart = partition(batch, 1, token_budget=50)[0]
    together = partition(batch, 1, token_budget=50, linear_width=1e6)[0]
    assert [len(micro.route) for micro in apart] == [2, 2, 2, 2]
    assert [micro.group.tolist() for micro in together] == [[0, 0, 0, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("kept", [[], [1], [0, 2], [0, 1, 2]])
@pytest.mark.parametrize("ranks", [1, 2])
def test_trajectories_that_need_no_scores_take_no_part_of_the_budget(kept: list[int], ranks: int) -> None:
    batch = batch_of((1, 3), (1, 3), (1, 3))
    batch = replace(batch, in_loss=torch.tensor([i in kept for i in range(3)]))
    rank_parts = partition(batch, ranks, token_budget=4)
    micro = [m for rank_part in rank_parts for m in rank_part]
    trained = sorted(int(token) for m in micro for token in m.tokens[m.mask])
    assert trained == sorted(batch.tokens[batch.mask].tolist())
    assert len({len(rank_part) for rank_part in rank_parts}) == 1
    assert len(rank_parts[0]) == max(1, -(-len(kept) // ranks))


def test_a_trajectory_above_the_budget_is_a_microbatch_of_its_own() -> None:
    assert plan([5, 50, 6], token_budget=12) == [[0, 2], [1]]


def test_dealing_keeps_groups_whole_and_counts_the_totals_of_each_update() -> None:
    groups = [
        Group(prompt=PROMPT, trajectories=(trajectory(2 * g, 1, 2), trajectory(2 * g + 1, 1, 3))) for g in range(4)
    ]
    dealt = deal(pack(groups, [trajectory(9, 1, 5, route="rehearse"), trajectory(10, 1, 6, route="rehearse")]), 2)
    assert [sorted(set(update.group.tolist())) for update in dealt] == [[-1, 0, 2], [-1, 1, 3]]
    assert [update.totals["explore"].tokens for update in dealt] == [10, 10]
    assert sorted(update.totals["rehearse"].tokens for update in dealt) == [5, 6]
