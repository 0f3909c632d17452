"""Key-value caches of a decoding batch whose rows come and go.

All rows end at the same column, so that each step writes one column; a shorter row begins at a later one. Axes: R rows,
H key-value heads, W columns, D head size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

SPARE_COLUMNS = 32
"""Columns that are allocated beyond those in use. A cache that is full is copied."""


class Slots(CacheLayerMixin):
    """Keys and values of one layer, in buffers [R, H, W, D] of which the first `rows` and `length` are in use."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = self.length = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        raise AssertionError("`allocate` comes first")

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the columns of one step, and return the keys and values of all columns."""
        assert self.keys is not None and self.values is not None
        start, self.length = self.length, self.length + key_states.shape[-2]
        self.keys[: self.rows, :, start : self.length] = key_states
        self.values[: self.rows, :, start : self.length] = value_states
        return self.keys[: self.rows, :, : self.length], self.values[: self.rows, :, : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return -1

    def allocate(self, like: Tensor, rows: int, length: int, unused: int) -> None:
        """Allocate buffers, and copy the rows in use without their first `unused` columns, so that they end at column
        `length`. Buffers are zeroed: a masked column counts 0 times its value, which must not be NaN."""
        for name in ("keys", "values"):
            old, new = getattr(self, name), like.new_zeros(rows, like.shape[1], length + SPARE_COLUMNS, like.shape[3])
            if self.rows:
                kept = old[: self.rows, :, unused : self.length]
                new[: self.rows, :, length - kept.shape[2] : length] = kept
            setattr(self, name, new)

    def join(self, keys: Tensor, values: Tensor, source: Tensor) -> None:
        """Add a row for each element of `source`, the index of its prompt in keys and values [P, H, T, D]."""
        assert self.keys is not None and self.values is not None
        rows, start = slice(self.rows, self.rows + len(source)), self.length - keys.shape[2]
        torch.index_select(keys, 0, source, out=self.keys[rows, :, start : self.length])
        torch.index_select(values, 0, source, out=self.values[rows, :, start : self.length])
        self.rows += len(source)

    def move(self, target: np.ndarray, source: np.ndarray, rows: int) -> None:
        """Copy the rows `source` to the places `target`, and keep the first `rows`."""
        assert self.keys is not None and self.values is not None
        to, of = (torch.from_numpy(each).to(self.keys.device) for each in (target, source))
        for buffer in (self.keys, self.values):
            used = buffer[:, :, : self.length]
            used.index_copy_(0, to, used.index_select(0, of))
        self.rows = rows


class SlotCache:
    """The cache of a model whose layers all attend to all earlier tokens. Rows can be added at any step."""

    joins = True

    def __init__(self, prompts: DynamicCache) -> None:
        self.layers = [Slots() for _ in prompts.layers]
        self.past = Cache(layers=list(self.layers))

    def join(self, prompts: DynamicCache, source: Tensor, rows: int, starts: np.ndarray) -> int:
        """Add rows that continue prompts.

        Args:
            prompts: cache of the prompts, right-aligned.
            source: int64 [new rows], index of each new row's prompt.
            rows: most rows that the batch will have before it is empty.
            starts: int64 [R], first column of each row in use.

        Returns:
            Columns by which the rows in use have moved to the left.
        """
        width, old = prompts.get_seq_length(), self.layers[0].length if len(starts) else 0
        new, buffer = max(width, old), self.layers[0].keys
        if (old and width > old) or buffer is None or len(buffer) < rows or buffer.shape[2] <= new:
            unused = int(starts.min()) if old else 0
            new = max(width, old - unused)
            for slots, (keys, *_) in zip(self.layers, prompts, strict=True):
                slots.allocate(keys, rows, new, unused)
        for slots, (keys, values, *_) in zip(self.layers, prompts, strict=True):
            slots.length = new
            slots.join(keys, values, source)
        return old - new

    def make_room(self, starts: np.ndarray) -> int:
        """Make sure that one more column fits. Return the columns by which the rows have moved to the left."""
        buffer, length = self.layers[0].keys, self.layers[0].length
        assert buffer is not None
        if length < buffer.shape[2]:
            return 0
        unused = int(starts.min())
        for slots in self.layers:
            assert slots.keys is not None
            slots.allocate(slots.keys, len(buffer), length - unused, unused)
            slots.length = length - unused
        return unused

    def drop(self, keep: np.ndarray) -> np.ndarray:
        """Remove the rows where `keep`, bool [R], is False: rows from the end take their places.

        Returns:
            int64: the row that each remaining place now holds.
        """
        order = np.arange(int(keep.sum()))
        (target,) = (~keep[: len(order)]).nonzero()
        order[target] = keep[len(order) :].nonzero()[0] + len(order)
        for slots in self.layers:
            slots.move(target, order[target], len(order))
        return order


class WholeCache:
    """The cache of any other model, such as one with sliding windows. Rows are added only while there are none."""

    joins = False

    def __init__(self, prompts: DynamicCache) -> None:
        self.past: Any = prompts

    def join(self, prompts: DynamicCache, source: Tensor, rows: int, starts: np.ndarray) -> int:
        """Make one row for each element of `source`, the index of its prompt. Return 0."""
        assert not len(starts), "no row is in use"
        self.past = prompts
        self.past.reorder_cache(source)
        return 0

    def make_room(self, starts: np.ndarray) -> int:
        """Return 0: every step allocates the column it writes."""
        return 0

    def drop(self, keep: np.ndarray) -> np.ndarray:
        """Remove the rows where `keep`, bool [R], is False. Return the row that each remaining place now holds."""
        (order,) = keep.nonzero()
        if len(order):
            self.past.reorder_cache(torch.from_numpy(order))
        return order


class Caches:
    """The caches of models that read the same rows. They are of one kind and have one history, so that rows and columns
    of all are alike.

    Args:
        prompts: a cache of each model, of any prompts.
    """

    def __init__(self, prompts: Sequence[DynamicCache]) -> None:
        plain = all(type(layer) is DynamicLayer for each in prompts for layer in each.layers)
        kind: type[SlotCache | WholeCache] = SlotCache if plain else WholeCache
        self.each = [kind(each) for each in prompts]
        self.joins = kind.joins

    @property
    def pasts(self) -> list[Any]:
        """The cache of each model, as the model takes it."""
        return [cache.past for cache in self.each]

    @property
    def length(self) -> int:
        """Columns in use."""
        return int(self.pasts[0].get_seq_length())

    def join(self, prompts: Sequence[DynamicCache], source: Tensor, rows: int, starts: np.ndarray) -> int:
        """Do what `join` of each cache does, and return what it returns."""
        pairs = zip(self.each, prompts, strict=True)
        return [cache.join(own, source, rows, starts) for cache, own in pairs][-1]

    def make_room(self, starts: np.ndarray) -> int:
        """Do what `make_room` of each cache does, and return what it returns."""
        return [cache.make_room(starts) for cache in self.each][-1]

    def drop(self, keep: np.ndarray) -> np.ndarray:
        """Do what `drop` of each cache does, and return what it returns."""
        return [cache.drop(keep) for cache in self.each][-1]
