"""Record the logits that exist while the learner computes: how many rows, and how many bytes at a time."""

from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LogitsRecords(TorchDispatchMode):
    """Records operations inside the context, backward passes included.

    Args:
        vocabulary, width: V and D. A tensor [rows, V] counts as logits, but not a transposed weight [D, V].
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vocabulary, self.width = vocabulary, width
        self.largest = 0
        """Most rows of any tensor [rows, V]."""
        self.products: list[int] = []
        """Rows of every matrix product [rows, V]."""
        self.peak = 0
        """Most bytes of tensors [rows, V] that existed at the same time."""
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.dim() > 1 and self._are_logits(tensor.shape):
                self.largest = max(self.largest, tensor.numel() // self.vocabulary)
                if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
                    self.products.append(tensor.shape[0])
                storage = tensor.untyped_storage()
                self._live[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
                self._live = {at: one for at, one in self._live.items() if not one[0].expired()}
                self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result

    def _are_logits(self, shape: torch.Size) -> bool:
        return shape[-1] == self.vocabulary and shape[-2] != self.width
