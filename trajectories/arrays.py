"""Tensors as numpy arrays, for messages between processes.

pickle copies the bytes of a torch tensor into its stream. It hands those of a numpy array over beside the stream, and
Ray writes them into shared memory once and maps them where they are read.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class ArrayOf(NamedTuple):
    """A tensor's bytes: numpy has no bfloat16."""

    data: np.ndarray
    """uint8 [..., bytes of the last axis]"""
    dtype: str
    """torch name, e.g. "float32"."""


def to_array(tensor: Tensor) -> ArrayOf:
    """Return the bytes of a tensor of at least one axis. One on the CPU is not copied."""
    data = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    return ArrayOf(data, str(tensor.dtype).removeprefix("torch."))


def to_tensor(array: ArrayOf) -> Tensor:
    """Return the tensor on the CPU, copied to memory that torch aligns.

    Arrays of a message may begin at any address, and the last bits of a matrix product depend on those of its inputs.
    """
    aligned = torch.empty(array.data.shape, dtype=torch.uint8)
    aligned.numpy()[...] = array.data
    return aligned.view(getattr(torch, array.dtype))


def to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, ArrayOf]:
    """Return the bytes of tensors, by name."""
    return {name: to_array(tensor) for name, tensor in tensors.items()}


def to_tensors(arrays: Mapping[str, ArrayOf]) -> dict[str, Tensor]:
    """Return the tensors of `to_arrays`."""
    return {name: to_tensor(array) for name, array in arrays.items()}
