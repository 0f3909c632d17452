"""The weights of a learner rank for generators and references, in host memory.

Every rank must make the same calls, since gathering a parameter is a collective. Rank 0 returns what is gathered, the
others None.
"""

from dataclasses import replace
from typing import Any

import torch

from actors.contracts import HostWeights, SharedMemory, WeightsInfo
from actors.learning.adapters import meta_adapters
from actors.learning.sharding import full_adapters, full_parameters, gather_only
from actors.weights.adapter_names import file_parameters
from actors.weights.file_names import as_in_files, meta_in_files
from actors.weights.host import pack, weights_info
from actors.weights.pieces import pieces_of
from actors.weights.shared_memory import WeightsBuffer


class OutgoingWeights:
    """The weights that generators load, as the policy's files hold them or as an adapter; and the float32 weights.

    Args:
        dtype: of the weights for generators, that of the forward pass.
        adapter: whether the generators get the adapter alone; they have the other weights from the policy's directory.
        can_hold: whether the model's parameters may lie in the buffer themselves: unsharded, on the CPU, none merged.
    """

    def __init__(self, model: Any, dtype: torch.dtype, *, rank: int, adapter: bool, can_hold: bool) -> None:
        self.model, self.dtype, self.rank, self.adapter, self.can_hold = model, dtype, rank, adapter, can_hold
        self.buffer = WeightsBuffer(self.info())
        self.pieces = [] if adapter else pieces_of(model, dtype)

    def info(self) -> WeightsInfo:
        """Return the names, shapes and dtype of `whole`."""
        return weights_info((meta_adapters if self.adapter else meta_in_files)(self.model, self.dtype))

    def share(self) -> SharedMemory | None:
        """Hold `whole` in memory that other processes of this node can map. Return None if there is none."""
        memory = self.buffer.share()
        if memory is None or not self.can_hold:
            return memory
        return replace(memory, holds_parameters=self.buffer.hold_parameters(self.model))

    def whole(self, version: int, checksum: bool, with_bytes: bool = True) -> HostWeights | None:
        """Write all weights for the generators into one buffer, over those of the version before, and return them."""
        named = (full_adapters if self.adapter else full_parameters)(self.model, self.dtype)
        if self.rank:
            gather_only(named)
            return None
        written = self.buffer.write(named if self.adapter else as_in_files(self.model, named), version, checksum)
        return written if with_bytes else replace(written, data=None)

    def count_pieces(self) -> int:
        """Free the memory of `share`, and return the number of pieces of `piece`. An adapter is one piece."""
        self.buffer.free()
        return max(1, len(self.pieces))

    def piece(self, number: int, version: int, checksum: bool) -> HostWeights | None:
        """Return some whole layers of what `whole` writes, in new memory."""
        if self.adapter:
            return self.whole(version, checksum)
        piece = self.pieces[number]
        named = full_parameters(self.model, self.dtype, piece.parameters)
        if self.rank:
            gather_only(named)
            return None
        return piece.packed(self.buffer.info, as_in_files(self.model, named), version, checksum)

    def master_info(self) -> WeightsInfo:
        """Return the names, shapes and dtype of `master`."""
        return weights_info((name, p.detach().to("meta", torch.float32)) for name, p in file_parameters(self.model))

    def master(self) -> HostWeights | None:
        """Return the float32 parameters under transformers' names."""
        full = full_parameters(self.model, torch.float32)
        named = [(name, p.cpu()) for name, p in full if self.rank == 0]  # only rank 0 keeps what is gathered
        return None if self.rank else pack(named, 0)
