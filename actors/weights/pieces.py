"""Divide a policy's weights into pieces of whole layers, so that a publication never holds all of them at once."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actors.contracts import HostWeights, WeightsInfo
from actors.weights.adapter_names import file_parameters
from actors.weights.file_names import as_in_files, unit
from actors.weights.host import copy_into, info_of, size_of

PIECE_BYTES = 2**30
"""Most bytes of a piece. A larger layer, or a larger parameter outside the layers, is a piece of its own."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Parameters that are gathered, sent and loaded together."""

    parameters: frozenset[str]
    """Their names in transformers."""
    tensors: tuple[int, int]
    """The tensors of the policy's files that are made of them, as in `HostWeights`."""

    def packed(
        self, info: WeightsInfo, named: Iterable[tuple[str, Tensor]], version: int, checksum: bool
    ) -> HostWeights:
        """Copy the piece into new host memory.

        Args:
            info: of all weights.
            named: the piece's tensors, as the policy's files hold them, on any device.
        """
        part = info_of(info, self.tensors)
        data = np.empty(size_of(part), dtype=np.uint8)
        copy_into(part, data, named)
        crc = zlib.crc32(data.data) if checksum else None
        return HostWeights(version=version, data=data, tensors=self.tensors, checksum=crc)


def pieces_of(model: Any, dtype: torch.dtype, limit: int | None = None) -> list[Piece]:
    """Return the pieces of a transformers model's weights, in the order of its parameters.

    Args:
        dtype: of the weights sent.
        limit: most bytes of a piece of more than one layer; default: `PIECE_BYTES`.
    """
    limit = PIECE_BYTES if limit is None else limit
    pieces: list[Piece] = []
    names: set[str] = set()
    first = end = size = 0
    meta = [(name, torch.empty(p.shape, dtype=dtype, device="meta")) for name, p in file_parameters(model)]
    for _, group in groupby(meta, lambda item: unit(item[0])):
        layer = list(group)
        tensors = [tensor for _, tensor in as_in_files(model, layer)]
        added = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
        if names and size + added > limit:
            pieces.append(Piece(frozenset(names), (first, end)))
            names, first, size = set(), end, 0
        names |= {name for name, _ in layer}
        end, size = end + len(tensors), size + added
    return [*pieces, Piece(frozenset(names), (first, end))]
