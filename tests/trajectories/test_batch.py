"""Batch: alignment, selection, partition into microbatches, dealing into updates."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trajectories.batch import Batch, pack
from trajectories.split import deal, partition, plan
from trajectories.trajectory import Grade, Group, Prompt, Route, Trajectory


def trajectory(
    index: int, prompt: int, answer: int, reward: float | None = 1.0, route: Route = "explore"
) -> Trajectory:
    length = prompt + answer
    mask = np.arange(length) >= prompt
    return Trajectory(
        prompt_id="p",
        sample_index=index,
        tokens=np.arange(length, dtype=np.int32) + 100 * index,
        mask=mask,
        logp_sampler=-0.5 * mask.astype(np.float32),
        first_version=3,
        last_version=3,
        finish_reason="stop",
        seed=index,
        text="",
        route=route,
        grade=Grade(reward=reward, status="correct" if reward is not None else "grader_error"),
        logp_reference=-np.ones(length, dtype=np.float32) if route == "rehearse" else None,
    )


def batch_of(*shapes: tuple[int, int]) -> Batch:
    prompt = Prompt(id="p", position=0, text="", verifier="", problem={})
    groups = [Group(prompt=prompt, trajectories=(trajectory(i, *shape),)) for i, shape in enumerate(shapes)]
    return pack(groups)


def test_packing_lays_trajectories_end_to_end_with_their_totals() -> None:
    prompt = Prompt(id="p", position=0, text="", verifier="", problem={})
    groups = [
        Group(prompt=prompt, trajectories=(trajectory(0, 2, 3), trajectory(1, 2, 1, reward=None))),
        Group(prompt=prompt, trajectories=(trajectory(2, 1, 2, reward=0.0),)),
    ]
    batch = pack(groups, [trajectory(3, 2, 4, route="rehearse")])
    assert batch.lengths.tolist() == [5, 3, 3, 6]
    assert batch.group.tolist() == [0, 0, 1, -1]
    assert batch.version.tolist() == [3, 3, 3, -1]
    assert batch.reward.nan_to_num(-1).tolist() == [1, -1, 0, -1]
    assert not batch.mask[batch.seq == 1].any(), "an answer the grader failed on is masked"
    assert (batch.totals["explore"].tokens, batch.totals["explore"].trajectories) == (5, 2)
    assert (batch.totals["rehearse"].tokens, batch.totals["rehearse"].trajectories) == (4, 1)
    assert batch.logp_reference is not None
    assert batch.logp_reference[batch.seq < 3].isnan().all()


def test_selecting_keeps_alignment_order_and_global_totals() -> None:
    batch = batch_of((2, 3), (1, 4), (3, 1))
    part = batch.select([2, 0])
    assert part.tokens.tolist() == [200, 201, 202, 203, 0, 1, 2, 3, 4]
    assert part.seq.tolist() == [0] * 4 + [1] * 5
    assert part.totals == batch.totals


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
    shares = partition(batch, ranks, budget)
    assert len(shares) == ranks
    assert len({len(share) for share in shares}) == 1
    micro = [m for share in shares for m in share]
    trained = sorted(int(token) for m in micro for token in m.tokens[m.mask])
    assert trained == sorted(batch.tokens[batch.mask].tolist())
    for m in micro:
        assert len(m.route) == 1 or len(m.route) * int(m.lengths.max()) <= budget
        assert m.totals == batch.totals


def rehearsed(part: Batch) -> int:
    """Rehearsed answers of a microbatch that are trained on."""
    return len(part.seq[part.on_route("rehearse")].unique())


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize(
    ("explored", "stored", "together"), [(16, 8, 3), (16, 4, 5), (6, 6, 1), (12, 6, 1), (5, 13, 4)]
)
def test_rehearsed_answers_of_one_length_are_spread_over_microbatches_and_ranks(
    ranks: int, explored: int, stored: int, together: int
) -> None:
    prompt = Prompt(id="p", position=0, text="", verifier="", problem={})
    group = Group(prompt=prompt, trajectories=tuple(trajectory(i, 1, 3) for i in range(explored)))
    batch = pack([group], [trajectory(100 + i, 1, 3, route="rehearse") for i in range(stored)])
    shares = partition(batch, ranks, token_budget=4 * together)
    for micro in (micro for share in shares for micro in share if micro.mask.any()):
        even = len(micro.route) * stored / (explored + stored)
        assert abs(rehearsed(micro) - even) <= 1, "each microbatch has its share"
    counts = [sum(map(rehearsed, share)) for share in shares]
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
    shares = partition(pack([], answers), ranks, budget)
    counts = [sum(map(rehearsed, share)) for share in shares]
    assert sum(counts) == sum(stored for _, stored in lengths)
    assert max(counts) - min(counts) <= max(rehearsed(micro) for share in shares for micro in share)


def test_a_trajectory_above_the_budget_is_a_microbatch_of_its_own() -> None:
    assert plan([5, 50, 6], token_budget=12) == [[0, 2], [1]]


def test_dealing_keeps_groups_whole_and_counts_each_part_by_itself() -> None:
    prompt = Prompt(id="p", position=0, text="", verifier="", problem={})
    groups = [
        Group(prompt=prompt, trajectories=(trajectory(2 * g, 1, 2), trajectory(2 * g + 1, 1, 3))) for g in range(4)
    ]
    parts = deal(pack(groups, [trajectory(9, 1, 5, route="rehearse"), trajectory(10, 1, 6, route="rehearse")]), 2)
    assert [sorted(set(part.group.tolist())) for part in parts] == [[-1, 0, 2], [-1, 1, 3]]
    assert [part.totals["explore"].tokens for part in parts] == [10, 10]
    assert sorted(part.totals["rehearse"].tokens for part in parts) == [5, 6]


def test_fields_that_are_not_aligned_are_refused() -> None:
    good = trajectory(0, 2, 3)
    prompt = Prompt(id="p", position=0, text="", verifier="", problem={})
    bad = Trajectory(
        **{name: getattr(good, name) for name in Trajectory.__slots__ if name != "mask"}, mask=np.ones(2, dtype=bool)
    )
    with pytest.raises(AssertionError, match="aligned"):
        pack([Group(prompt=prompt, trajectories=(bad,))])


def test_moving_to_a_device_moves_every_tensor() -> None:
    batch = batch_of((2, 3)).to("meta")
    assert all(value.device == torch.device("meta") for value in (batch.tokens, batch.mask, batch.reward))


def test_answers_carry_the_domain_of_their_prompt_through_every_cut() -> None:
    names = ("words/1", "sums/7", "words/2")
    prompts = [Prompt(id=name, position=0, text="", verifier="", problem={}) for name in names]
    groups = [Group(prompt=prompt, trajectories=(trajectory(i, 1, 2),)) for i, prompt in enumerate(prompts)]
    batch = pack(groups, [trajectory(3, 1, 4, route="replay")])
    assert (batch.domains, batch.domain.tolist()) == (("sums", "words"), [1, 0, 1, -1])
    assert batch.select([3, 1]).domain.tolist() == [-1, 0]
    assert (batch.totals["replay"].tokens, batch.totals["replay"].trajectories) == (4, 1)
    assert batch.mask[batch.seq == 3].sum() == 4, "an answer that nobody graded is trained on where it is replayed"
