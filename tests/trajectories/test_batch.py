"""Batch: alignment of its fields, packing and selection."""

import pickle
from dataclasses import replace
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.trajectories.given_lengths import PROMPT, batch_of, trajectory
from trajectories.batch import TOKEN_FIELDS, TOKEN_TABLES, TRAJECTORY_FIELDS, TRAJECTORY_TABLES, Batch, pack
from trajectories.trajectory import Group, Prompt, Trajectory


def test_packing_lays_trajectories_end_to_end_with_their_totals() -> None:
    groups = [
        Group(prompt=PROMPT, trajectories=(trajectory(0, 2, 3), trajectory(1, 2, 1, reward=None))),
        Group(prompt=PROMPT, trajectories=(trajectory(2, 1, 2, reward=0.0),)),
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


def test_solutions_belong_to_their_group_but_are_not_counted_as_explored() -> None:
    solution = trajectory(3, 2, 5, reward=None, route="imitate")
    groups = [
        Group(prompt=PROMPT, trajectories=(trajectory(0, 2, 3),)),
        Group(prompt=PROMPT, trajectories=(trajectory(1, 2, 1), trajectory(2, 1, 2, reward=0.0)), solution=solution),
    ]
    batch = pack(groups, [trajectory(4, 2, 4, route="replay")])
    assert batch.lengths.tolist() == [5, 3, 3, 7, 6]
    assert batch.group.tolist() == [0, 1, 1, 1, -1]
    assert batch.version.tolist() == [3, 3, 3, -1, -1]
    assert batch.reward.nan_to_num(-1).tolist() == [1, 1, 0, -1, -1]
    assert (batch.totals["explore"].tokens, batch.totals["explore"].trajectories) == (6, 3)
    assert (batch.totals["imitate"].tokens, batch.totals["imitate"].trajectories) == (5, 1)
    assert [members.tolist() for members in batch.graded_groups()] == [[0], [1, 2]]


def test_overlong_filtering_masks_truncated_answers_but_keeps_their_rewards() -> None:
    cut = replace(trajectory(1, 2, 4, reward=0.0), finish_reason="length")
    groups = [Group(prompt=PROMPT, trajectories=(trajectory(0, 2, 3), cut))]
    stored = [replace(trajectory(3, 2, 5, route="rehearse"), finish_reason="length")]
    batch = pack(groups, stored, mask_truncated=True)
    assert [int(batch.mask[batch.seq == i].sum()) for i in range(3)] == [3, 0, 5]
    assert (batch.totals["explore"].tokens, batch.totals["explore"].trajectories) == (3, 1)
    assert batch.reward[:2].tolist() == [1, 0], "the baseline of the group includes the truncated answer"
    assert batch.generated.tolist() == [3, 4, 5], "the length of an answer does not depend on what is trained on"
    assert pack(groups, stored).totals["explore"].tokens == 7


def test_solutions_are_numbered_within_a_group_by_semantic_key_or_else_by_text() -> None:
    def answer(text: str, key: str = "", reward: float | None = 1.0) -> Trajectory:
        made = trajectory(0, 1, 1, reward)
        assert made.grade is not None
        return replace(made, text=text, grade=replace(made.grade, semantic_key=key))

    by_key = (answer("1+2", "(+1+2)"), answer("2-1", reward=0.0), answer("2+1", "(+1+2)"), answer("(+1+2)"))
    by_text = (answer("a  b\n"), answer(" a b"), answer("ab"), answer("a b", reward=None))
    groups = [Group(prompt=PROMPT, trajectories=answers) for answers in (by_key, by_text)]
    batch = pack(groups, [trajectory(9, 1, 1, route="rehearse")], count_meanings=True)
    assert batch.meaning is not None
    assert batch.meaning.tolist() == [0, 1, 0, 2, 0, 0, 1, 0, -1]
    assert pack(groups).meaning is None
    assert replace(by_text[0], grade=None).meaning == by_text[1].meaning, "an answer without a grade has a solution too"


def test_experience_counts_in_its_groups_rewards_and_follows_its_new_answers() -> None:
    old = trajectory(7, 2, 4, route="experience")
    groups = [
        Group(prompt=PROMPT, trajectories=(trajectory(0, 2, 3, reward=0.0),), experience=(old,)),
        Group(prompt=PROMPT, trajectories=(trajectory(1, 1, 2, reward=0.0),)),
    ]
    batch = pack(groups, [trajectory(3, 2, 4, route="rehearse")], count_meanings=True)
    assert batch.lengths.tolist() == [5, 6, 3, 6]
    assert batch.group.tolist() == [0, 0, 1, -1]
    assert batch.reward.nan_to_num(-1).tolist() == [0, 1, 0, -1]
    assert batch.version.tolist() == [3, -1, 3, -1], "staleness is that of new answers"
    assert (batch.totals["explore"].tokens, batch.totals["experience"].tokens) == (5, 4)
    assert batch.meaning is not None and len(batch.meaning) == 4
    assert [group.has_signal for group in groups] == [True, False]
    assert groups[0].rewards == [0.0], "metrics count new answers"


def test_every_tensor_field_declares_its_axis() -> None:
    types = get_type_hints(Batch)
    tensors = [name for name, type_ in types.items() if type_ in (Tensor, Tensor | None)]
    tables = [name for name, type_ in types.items() if type_ == dict[str, Tensor]]
    assert TRAJECTORY_TABLES == ("rewards",)
    assert sorted(TOKEN_FIELDS + TRAJECTORY_FIELDS) == sorted(tensors)
    assert sorted(TOKEN_TABLES + TRAJECTORY_TABLES) == sorted(tables)
    assert types.keys() - {*tensors, *tables} == {"domains", "totals", "term_factors"}


def filled(*shapes: tuple[int, int]) -> Batch:
    """A batch in which every field has values, and no two rows of a field are equal (except in `mask` and `seq`)."""
    batch = batch_of(*shapes)
    count, size = len(batch.route), len(batch.tokens)
    values: dict[str, Any] = {}
    for number, name in enumerate(TOKEN_FIELDS):
        if name not in ("seq", "mask"):
            values[name] = torch.arange(size) + 1000.0 * number
    for number, name in enumerate(TRAJECTORY_FIELDS):
        if name != "lengths":
            values[name] = torch.arange(count) + 1000 * number
    for name in TRAJECTORY_TABLES:
        values[name] = {key: torch.arange(1.0 * count) + start for key, start in (("one", 10), ("other", 20))}
    for number, name in enumerate(TOKEN_TABLES):
        values[name] = {key: torch.arange(2.0 * size).reshape(size, 2) + 1000 * number for key in ("one", "other")}
    return replace(batch, **values)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=6))
