"""Weights from one process to another on the same GPU by CUDA IPC, packed and not, with checksums.

The unpacked transfer exports a copy of every tensor at once. The packed one exports one buffer, which the sender fills
again when the receiver has copied its content, as vLLM's `ipc` backend does. If vLLM is installed, its own functions
pack and unpack. Without a GPU, shared memory takes the place of CUDA IPC.

3.1 GB of Qwen2.5 1.5B's shapes: copies take 10 ms; a second process loads torch in 8 s, beside 8 s of imports.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor

from actors.weights.transfer import BUFFER_BYTES
from benchmarks.gpu.receiver import WAIT_S, checksum, receive
from benchmarks.gpu.record import Record

Named = list[tuple[str, Tensor]]


def run(record: Record) -> None:
    """Send the same tensors in both ways."""
    multiprocessing.set_start_method("spawn", force=True)
    sent = list(_tensors(record))
    size = sum(tensor.nbytes for _, tensor in sent)
    record.value("gigabytes", size / 1e9)
    buffer = max(1024 if record.small else BUFFER_BYTES, *(tensor.nbytes for _, tensor in sent))
    expected = {name: checksum(tensor) for name, tensor in sent}
    ways: dict[str, Callable[[Any, Any], None]] = {
        "unpacked": lambda orders, answers: _send_unpacked(sent, orders, answers),
        "packed": lambda orders, answers: _send_packed(sent, buffer, orders, answers),
    }
    if record.gpu and importlib.util.find_spec("vllm") is not None:
        ways["packed by vLLM"] = lambda orders, answers: _send_by_vllm(sent, buffer, orders, answers)
    for way, send in ways.items():
        with record.part(way):
            received = _transferred(record, way, send)
            wrong = [name for name in expected if received.get(name) != expected[name]]
            record.check(f"{way}: tensors that arrived wrong", len(wrong), at_most=0)
            extra = record.found["phases"][way]
            if record.gpu:
                extra["gb_extra"] = extra["gb_peak"] - extra["gb_before"]
                limit = size if way == "unpacked" else 1.05 * buffer
                record.check(f"{way}: GB beside the weights", extra["gb_extra"], at_most=limit / 1e9 + 0.01)


def _tensors(record: Record) -> Iterator[tuple[str, Tensor]]:
    """Yield random bfloat16 tensors with the shapes of a policy's."""
    torch.manual_seed(0)
    width, inner, vocabulary, layers = (64, 96, 258, 2) if record.small else (1536, 8960, 151_936, 28)
    shapes = {"embed": (vocabulary, width), "norm": (width,)}
    for layer in range(layers):
        shapes |= {f"{layer}.{name}": (inner, width) for name in ("gate", "up")}
        shapes |= {f"{layer}.down": (width, inner), f"{layer}.query": (width, width), f"{layer}.bias": (width,)}
    for name, shape in shapes.items():
        yield name, torch.randn(shape, device=record.device, dtype=torch.bfloat16)


def _transferred(record: Record, way: str, send: Callable[[Any, Any], None]) -> dict[str, int]:
    """Start a receiver, send, and return the checksums of what it has received."""
    orders, answers = multiprocessing.Queue(), multiprocessing.Queue()
    process = multiprocessing.Process(target=receive, args=(record.device, orders, answers), daemon=True)
    process.start()
    try:
        assert answers.get(timeout=WAIT_S) == "ready"
        with record.phase(way):
            send(orders, answers)
        orders.put(None)
        received: dict[str, int] = answers.get(timeout=WAIT_S)
    finally:
        process.join(10)
        process.kill()
        if record.gpu:
            torch.cuda.ipc_collect()
    return received


def _send_unpacked(sent: Named, orders: Any, answers: Any) -> None:
    copies = {name: tensor.clone() for name, tensor in sent}
    orders.put(copies)
    answers.get(timeout=WAIT_S)


def _send_packed(sent: Named, size: int, orders: Any, answers: Any) -> None:
    """Send through one buffer, which is exported once."""
    device = sent[0][1].device
    buffer = torch.empty(size, dtype=torch.uint8, device=device)
    buffer = buffer if device.type == "cuda" else buffer.share_memory_()
    orders.put(buffer)
    answers.get(timeout=WAIT_S)
    for part in chunks(sent, size):
        end = 0
        for _, tensor in part:
            buffer[end : end + tensor.nbytes].copy_(tensor.contiguous().view(-1).view(torch.uint8))
            end += tensor.nbytes
        if device.type == "cuda":
            torch.cuda.synchronize()
        orders.put(([name for name, _ in part], [tuple(tensor.shape) for _, tensor in part]))
        answers.get(timeout=WAIT_S)


def _send_by_vllm(sent: Named, size: int, orders: Any, answers: Any) -> None:
    packing = importlib.import_module("vllm.distributed.weight_transfer.packed_tensor")
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    for chunk in packing.packed_ipc_producer(iter(sent), uuid, lambda item: item[1], size):
        orders.put(chunk)
        answers.get(timeout=WAIT_S)


def chunks(sent: Named, size: int) -> Iterator[Named]:
    """Yield successive tensors that together have at most `size` bytes."""
    part: Named = []
    held = 0
    for name, tensor in sent:
        assert tensor.nbytes <= size, f"{name} is larger than the buffer"
        if held + tensor.nbytes > size:
            yield part
            part, held = [], 0
        part.append((name, tensor))
        held += tensor.nbytes
    yield part
