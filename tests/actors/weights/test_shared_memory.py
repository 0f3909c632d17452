"""The learner's weights in memory that generators of its node map: in place, safe, and freed by the kernel."""

import asyncio
import multiprocessing
import os
import resource
import signal
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.contracts import HostWeights, SharedMemory
from actors.generation.transformers_engine import TransformersGenerator
from actors.learning.learner import FsdpLearner
from actors.remote import Handle, RemoteGenerator
from actors.remote_learner import RemoteLearner
from actors.weights import pieces
from actors.weights.host import check_payload, named_views, weights_info
from actors.weights.shared_memory import WeightsBuffer, attached
from configs.generator import GeneratorConfig
from tests.actors.learning.learner_ranks import COEFFICIENTS, batch_of, joined, step
from tests.conftest import make_mixture_of_experts, make_policy

FORK = multiprocessing.get_context("fork")
REPLY_S = 20.0


def tensors(seed: int) -> list[tuple[str, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    return [(name, torch.randn(shape, generator=draw)) for name, shape in (("a", (3, 5)), ("b", (7,)), ("c", ()))]


INFO = weights_info(tensors(0))


def assert_holds(data: np.ndarray, seed: int) -> None:
    for (name, view), (own_name, tensor) in zip(named_views(INFO, data), tensors(seed), strict=True):
        assert name == own_name and torch.equal(view, tensor)


def read(memory: SharedMemory, requests: Connection) -> None:
    """In another process: map the memory, then send its bytes for every request."""
    data = attached(memory)
    while requests.recv():
        requests.send(None if data is None else data.tobytes())


@contextmanager
def reader(memory: SharedMemory) -> Iterator[tuple[Any, Connection]]:
    own, other = FORK.Pipe()
    process = FORK.Process(target=read, args=(memory, other), daemon=True)
    process.start()
    other.close()
    try:
        yield process, own
    finally:
        process.kill()
        process.join(REPLY_S)


def bytes_of(requests: Connection) -> np.ndarray:
    requests.send(True)
    assert requests.poll(REPLY_S)
    return np.frombuffer(requests.recv(), dtype=np.uint8)


def leftovers() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "breadth" in name}


def test_every_version_is_written_over_the_one_before_and_cast() -> None:
    buffer = WeightsBuffer(weights_info((name, t.to(torch.bfloat16)) for name, t in tensors(0)))
    first = buffer.write(tensors(0), 0, checksum=True)
    before = first.data
    second = buffer.write(tensors(1), 1, checksum=True)
    assert second.data is before and (first.version, second.version) == (0, 1)
    assert first.checksum != second.checksum
    check_payload(buffer.info, second)
    for (_, view), (_, tensor) in zip(named_views(buffer.info, second.data), tensors(1), strict=True):
        assert torch.equal(view, tensor.to(torch.bfloat16))


@pytest.mark.parametrize("wrong", [tensors(0)[:2], tensors(0)[::-1], [*tensors(0)[:2], ("c", torch.zeros(2))]])
def test_other_tensors_than_announced_are_not_written(wrong: list[tuple[str, Tensor]]) -> None:
    with pytest.raises((AssertionError, ValueError)):
        WeightsBuffer(INFO).write(wrong, 0, checksum=False)


def test_two_processes_read_every_version_without_a_copy_of_their_own() -> None:
    buffer = WeightsBuffer(INFO)
    memory = buffer.share()
    assert memory is not None
    with reader(memory) as (_, one), reader(memory) as (_, two):
        for seed in range(3):
            buffer.write(tensors(seed), seed, checksum=False)
            for requests in (one, two):
                assert_holds(bytes_of(requests), seed)


def test_a_reader_cannot_write() -> None:
    memory = WeightsBuffer(INFO).share()
    assert memory is not None
    data = attached(memory)
    assert data is not None
    with pytest.raises(ValueError, match="read-only"):
        data[0] = 1


def test_a_killed_reader_leaves_nothing_and_the_others_read_on() -> None:
    before, buffer = leftovers(), WeightsBuffer(INFO)
    memory = buffer.share()
    assert memory is not None
    with reader(memory) as (killed, first), reader(memory) as (_, other):
        buffer.write(tensors(0), 0, checksum=False)
        assert_holds(bytes_of(first), 0)
        os.kill(killed.pid, signal.SIGKILL)
        killed.join(REPLY_S)
        buffer.write(tensors(1), 1, checksum=False)
        assert_holds(bytes_of(other), 1)
        with reader(memory) as (_, late):
            assert_holds(bytes_of(late), 1)
        assert leftovers() == before


def write(replies: Connection) -> None:
    """In another process: share a buffer, and live until killed."""
    buffer = WeightsBuffer(INFO)
    replies.send(buffer.share())
    buffer.write(tensors(2), 0, checksum=False)
    replies.send(True)
    signal.pause()


def test_a_killed_writer_leaves_nothing_and_its_readers_keep_what_they_mapped() -> None:
    before = leftovers()
    own, other = FORK.Pipe()
    writer = FORK.Process(target=write, args=(other,), daemon=True)
    writer.start()
    assert own.poll(REPLY_S)
    memory = own.recv()
    assert own.recv() is True
    data = attached(memory)
    assert data is not None
    writer.kill()
    writer.join(REPLY_S)
    assert_holds(data, 2)
    assert attached(memory) is None
    assert leftovers() == before


def test_memory_of_another_process_with_the_same_numbers_is_not_taken_for_it() -> None:
    memory = WeightsBuffer(INFO).share()
    assert memory is not None and attached(memory) is not None
    assert attached(replace(memory, name="breadth-weights-of-another-node")) is None
    assert attached(replace(memory, descriptor=10_000)) is None
    assert attached(replace(memory, process=2**22 + 1)) is None


def test_without_memory_to_share_the_weights_are_still_written() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))  # less than the buffer
    buffer = WeightsBuffer(INFO)
    descriptors = os.listdir("/proc/self/fd")
    try:
        assert buffer.share() is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == len(descriptors)
    written = buffer.write(tensors(4), 0, checksum=False)
    assert written.data is not None
    assert_holds(written.data, 4)


