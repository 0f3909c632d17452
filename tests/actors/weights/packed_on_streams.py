"""Pack weights as vLLM's `nccl` backend does, and note which stream makes and which takes each tensor.

No GPU is needed: the streams are names, and all work is done at once.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import vllm.distributed.weight_transfer.packed_tensor as packed_tensor
from torch import Tensor
from transformers import AutoModelForCausalLM

import actors.weights.publication as publication

DEFAULT = "default"


class Streams:
    """Streams by name, each with the amount of its work, and how much of the others' it has waited for."""

    def __init__(self) -> None:
        self.current = DEFAULT
        self.work: dict[str, int] = {}
        self.waited: dict[tuple[str, str], int] = {}
        self.made: dict[int, tuple[str, int]] = {}
        """Address of a tensor -> the stream that has made it, and the amount of that stream's work then."""
        self.recorded: set[tuple[int, str]] = set()
        self.taken: list[tuple[str, str]] = []
        """The streams that have made and taken each tensor that was packed."""
        self.kept: list[Tensor] = []

    def stream(self, name: str) -> Any:
        """Return the stream of a name, with what vLLM and the publication call of it."""

        def wait_stream(other: Any) -> None:
            self.waited[name, other.name] = self.work.get(other.name, 0)

        return SimpleNamespace(name=name, synchronize=lambda: None, wait_stream=wait_stream)

    @contextlib.contextmanager
    def on(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before

    def make(self, tensor: Tensor) -> None:
        """Note that the current stream has made a tensor."""
        self.work[self.current] = self.work.get(self.current, 0) + 1
        self.made[tensor.data_ptr()] = self.current, self.work[self.current]
        self.kept.append(tensor)

    def take(self, tensor: Tensor) -> None:
        """Assert that the current stream may read a tensor, and that its memory stays until it has read it."""
        by, work = self.made[tensor.data_ptr()]
        if by != self.current:
            assert self.waited.get((self.current, by), 0) >= work, f"{self.current} reads what {by} has not yet made"
            assert (tensor.data_ptr(), self.current) in self.recorded, f"{by} may reuse what {self.current} still reads"
        self.taken.append((by, self.current))


def packed(policy: Path, buffer_bytes: int) -> list[tuple[str, str]]:
    """Pack all weights of a policy for a broadcast. Return the streams that have made and taken each tensor."""
    streams = Streams()
    gather, cat = publication.full_parameters, torch.cat

    def gathered(*arguments: Any) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in gather(*arguments):
            streams.make(tensor)
            yield name, tensor

    def joined(tensors: list[Tensor], dim: int) -> Tensor:
        for tensor in tensors:
            streams.take(tensor)
        return cat(tensors, dim)

    changes: tuple[tuple[Any, str, Any], ...] = (
        (publication, "full_parameters", gathered),
        (packed_tensor, "_get_streams", lambda device, count: [streams.stream(f"buffer {i}") for i in range(count)]),
        (torch, "cat", joined),
        (torch.accelerator, "current_device_index", lambda: 0),
        (torch.cuda, "stream", streams.on),
        (torch.cuda, "current_stream", lambda: streams.stream(streams.current)),
        (torch.cuda, "default_stream", lambda: streams.stream(DEFAULT)),
        (torch.Tensor, "record_stream", lambda tensor, stream: streams.recorded.add((tensor.data_ptr(), stream.name))),
    )
    for owner, name, value in changes:
        assert hasattr(owner, name), f"{owner} has no {name}"
        setattr(owner, name, value)
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    packed_tensor.packed_nccl_broadcast_producer(
        iterator=iter(publication.CastSource(model, torch.bfloat16)),
        group=SimpleNamespace(broadcast=lambda tensor, src: None),
        src=0,
        post_iter_func=lambda item: item[1],
        buffer_size_bytes=buffer_bytes,
    )
    return streams.taken
