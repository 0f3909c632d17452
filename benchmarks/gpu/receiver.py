"""The other process of the stage `handles`: it receives tensors and answers with checksums. It loads torch alone."""

import importlib
import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

COLUMNS = 256
WAIT_S = 60.0
"""Longest wait for the other process."""
Chunk = tuple[list[str], list[tuple[int, ...]]]
"""Names and shapes of the tensors in a buffer."""


def checksum(tensor: Tensor) -> int:
    """Return a number that depends on all 2-byte words of a tensor and on their places modulo COLUMNS."""
    words = tensor.contiguous().view(torch.int16).flatten()
    whole = len(words) // COLUMNS * COLUMNS
    sums = words[:whole].view(-1, COLUMNS).sum(0, dtype=torch.int64)
    sums[: len(words) - whole] += words[whole:]
    return int((sums * torch.arange(1, COLUMNS + 1, device=sums.device)).sum())


def receive(device: str, orders: Any, answers: Any) -> None:
    """Copy what is sent until None comes, and answer with checksums. Runs in the other process."""
    torch.zeros(1, device=device)
    answers.put("ready")
    received: dict[str, int] = {}
    buffer: Tensor | None = None
    importer = None
    while (order := orders.get(timeout=WAIT_S)) is not None:
        if isinstance(order, Tensor):
            buffer = order
        elif isinstance(order, dict):
            copies = {name: tensor.clone() for name, tensor in order.items()}
            received |= {name: checksum(tensor) for name, tensor in copies.items()}
        elif isinstance(order, tuple):
            assert buffer is not None
            received |= {name: checksum(tensor.clone()) for name, tensor in unpacked(buffer, order)}
        else:
            packing = importlib.import_module("vllm.distributed.weight_transfer.packed_tensor")
            importer = importer or packing.PackedBufferImporter()
            pairs = packing.packed_ipc_consumer(
                order.ipc_handle, order.names, order.shapes, order.dtype_names, order.tensor_sizes, 0, importer
            )
            received |= {name: checksum(tensor) for name, tensor in pairs}
        del order
        if device == "cuda":
            torch.cuda.synchronize()
        answers.put(len(received))
    answers.put(received)
    time.sleep(1.0 if device == "cpu" else 0.2)  # shared memory is passed by this process


def unpacked(buffer: Tensor, chunk: Chunk) -> Sequence[tuple[str, Tensor]]:
    """Return the bfloat16 tensors in a buffer, as views."""
    names, shapes = chunk
    found, end = [], 0
    for name, shape in zip(names, shapes, strict=True):
        size = 2 * math.prod(shape)
        found.append((name, buffer[end : end + size].view(torch.bfloat16).view(shape)))
        end += size
    return found