# A learner and its generators, without Ray between them.


class Rank(Handle):
    """The learner rank in this process."""

    def __init__(self, role: FsdpLearner) -> None:
        self.role = role
        self.methods: list[str] = []

    def send(self, method: str, *arguments: Any) -> Any:
        self.methods.append(method)
        return getattr(self.role, method)(*arguments)

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        return self.send(method, *arguments)

    async def computed(self, result: Any, method: str, timeout_s: float | None = None) -> None:
        pass


class Receiver(RemoteGenerator):
    """A generator in this process, which records what it was sent."""

    def __init__(self, role: TransformersGenerator, *, same_node: bool) -> None:
        self.role, self.same_node, self.publish_timeout_s = role, same_node, 60.0
        self.received: list[HostWeights] = []

    async def call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        if method == "attach_weights" and not self.same_node:
            return await self.role.attach_weights(replace(arguments[0], name="elsewhere"))
        if method == "update_weights":
            data = arguments[0].data
            self.received.append(replace(arguments[0], data=None if data is None else data[:0].copy()))
        return await getattr(self.role, method)(*arguments)


def generator_of(policy: Path) -> TransformersGenerator:
    return TransformersGenerator(str(policy), config=GeneratorConfig(), dtype="float32", max_length=64)


async def parameters_of(generator: TransformersGenerator) -> dict[str, Tensor]:
    def copied(engine: Any) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in engine.model.named_parameters()}

    found: dict[str, Tensor] = await generator._call(copied)
    return found


@pytest.mark.parametrize("same_node", [(True, True), (True, False)])
def test_generators_on_the_learners_node_get_no_bytes_and_others_get_them_through_ray(
    tiny_policy: Path, other_policy: Path, same_node: tuple[bool, bool]
) -> None:
    core = joined(str(tiny_policy))
    receivers = [Receiver(generator_of(other_policy), same_node=same) for same in same_node]
    learner = RemoteLearner(
        [Rank(core)], core.config, transfer="host", tensor_parallel=1, checksum=True, publish_timeout_s=60.0
    )

    async def run() -> None:
        await learner.connect(receivers)
        for version in range(3):
            await learner.publish(version)
            step(core, batch_of(version)) if version < 2 else None
            for receiver in receivers:
                assert receiver.received[-1].version == version
                assert (receiver.received[-1].data is None) == all(same_node)
                assert (receiver.role._attached is None) == (not all(same_node))
        expected = dict(core.policy.model.named_parameters())
        for receiver in receivers:
            found = await parameters_of(receiver.role)
            assert all(torch.equal(found[name], p) for name, p in expected.items())
            await receiver.role.close()

    asyncio.run(run())
    assert learner.shared == all(same_node)


