"""Trajectories that begin with the same tokens, in one row that holds each shared prefix once.

A row is a tree of tokens: a token's ancestors are the tokens before it in its trajectory. The answers of a group share
their prompt, equal answers share all of their tokens, and few-shot prompts share their examples.

Axes: R rows, W columns of the widest row, K columns of a single row, B trajectories, N tokens of the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDEST = 4_096
"""Columns of the widest row whose attention needs a mask, of W x W: above it the mask costs more memory and time than
the row is worth."""
SMALLEST_GAIN = 0.05
"""Share of its tokens that a trajectory must have in common with a row without a mask to join it. Short common
beginnings, such as a system prompt, would make few wide rows of a batch, which ranks cannot divide evenly."""


class Row(NamedTuple):
    """Trajectories whose distinct prefixes are the columns of one row."""

    members: list[int]
    """Indices of trajectories, in the order of their tokens."""
    width: int
    """Number of distinct prefixes: the columns of the row."""


class Chain(NamedTuple):
    """Trajectories end to end, with each shared prefix once. Of S <= B trajectories each has tokens of its own."""

    tokens: np.ndarray
    """int64 [K]."""
    position: np.ndarray
    """int64 [K]: the place of each token in its trajectory."""
    cell: np.ndarray
    """int64 [N]: the column of each token of the batch."""
    queries: np.ndarray
    """int64 [S]: number of the columns that a trajectory adds to those before it, in the order of columns."""
    keys: np.ndarray
    """int64 [S]: number of tokens of each of these trajectories."""
    columns: np.ndarray
    """int64 [sum of keys]: the columns of their tokens, trajectory by trajectory."""


class Rows(NamedTuple):
    """Rows as arrays."""

    tokens: np.ndarray
    """int64 [R, W]; 0 behind the end of a row."""
    position: np.ndarray
    """int64 [R, W]: the place of each token in its trajectory."""
    attends: np.ndarray
    """bool [R, W, W]: whether the token of a column (second axis) may attend to that of another (third axis): to itself
    and its ancestors. A column behind the end of a row attends to itself alone."""
    cell: np.ndarray
    """int64 [N]: for each token of the batch its place in the rows end to end, row * W + column."""


def shared_rows(sequences: Sequence[np.ndarray], linear_width: float, widest: int = WIDEST) -> list[Row]:
    """Put trajectories into rows so that scoring them costs least.

    A row of W columns costs W + W^2 / linear_width. In the order of their tokens, a trajectory joins the row of the one
    before it if that costs less than a row of its own. A row of several trajectories has at most WIDEST columns, unless
    `linear_width` is infinite: then it needs no mask.

    Args:
        sequences: the tokens of each trajectory.
        linear_width: the width at which attention costs as much as all the rest of a layer. 0: no rows are shared.
        widest: columns of the widest row that trajectories may share.

    Returns:
        Rows in the order of their first trajectories.
    """
    if not linear_width:
        return [Row([i], len(tokens)) for i, tokens in enumerate(sequences)]

    def cost(width: int) -> float:
        return width + width**2 / linear_width

    masked = linear_width < np.inf
    limit, worth = (min(widest, WIDEST), 1.0) if masked else (widest, 1 - SMALLEST_GAIN)
    rows: list[Row] = []
    order = _in_order(sequences)
    for before, i in zip([-1, *order], order, strict=False):
        length, width = len(sequences[i]), rows[-1].width if rows else 0
        joined = width + length - (common(sequences[before], sequences[i]) if rows else 0)
        if rows and joined <= max(limit, width) and cost(joined) - cost(width) < worth * cost(length):
            rows[-1] = Row([*rows[-1].members, i], joined)
        else:
            rows.append(Row([i], length))
    return sorted(rows, key=lambda row: min(row.members))


def lay_out(sequences: Sequence[np.ndarray], rows: Sequence[Row]) -> Rows:
    """Return the arrays of rows that hold each of the trajectories once.

    Args:
        sequences: the tokens of each trajectory.
        rows: as from `shared_rows`.
    """
    width = max(row.width for row in rows)
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    position = np.zeros_like(tokens)
    attends = np.zeros((len(rows), width, width), dtype=bool)
    attends[:, np.arange(width), np.arange(width)] = True
    cells: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(sequences)
    for r, row in enumerate(rows):
        end, path, previous = 0, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        for i in row.members:
            sequence = sequences[i]
            shared = common(previous, sequence)
            new = np.arange(end, end + len(sequence) - shared)
            path, previous, end = np.concatenate([path[:shared], new]), sequence, end + len(new)
            tokens[r, new] = sequence[shared:]
            position[r, new] = np.arange(shared, len(sequence))
            attends[r, new[:, None], path[:shared]] = True
            attends[r, new[:, None], new] = np.tri(len(new), dtype=bool)
            cells[i] = r * width + path
        assert end == row.width, f"{end} columns in a row of {row.width}"
    return Rows(tokens=tokens, position=position, attends=attends, cell=np.concatenate(cells))


def chain(sequences: Sequence[np.ndarray]) -> Chain:
    """Return the arrays of a single row that holds all trajectories end to end."""
    tokens, position, queries, keys, columns = [], [], [], [], []
    cells: list[np.ndarray] = [np.zeros(0, dtype=np.int64)] * len(sequences)
    end, path, previous = 0, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for i in _in_order(sequences):
        sequence = sequences[i]
        shared = common(previous, sequence)
        new = len(sequence) - shared
        path, previous, end = np.concatenate([path[:shared], np.arange(end, end + new)]), sequence, end + new
        cells[i] = path
        if new:
            tokens.append(sequence[shared:])
            position.append(np.arange(shared, len(sequence)))
            queries.append(new)
            keys.append(len(sequence))
            columns.append(path)
    return Chain(
        tokens=np.concatenate(tokens).astype(np.int64),
        position=np.concatenate(position),
        cell=np.concatenate(cells),
        queries=np.array(queries),
        keys=np.array(keys),
        columns=np.concatenate(columns),
    )


def common(one: np.ndarray, other: np.ndarray) -> int:
    """Return the number of tokens at the start that two trajectories have in common."""
    length = min(len(one), len(other))
    differs = one[:length] != other[:length]
    return int(differs.argmax()) if differs.any() else length


def _in_order(sequences: Sequence[np.ndarray]) -> list[int]:
    """Return the indices of the trajectories, sorted by their tokens."""
    # Big-endian bytes of numbers >= 0 sort as the numbers do.
    keys = [np.ascontiguousarray(tokens, dtype=">i4").tobytes() for tokens in sequences]
    return sorted(range(len(sequences)), key=keys.__getitem__)
