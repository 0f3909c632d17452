"""Record what the attention kernels of a model are given."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Call(NamedTuple):
    """The inputs of one kernel."""

    query: tuple[int, ...]
    """Shape, [rows, heads, queries, head size]."""
    key: tuple[int, ...]
    mask: tuple[int, ...] | None
    causal: bool
    gqa: bool


class AttentionSpy(TorchFunctionMode):
    """Records the calls of `scaled_dot_product_attention` inside the context."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is scaled_dot_product_attention:
            mask = kwargs.get("attn_mask")
            shapes = (tuple(args[0].shape), tuple(args[1].shape), None if mask is None else tuple(mask.shape))
            self.calls.append(Call(*shapes, kwargs.get("is_causal", False), kwargs.get("enable_gqa", False)))
        return func(*args, **kwargs)


class KernelSpy(TorchDispatchMode):
    """Records the arguments of torch's kernel for sequences of different lengths, and the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []
        self.largest = 0
        """Elements."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.torch_attn._varlen_attn.default:
            self.calls.append(args)
        result = func(*args, **(kwargs or {}))
        sizes = [tensor.numel() for tensor in tree_leaves(result) if isinstance(tensor, Tensor)]
        self.largest = max(self.largest, *sizes, 0)
        return result
