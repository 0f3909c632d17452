"""Find prompts that are equal, or nearly equal, within a set and across sets.

Axes: P and Q prompts of two sets.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

GRAM = 3
"""Tokens of an n-gram. A prompt that is shorter is one n-gram."""
ROWS_AT_A_TIME = 256
"""Prompts that are compared with a whole set at a time, so that no P x Q matrix exists."""

Tokens = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two prompts that are equal or nearly equal."""

    one: int
    other: int
    """Their indices in their sets."""
    similarity: float
    """Jaccard similarity of their sets of n-grams, in [0, 1]."""
    equal: bool
    """Whether their tokens are equal."""


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """Prompts of one set with a copy in another set, or elsewhere in the same one."""

    exact: int
    """Prompts with an equal one."""
    near: int
    """Prompts without an equal one, but with one of at least the given similarity."""
    pairs: list[Pair]
    """The most similar other prompt of each of them, the most similar pairs first."""


def find_duplicates(
    prompts: Sequence[Tokens], others: Sequence[Tokens], similarity: float, same: bool = False
) -> Duplicates:
    """Find the prompts that have a copy among the others.

    Args:
        prompts, others: the token ids of P and Q prompts.
        similarity: the Jaccard similarity from which a prompt is a near-duplicate, in (0, 1].
        same: whether both are the same set, in which no prompt is a copy of itself.
    """
    found = []
    for one, shared, total in _overlaps(prompts, others):
        jaccard = shared / total
        if same:
            jaccard[one] = -1.0
        equal = [
            other for other in np.flatnonzero(jaccard == 1).tolist() if tuple(others[other]) == tuple(prompts[one])
        ]
        best = equal[0] if equal else int(jaccard.argmax())
        if equal or jaccard[best] >= similarity:
            found.append(Pair(one=one, other=best, similarity=float(jaccard[best]), equal=bool(equal)))
    exact = sum(pair.equal for pair in found)
    pairs = sorted(found, key=lambda pair: (-pair.equal, -pair.similarity))
    return Duplicates(exact=exact, near=len(found) - exact, pairs=pairs)


def _overlaps(prompts: Sequence[Tokens], others: Sequence[Tokens]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield for each prompt: its index, the n-grams it shares with each other prompt [Q], and those of both [Q]."""
    columns: dict[tuple[int, ...], int] = {}
    left, right = _gram_table(prompts, columns), _gram_table(others, columns)
    width = len(columns)
    left.resize((len(prompts), width))
    transposed = right.T.tocsr()
    of_others = np.diff(right.indptr)  # n-grams of each prompt [Q]
    for start in range(0, len(prompts), ROWS_AT_A_TIME):
        some = left[start : start + ROWS_AT_A_TIME]
        shared = (some @ transposed).toarray()
        for row, of_prompt in enumerate(np.diff(some.indptr)):
            yield start + row, shared[row], of_prompt + of_others - shared[row]


def _gram_table(prompts: Sequence[Tokens], columns: dict[tuple[int, ...], int]) -> csr_matrix:
    """Return a sparse matrix that is 1 where a prompt has an n-gram. Adds the n-grams it has first to `columns`."""
    ends, indices = [0], []
    for prompt in prompts:
        grams = {tuple(prompt[i : i + GRAM]) for i in range(max(len(prompt) - GRAM + 1, 1))}
        indices += [columns.setdefault(gram, len(columns)) for gram in grams]
        ends.append(len(indices))
    return csr_matrix((np.ones(len(indices)), indices, ends), shape=(len(prompts), len(columns)))


def distinct(prompts: Sequence[Tokens]) -> list[int]:
    """Return the index of the first prompt of each token sequence."""
    first: dict[tuple[int, ...], int] = {}
    for index, prompt in enumerate(prompts):
        first.setdefault(tuple(prompt), index)
    return list(first.values())
