"""Weights as bytes: how a learner packs one version of a policy in host memory, and how a generator reads it.

Shared by the learner and both generators; it imports no vllm, which alters the process it runs in.
"""

import math
import warnings
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from actors.contracts import HostWeights, WeightsInfo

# A payload that came through Ray's object store is read-only memory. The views are only ever read.
warnings.filterwarnings("ignore", message="The given buffer is not writable")

Named = Iterable[tuple[str, Tensor]]


def weights_info(named_tensors: Named) -> WeightsInfo:
    """Names, shapes and the one dtype of `named_tensors` (`model.named_parameters()`; meta tensors will do)."""
    named = list(named_tensors)
    dtypes = {str(tensor.dtype).removeprefix("torch.") for _, tensor in named}
    assert len(dtypes) == 1, f"a payload has one dtype, got {sorted(dtypes)}"
    return WeightsInfo(
        names=tuple(name for name, _ in named), shapes=tuple(tuple(t.shape) for _, t in named), dtype=dtypes.pop()
    )


def pack(named_tensors: Named, version: int, checksum: bool = False) -> HostWeights:
    """Copy the tensors end to end into one fresh buffer, with its crc32 if `checksum`."""
    parts = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for _, tensor in named_tensors]
    data = np.empty(sum(part.numel() for part in parts), dtype=np.uint8)
    torch.cat(parts, out=torch.from_numpy(data))
    return HostWeights(version=version, data=data, checksum=zlib.crc32(data.data) if checksum else None)


def check_payload(info: WeightsInfo, weights: HostWeights) -> None:
    """Raise ValueError when the bytes cannot be what `info` declared, or are not those that were checksummed."""
    size = sum(math.prod(shape) for shape in info.shapes) * getattr(torch, info.dtype).itemsize
    if weights.data.dtype != np.uint8 or weights.data.shape != (size,):
        got = f"{weights.data.dtype} {weights.data.shape}"
        raise ValueError(f"weights.data: version {weights.version} must be {size} bytes of uint8, got {got}")
    found = None if weights.checksum is None else zlib.crc32(weights.data.data)
    if found != weights.checksum:
        rule = f"version {weights.version} must have crc32 {weights.checksum}"
        raise ValueError(f"weights.checksum: {rule}, got {found}")


def named_views(info: WeightsInfo, data: np.ndarray) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a payload as views of its bytes, in order; nothing is copied."""
    with warnings.catch_warnings():  # Ray hands over read-only memory, and nobody writes to these views
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        flat = torch.frombuffer(data, dtype=getattr(torch, info.dtype))
    sizes = [math.prod(shape) for shape in info.shapes]
    for name, shape, part in zip(info.names, info.shapes, flat.split(sizes), strict=True):
        yield name, part.view(shape)
