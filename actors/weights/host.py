"""Weights in host memory: pack a policy's tensors into bytes, check the bytes, and view them as tensors again.

Used by the learner and by both generators. Imports no vllm, which would change the process it is imported in.
"""

import math
import warnings
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from actors.contracts import HostWeights, WeightsInfo

# Also filtered here, for the whole process: `catch_warnings` in `named_views` does not protect other threads.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

Named = Iterable[tuple[str, Tensor]]


def weights_info(named_tensors: Named) -> WeightsInfo:
    """Return the names, shapes and common dtype of tensors, which may be on the meta device."""
    named = list(named_tensors)
    dtypes = {str(tensor.dtype).removeprefix("torch.") for _, tensor in named}
    assert len(dtypes) == 1, f"all tensors of a payload must have one dtype, got {sorted(dtypes)}"
    return WeightsInfo(
        names=tuple(name for name, _ in named), shapes=tuple(tuple(t.shape) for _, t in named), dtype=dtypes.pop()
    )


def pack(named_tensors: Named, version: int, checksum: bool = False) -> HostWeights:
    """Copy the tensors, concatenated, into one new array, with its crc32 if `checksum`."""
    parts = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for _, tensor in named_tensors]
    data = np.empty(sum(part.numel() for part in parts), dtype=np.uint8)
    torch.cat(parts, out=torch.from_numpy(data))
    return HostWeights(version=version, data=data, checksum=zlib.crc32(data.data) if checksum else None)


def span(info: WeightsInfo, weights: HostWeights) -> tuple[int, int]:
    """Return the numbers of the first tensor that the weights hold, and of the one after the last."""
    return weights.tensors or (0, len(info.names))


def info_of(info: WeightsInfo, tensors: tuple[int, int]) -> WeightsInfo:
    """Return the names, shapes and dtype of a piece, whose tensors are these."""
    chosen = slice(*tensors)
    return WeightsInfo(names=info.names[chosen], shapes=info.shapes[chosen], dtype=info.dtype)


def size_of(info: WeightsInfo) -> int:
    """Return the bytes of the tensors."""
    itemsize: int = getattr(torch, info.dtype).itemsize
    return sum(math.prod(shape) for shape in info.shapes) * itemsize


def copy_into(info: WeightsInfo, data: np.ndarray, named: Named) -> None:
    """Copy the tensors, which `info` describes, into `data` one by one, cast to its dtype."""
    for (name, view), (own_name, tensor) in zip(named_views(info, data), named, strict=True):
        assert name == own_name and view.shape == tensor.shape, f"expected {name} {view.shape}, got {own_name}"
        view.copy_(tensor.detach())


def check_payload(info: WeightsInfo, weights: HostWeights) -> None:
    """Raise ValueError if the bytes have another size than `info` implies, or another checksum than declared."""
    assert weights.data is not None, "weights without bytes need attached memory"
    size = size_of(info_of(info, span(info, weights)))
    if weights.data.dtype != np.uint8 or weights.data.shape != (size,):
        got = f"{weights.data.dtype} {weights.data.shape}"
        raise ValueError(f"weights.data: version {weights.version} must be {size} bytes of uint8, got {got}")
    found = None if weights.checksum is None else zlib.crc32(weights.data.data)
    if found != weights.checksum:
        rule = f"version {weights.version} must have crc32 {weights.checksum}"
        raise ValueError(f"weights.checksum: {rule}, got {found}")


def named_views(info: WeightsInfo, data: np.ndarray | None) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a payload, in order, as views of its bytes. Nothing is copied."""
    assert data is not None, "the payload has no bytes"
    with warnings.catch_warnings():  # memory from Ray's object store is read-only, and the views are only read
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        flat = torch.frombuffer(data, dtype=getattr(torch, info.dtype))
    sizes = [math.prod(shape) for shape in info.shapes]
    for name, shape, part in zip(info.names, info.shapes, flat.split(sizes), strict=True):
        yield name, part.view(shape)
