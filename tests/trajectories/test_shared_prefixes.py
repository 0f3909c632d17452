"""Rows that hold the tokens common to several trajectories once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajectories.shared_prefixes import WIDEST, chain, lay_out, shared_rows

LINEAR = 1e6
"""Width at which attention would cost as much as the rest: far above those of these tests, so that it costs nothing."""


def arrays(*sequences: list[int]) -> list[np.ndarray]:
    return [np.array(tokens, dtype=np.int32) for tokens in sequences]


def prefixes(sequences: list[np.ndarray]) -> set[tuple[int, ...]]:
    return {tuple(tokens[: n + 1].tolist()) for tokens in sequences for n in range(len(tokens))}


@settings(max_examples=200, deadline=None)
@given(
    given=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12),
    linear_width=st.sampled_from([0.0, 5.0, 20.0, LINEAR, np.inf]),
    widest=st.integers(1, 40),
)
def test_every_token_of_a_trajectory_attends_to_the_tokens_before_it_and_to_no_other(
    given: list[list[int]], linear_width: float, widest: int
) -> None:
    sequences = arrays(*given)
    rows = shared_rows(sequences, linear_width, widest)
    assert sorted(i for row in rows for i in row.members) == list(range(len(given)))
    assert all(row.width <= max(widest, len(sequences[row.members[0]])) for row in rows if len(row.members) > 1)
    laid = lay_out(sequences, rows)
    width = laid.tokens.shape[1]
    cells = np.split(laid.cell, np.cumsum([len(tokens) for tokens in sequences])[:-1])
    for tokens, cell in zip(sequences, cells, strict=True):
        row, columns = np.unique(cell // width), cell % width
        assert len(row) == 1
        np.testing.assert_array_equal(laid.tokens.flatten()[cell], tokens)
        np.testing.assert_array_equal(laid.position.flatten()[cell], np.arange(len(tokens)))
        for n, column in enumerate(columns):
            assert laid.attends[row[0], column].nonzero()[0].tolist() == sorted(columns[: n + 1].tolist())


@settings(max_examples=100, deadline=None)
@given(given=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12))
def test_a_row_has_a_column_for_each_distinct_prefix(given: list[list[int]]) -> None:
    sequences = arrays(*given)
    for row in shared_rows(sequences, LINEAR):
        assert row.width == len(prefixes([sequences[i] for i in row.members]))


@settings(max_examples=100, deadline=None)
@given(given=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12))
def test_end_to_end_every_distinct_prefix_is_a_query_once_and_every_trajectory_reads_its_own_tokens(
    given: list[list[int]],
) -> None:
    sequences = arrays(*given)
    chained = chain(sequences)
    assert len(chained.tokens) == chained.queries.sum() == len(prefixes(sequences))
    cells = np.split(chained.cell, np.cumsum([len(tokens) for tokens in sequences])[:-1])
    for tokens, cell in zip(sequences, cells, strict=True):
        np.testing.assert_array_equal(chained.tokens[cell], tokens)
        np.testing.assert_array_equal(chained.position[cell], np.arange(len(tokens)))
    # The queries of a sequence are its last tokens, and the queries of all sequences are all columns in order.
    read = np.split(chained.columns, np.cumsum(chained.keys)[:-1])
    own = [columns[len(columns) - n :] for columns, n in zip(read, chained.queries, strict=True)]
    np.testing.assert_array_equal(np.concatenate(own), np.arange(len(chained.tokens)))
    whole = {tuple(chained.tokens[columns].tolist()) for columns in read}
    assert whole <= {tuple(tokens.tolist()) for tokens in sequences}


def test_without_a_mask_rows_are_as_wide_as_the_budget_and_short_common_beginnings_share_none() -> None:
    answers = arrays(*([*range(1000), 5000 + i, *range(1000)] for i in range(8)))
    assert [(len(row.members), row.width) for row in shared_rows(answers, np.inf, 10_000)] == [(8, 9008)]
    begin_alike = arrays(*([*range(49), 5000 + i, *range(950)] for i in range(2)))
    assert len(shared_rows(begin_alike, np.inf)) == 2
    begin_more_alike = arrays(*([*range(51), 5000 + i, *range(948)] for i in range(2)))
    assert len(shared_rows(begin_more_alike, np.inf)) == 1


def test_the_answers_of_a_group_share_their_prompt_and_equal_answers_all_of_their_tokens() -> None:
    sequences = arrays([1, 2, 3, 10], [7, 8, 9, 10], [1, 2, 3, 11, 12], [1, 2, 3, 10], [7, 8, 9, 13])
    assert [(sorted(row.members), row.width) for row in shared_rows(sequences, LINEAR)] == [([0, 2, 3], 6), ([1, 4], 5)]


def test_turns_share_as_a_tree() -> None:
    prompt, first, second = [1, 2], [3, 4], [5, 6]
    sequences = arrays([*prompt, *first, 7], [*prompt, *first, 8, 9], [*prompt, *second, 7])
    assert [row.width for row in shared_rows(sequences, LINEAR)] == [2 + 2 + 1 + 2 + 3]


def test_without_a_common_first_token_nothing_is_shared() -> None:
    assert [row.members for row in shared_rows(arrays([1, 2], [2, 2], [3, 2]), LINEAR)] == [[0], [1], [2]]


def test_trajectories_share_a_row_only_where_attention_in_it_costs_less_than_their_common_tokens() -> None:
    answers = arrays(*([*range(100), 1000 + i, *range(200)] for i in range(4)))
    alone = 301 + 301**2 / 500
    joined = 201 + (502**2 - 301**2) / 500
    assert joined > alone
    assert len(shared_rows(answers, linear_width=500)) == 4
    assert len(shared_rows(answers, linear_width=5_000)) == 1


def test_no_shared_row_is_wider_than_the_limit() -> None:
    answers = arrays(*([*range(1000), 5000 + i, *range(1000)] for i in range(8)))
    rows = shared_rows(answers, LINEAR)
    assert [len(row.members) for row in rows] == [3, 3, 2]
    assert max(row.width for row in rows) == 4003 <= WIDEST


@pytest.mark.parametrize("linear_width", [0.0, LINEAR])
def test_a_single_trajectory_is_a_row_with_a_causal_mask(linear_width: float) -> None:
    sequences = arrays([4, 4, 4])
    laid = lay_out(sequences, shared_rows(sequences, linear_width))
    np.testing.assert_array_equal(laid.attends[0], np.tri(3, dtype=bool))
