"""Run vLLM's `nccl` and `ipc` weight transfers on a CPU, in processes of tests that have vLLM imported.

vLLM's classes of both sides run as they are. In the place of NCCL is gloo, in that of CUDA IPC shared memory. The
streams of CUDA do nothing.
"""

import contextlib
import mmap
import os
import tempfile
import uuid
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing.reductions as reductions
import vllm.distributed.device_communicators.pynccl as pynccl
import vllm.distributed.weight_transfer.ipc_engine as ipc_engine
import vllm.distributed.weight_transfer.packed_tensor as packed_tensor

GPU = "GPU-of-the-test"
GLOO_TIMEOUT_S = 60


class GlooCommunicator:
    """vLLM's `PyNcclCommunicator` with gloo. The process ends in broadcast number `dies_in`, if given."""

    dies_in: int | None = None
    broadcasts = 0

    def __init__(self, group: Any, device: Any) -> None:
        store = dist.PrefixStore("gloo", group.store)
        self.gloo = dist.ProcessGroupGloo(store, group.rank, group.world_size, timedelta(seconds=GLOO_TIMEOUT_S))

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        options = dist.BroadcastOptions()
        options.rootRank, options.rootTensor = src, 0
        GlooCommunicator.broadcasts += 1
        if GlooCommunicator.broadcasts == self.dies_in:
            os._exit(1)
        self.gloo.broadcast([tensor], options).wait()

    def destroy(self) -> None:
        pass


class Stream:
    def synchronize(self) -> None:
        pass

    def wait_stream(self, other: "Stream") -> None:
        pass


class CpuTorch:
    """The module torch, as `packed_tensor` uses it, whose buffers on "cuda" are in shared memory."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def empty(size: int, *, dtype: torch.dtype, device: Any = "cpu") -> torch.Tensor:
        if str(device) != "cuda":
            return torch.empty(size, dtype=dtype, device=device)
        path = os.path.join(tempfile.gettempdir(), f"shared-{uuid.uuid4().hex}")
        with open(path, "wb") as file:
            file.truncate(size)
        buffer = mapped(path)
        SHARED[buffer.data_ptr()] = path
        return buffer


SHARED: dict[int, str] = {}
"""Address of a shared buffer -> its file."""


def mapped(path: str) -> torch.Tensor:
    with open(path, "r+b") as file:
        return torch.frombuffer(mmap.mmap(file.fileno(), 0), dtype=torch.uint8)


def reduce_shared(tensor: torch.Tensor) -> tuple[Any, tuple[Any, ...]]:
    """As torch's `reduce_tensor`, whose argument 6 is the number of the device."""
    return None, (SHARED[tensor.data_ptr()], None, None, None, None, None, 0)


def rebuild_shared(*arguments: Any) -> torch.Tensor:
    return mapped(arguments[0])


def replace_cuda(dies_in: int | None = None) -> None:
    """Replace what needs a GPU, in this process."""
    GlooCommunicator.dies_in = dies_in
    changes: Sequence[tuple[Any, str, Any]] = (
        (pynccl, "PyNcclCommunicator", GlooCommunicator),
        (packed_tensor, "_get_streams", lambda device, count: tuple(Stream() for _ in range(count))),
        (packed_tensor, "torch", CpuTorch()),
        (packed_tensor, "reduce_tensor", reduce_shared),
        (ipc_engine, "rebuild_cuda_tensor", rebuild_shared),
        (reductions, "rebuild_cuda_tensor", rebuild_shared),
        (torch.accelerator, "current_device_index", lambda: 0),
        (torch.cuda, "stream", lambda stream: contextlib.nullcontext()),
        (torch.cuda, "current_stream", Stream),
        (torch.cuda, "default_stream", Stream),
        (torch.Tensor, "record_stream", lambda tensor, stream: None),
        (torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=GPU)),
        (torch.cuda, "ipc_collect", lambda: None),
    )
    for owner, name, value in changes:
        assert hasattr(owner, name), f"{owner} has no {name}"
        setattr(owner, name, value)


def remove_shared() -> None:
    for path in SHARED.values():
        os.unlink(path)
    SHARED.clear()