def test_selecting_any_trajectories_in_any_order_takes_their_rows_of_every_field(
    data: st.DataObject, shapes: list[tuple[int, int]]
) -> None:
    batch = filled(*shapes)
    indices = data.draw(st.lists(st.integers(0, len(shapes) - 1), unique=True, min_size=1))
    chosen = batch.select(indices)

    def rows(values: Tensor) -> list[Any]:
        return [
            values[position].tolist() for i in indices for position in range(len(values)) if batch.seq[position] == i
        ]

    for name in TRAJECTORY_FIELDS:
        assert getattr(chosen, name).tolist() == [getattr(batch, name)[i].item() for i in indices], name
    for name in set(TOKEN_FIELDS) - {"seq"}:
        assert getattr(chosen, name).tolist() == rows(getattr(batch, name)), name
    for name in TOKEN_TABLES:
        table = getattr(batch, name)
        assert {k: v.tolist() for k, v in getattr(chosen, name).items()} == {k: rows(v) for k, v in table.items()}, name
    for name in TRAJECTORY_TABLES:
        for key, values in getattr(batch, name).items():
            assert getattr(chosen, name)[key].tolist() == [values[i].item() for i in indices], name
    assert chosen.seq.tolist() == [n for n, i in enumerate(indices) for _ in range(sum(shapes[i]))]
    assert (chosen.totals, chosen.domains) == (batch.totals, batch.domains)


def test_selecting_keeps_alignment_order_and_global_totals() -> None:
    batch = batch_of((2, 3), (1, 4), (3, 1))
    part = batch.select([2, 0])
    assert part.tokens.tolist() == [200, 201, 202, 203, 0, 1, 2, 3, 4]
    assert part.seq.tolist() == [0] * 4 + [1] * 5
    assert part.totals == batch.totals
    assert part.logp_old is None