@pytest.mark.parametrize("kind", ["plain", "mixture of experts"])
def test_the_object_store_holds_one_piece_of_the_weights_at_a_time(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make: Any = make_mixture_of_experts if "mixture" in kind else make_policy
    policy, other = make(tmp_path / "policy"), make(tmp_path / "other", seed=7)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1)  # every layer is a piece
    core = joined(str(policy))
    stored, peak = set[int](), 0
    sizes = dict[int, int]()

    class Store(Rank):
        """A rank that counts the bytes of what it has returned and what still exists."""

        def send(self, method: str, *arguments: Any) -> Any:
            nonlocal peak
            result = super().send(method, *arguments)
            if method == "weights_piece":
                key = len(sizes)
                sizes[key] = result.data.nbytes
                stored.add(key)
                weakref.finalize(result.data, stored.discard, key)
                peak = max(peak, sum(sizes[held] for held in stored))
            return result

    rank, receiver = Store(core), Receiver(generator_of(other), same_node=False)
    learner = RemoteLearner(
        [rank], core.config, transfer="host", tensor_parallel=1, checksum=True, publish_timeout_s=60.0
    )

    async def run() -> None:
        await learner.connect([receiver])
        step(core, batch_of(0))
        await learner.publish(0)
        receiver.received.clear()
        step(core, batch_of(1))
        await learner.publish(1)
        assert [weights.tensors for weights in receiver.received] == [piece.tensors for piece in core.outgoing.pieces]
        found = await parameters_of(receiver.role)
        assert all(torch.equal(found[name], p) for name, p in core.policy.model.named_parameters())
        await receiver.role.close()

    asyncio.run(run())
    assert peak == max(sizes.values()) < core.outgoing.buffer.size / 2


@pytest.mark.parametrize("kind", ["plain", "untied", "mixture of experts", "bfloat16"])
def test_shared_weights_follow_training_and_checkpoints(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "policy"
    policy = make_mixture_of_experts(folder) if "mixture" in kind else make_policy(folder, tie=kind != "untied")
    dtype = "bfloat16" if kind == "bfloat16" else "float32"
    shared, plain = joined(str(policy), dtype=dtype), joined(str(policy), dtype=dtype)
    memory = shared.share_weights()
    assert memory is not None
    data = attached(memory)
    # Only parameters that the files hold as they are can lie in the buffer.
    assert shared.outgoing.buffer.holds_parameters == (kind in ("plain", "untied"))
    for version in range(3):
        assert step(shared, batch_of(version)) == step(plain, batch_of(version))
        if version == 1:
            shared.save(str(tmp_path / "saved"))
        sent, expected = shared.weights(version, True, False), plain.weights(version, True)
        assert sent is not None and expected is not None and data is not None and sent.data is None
        assert np.array_equal(data, expected.data) and sent.checksum == expected.checksum
    shared.saved()
    shared.load(str(tmp_path / "saved"))
    step(shared, batch_of(2))
    shared.weights(3)
    assert np.array_equal(data, expected.data)


@pytest.mark.parametrize("checksum", [False, True])
def test_a_publication_is_one_message_per_generator_where_training_writes_the_version(
    tiny_policy: Path, other_policy: Path, checksum: bool
) -> None:
    core = joined(str(tiny_policy))
    rank, receiver = Rank(core), Receiver(generator_of(other_policy), same_node=True)
    learner = RemoteLearner(
        [rank], core.config, transfer="host", tensor_parallel=1, checksum=checksum, publish_timeout_s=60.0
    )

    async def run() -> None:
        await learner.connect([receiver])
        for version in range(2):
            step(core, batch_of(version))
            await learner.publish(version)
        found = await parameters_of(receiver.role)
        assert all(torch.equal(found[name], p) for name, p in core.policy.model.named_parameters())
        await receiver.role.close()

    asyncio.run(run())
    assert [weights.version for weights in receiver.received] == [0, 1]
    assert rank.methods.count("weights") == (2 if checksum else 0)  # a checksum is computed by the rank


def test_no_version_is_written_while_a_generator_may_still_read_the_one_before(tiny_policy: Path) -> None:
    core = joined(str(tiny_policy))
    receiver = Receiver(generator_of(tiny_policy), same_node=True)
    learner = RemoteLearner(
        [Rank(core)], core.config, transfer="host", tensor_parallel=1, checksum=True, publish_timeout_s=60.0
    )

    async def run() -> None:
        await learner.connect([receiver])
        await learner.publish(0)
        first = asyncio.ensure_future(learner.publish(1))
        await asyncio.sleep(0)
        with pytest.raises(AssertionError, match="version 1 is being loaded"):
            await learner.publish(2)
        with pytest.raises(AssertionError, match="version 1 is being loaded"):
            await learner.update(batch_of(0), COEFFICIENTS)
        await first
        await learner.publish(2)
        await receiver.role.close()
        with pytest.raises(RuntimeError, match="has ended"):
            await learner.publish(3)
        with pytest.raises(AssertionError, match="version 3 is being loaded"):
            await learner.publish(4)

    asyncio.run(run())
