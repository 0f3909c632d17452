"""The learner's weights in one buffer, which every version overwrites, and which generators on its node map.

The buffer is an anonymous file of the kernel (memfd), which readers open through the learner's entry in /proc. It has
no name in /dev/shm and none of its limits, and the kernel frees it when the last process that maps it ends.
"""

import math
import mmap
import os
import uuid
import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from actors.contracts import HostWeights, SharedMemory, WeightsInfo
from actors.weights.host import named_views


class WeightsBuffer:
    """Host memory for all weights of one version, concatenated as `info` says."""

    def __init__(self, info: WeightsInfo) -> None:
        self.info = info
        self.data = np.empty(0, dtype=np.uint8)
        """uint8 [bytes]; allocated at the first use."""

    @property
    def size(self) -> int:
        return sum(math.prod(shape) for shape in self.info.shapes) * getattr(torch, self.info.dtype).itemsize

    def share(self) -> SharedMemory | None:
        """Allocate the buffer so that other processes of this node can map it. Return where it is, or None if the
        system has no memory of this kind."""
        if not hasattr(os, "memfd_create"):  # not Linux
            return None
        name = f"breadth-weights-{uuid.uuid4().hex}"
        descriptor = os.memfd_create(name)
        try:
            os.posix_fallocate(descriptor, 0, self.size)
        except OSError:  # no memory is left
            os.close(descriptor)
            return None
        self.data = np.frombuffer(mmap.mmap(descriptor, self.size), dtype=np.uint8)
        return SharedMemory(process=os.getpid(), descriptor=descriptor, name=name, size=self.size)

    def write(self, named: Iterable[tuple[str, Tensor]], version: int, checksum: bool) -> HostWeights:
        """Copy the tensors into the buffer one by one, cast to its dtype.

        No reader may be using it: the caller waits until every generator has loaded the version before.

        Returns:
            The buffer as this version, with its crc32 if `checksum`.
        """
        if not len(self.data):
            self.data = np.empty(self.size, dtype=np.uint8)
        for (name, view), (own_name, tensor) in zip(named_views(self.info, self.data), named, strict=True):
            assert name == own_name and view.shape == tensor.shape, f"expected {name} {view.shape}, got {own_name}"
            view.copy_(tensor.detach())
        return HostWeights(version=version, data=self.data, checksum=zlib.crc32(self.data.data) if checksum else None)


def attached(memory: SharedMemory) -> np.ndarray | None:
    """Map a buffer of another process, read-only: uint8 [bytes]. None if it is not on this node, or may not be read."""
    path = f"/proc/{memory.process}/fd/{memory.descriptor}"
    try:
        if os.readlink(path) != f"/memfd:{memory.name} (deleted)":  # another node's process has this number here
            return None
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), memory.size, access=mmap.ACCESS_READ)
    except OSError:
        return None
    return np.frombuffer(mapped, dtype=np.uint8)