def assert_equal(one: Batch, other: Batch) -> None:
    for name in (*TOKEN_FIELDS, *TRAJECTORY_FIELDS, *TOKEN_TABLES, *TRAJECTORY_TABLES):
        mine, theirs = getattr(one, name), getattr(other, name)
        for a, b in zip(*(t.values() if isinstance(t, dict) else [t] for t in (mine, theirs)), strict=True):
            same = a is b is None or (a.dtype == b.dtype and torch.equal(a, b))
            assert same, name
        assert not isinstance(mine, dict) or mine.keys() == theirs.keys(), name
    assert (one.totals, one.domains, one.term_factors) == (other.totals, other.domains, other.term_factors)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=6))
def test_cutting_gives_the_batches_that_selecting_gives_without_a_copy(
    data: st.DataObject, shapes: list[tuple[int, int]]
) -> None:
    batch, counts = filled(*shapes), list[int]()
    while sum(counts) < len(shapes):
        counts.append(data.draw(st.integers(1, len(shapes) - sum(counts))))
    parts, first = batch.cut(counts), 0
    assert len(parts) == len(counts)
    for part, count in zip(parts, counts, strict=True):
        assert_equal(part, batch.select(range(first, first + count)))
        assert part.tokens.untyped_storage().data_ptr() == batch.tokens.untyped_storage().data_ptr()
        first += count


def test_a_batch_is_cut_into_parts_of_all_its_trajectories() -> None:
    with pytest.raises(AssertionError, match="3 trajectories are cut from a batch of 2"):
        batch_of((1, 2), (1, 3)).cut([1, 2])


def test_a_pickled_batch_is_the_same_and_its_columns_lie_beside_the_stream() -> None:
    batch = filled((2, 3), (1, 400), (3, 1))
    batch = replace(batch, hidden={"reference": torch.randn(len(batch.tokens), 8).bfloat16()}, term_factors={"a": 0.5})
    beside: list[pickle.PickleBuffer] = []
    stream = pickle.dumps(batch, protocol=5, buffer_callback=beside.append)
    read_only = [memoryview(bytes(buffer)).toreadonly() for buffer in beside]  # as Ray's shared memory is
    assert sum(map(len, read_only)) > 10 * len(stream)
    found = pickle.loads(stream, buffers=read_only)
    assert_equal(found, batch)
    found.tokens[0] = 7  # what was read can be written to
    assert_equal(pickle.loads(pickle.dumps(batch)), batch)


def test_a_reduced_batch_has_the_optional_fields_that_are_named_and_no_others() -> None:
    batch = replace(filled((2, 3), (1, 4)), term_factors={"a": 0.5})
    reduced = batch.reduced_to(("logp_old", "hidden"))
    assert reduced.logp_old is batch.logp_old and reduced.hidden is batch.hidden
    assert reduced.advantage is None and reduced.meaning is None and not reduced.anchors and not reduced.rewards
    assert (reduced.tokens is batch.tokens, reduced.term_factors) == (True, {"a": 0.5})


def test_fields_that_are_not_aligned_are_refused() -> None:
    good = trajectory(0, 2, 3)
    bad = Trajectory(
        **{name: getattr(good, name) for name in Trajectory.__slots__ if name != "mask"}, mask=np.ones(2, dtype=bool)
    )
    with pytest.raises(AssertionError, match="aligned"):
        pack([Group(prompt=PROMPT, trajectories=(bad,))])


def test_moving_to_a_device_moves_every_tensor() -> None:
    batch = filled((2, 3)).to("meta")
    tensors = [getattr(batch, name) for name in (*TOKEN_FIELDS, *TRAJECTORY_FIELDS)]
    tensors += [values for name in (*TOKEN_TABLES, *TRAJECTORY_TABLES) for values in getattr(batch, name).values()]
    assert all(value.device == torch.device("meta") for value in tensors)
    assert batch_of((2, 3)).to("meta").logp_old is None


def test_answers_carry_the_domain_of_their_prompt_through_pack_and_select() -> None:
    names = ("words/1", "sums/7", "words/2")
    prompts = [Prompt(id=name, position=0, text="", verifier="", problem={}) for name in names]
    groups = [Group(prompt=prompt, trajectories=(trajectory(i, 1, 2),)) for i, prompt in enumerate(prompts)]
    batch = pack(groups, [trajectory(3, 1, 4, route="replay")])
    assert (batch.domains, batch.domain.tolist()) == (("sums", "words"), [1, 0, 1, -1])
    assert batch.select([3, 1]).domain.tolist() == [-1, 0]
    assert (batch.totals["replay"].tokens, batch.totals["replay"].trajectories) == (4, 1)
    assert batch.mask[batch.seq == 3].sum() == 4, "an ungraded answer is trained on where it is replayed"
