"""The learner's weights in one buffer, which every version overwrites, and which generators on its node map.

The buffer is an anonymous file of the kernel (memfd), which readers open through the learner's entry in /proc. It has
no name in /dev/shm and none of its limits, and the kernel frees it when the last process that maps it ends.
"""

import mmap
import os
import uuid
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from actors.contracts import HostWeights, SharedMemory, WeightsInfo
from actors.weights.file_names import as_in_files
from actors.weights.host import copy_into, named_views, size_of


class WeightsBuffer:
    """Host memory for all weights of one version, concatenated as `info` says."""

    def __init__(self, info: WeightsInfo) -> None:
        self.info = info
        self.data = np.empty(0, dtype=np.uint8)
        """uint8 [bytes]; allocated at the first use."""
        self.descriptor = -1
        """Of the shared memory, or -1."""
        self.holds_parameters = False
        """Whether the model's parameters themselves lie in the buffer."""

    @property
    def size(self) -> int:
        return size_of(self.info)

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
        self.data, self.descriptor = np.frombuffer(mmap.mmap(descriptor, self.size), dtype=np.uint8), descriptor
        return SharedMemory(process=os.getpid(), descriptor=descriptor, name=name, size=self.size)

    def free(self) -> None:
        """Give the memory back, unless the model's parameters lie in it. Readers must have detached."""
        if self.descriptor >= 0 and not self.holds_parameters:
            os.close(self.descriptor)
            self.data, self.descriptor = np.empty(0, dtype=np.uint8), -1

    def hold_parameters(self, model: Any) -> bool:
        """Move the parameters of a transformers model into the buffer, if its files hold them as they are.

        Training then writes the next version itself, and only readers copy it. The dtypes must agree.

        Returns:
            Whether the parameters were moved.
        """
        own = {(p.data_ptr(), p.shape): p for p in model.parameters()}
        in_files = as_in_files(model, ((name, p.detach()) for name, p in model.named_parameters()))
        parameters = [own.get((tensor.data_ptr(), tensor.shape)) for _, tensor in in_files]
        if None in parameters or len(set(parameters)) != len(own):
            return False
        for (_, view), parameter in zip(named_views(self.info, self.data), parameters, strict=True):
            assert parameter is not None and view.dtype == parameter.dtype
            parameter.data = view.copy_(parameter.detach())
        self.holds_parameters = True
        return True

    def write(self, named: Iterable[tuple[str, Tensor]], version: int, checksum: bool) -> HostWeights:
        """Copy the tensors into the buffer one by one, cast to its dtype. Nothing is copied if they lie in it.

        No reader may be using it: the caller waits until every generator has loaded the version before.

        Returns:
            The buffer as this version, with its crc32 if `checksum`.
        """
        if not len(self.data):
            self.data = np.empty(self.size, dtype=np.uint8)
        if not self.holds_parameters:
            copy_into(self.info, self.data, named)
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
