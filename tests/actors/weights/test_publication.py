"""New weights: packing, loading into both engines, and vLLM's four transfer calls to several engines."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors.contracts import GenerationJob, HostWeights, WeightsInfo
from actors.generation.transformers_engine import TransformersGenerator
from actors.weights import transfer
from actors.weights.file_names import as_in_files
from actors.weights.host import check_payload, named_views, pack, weights_info
from actors.weights.transfer import TransferClient, unless_failed
from configs.generator import GeneratorConfig
from tests.actors.generation.collected import Keyed, answers, collect, keyed
from tests.actors.generation.generator_process import GeneratorServer
from tests.conftest import make_mixture_of_experts, make_policy

COLD = 0.01
"""A temperature at which sampling is greedy up to ties."""


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def in_files(folder: Path) -> list[tuple[str, torch.Tensor]]:
    model = load(folder)
    return list(as_in_files(model, model.named_parameters()))


# The bytes.


def some_tensors() -> list[tuple[str, torch.Tensor]]:
    return [("a", torch.arange(6.0).view(2, 3)), ("b.c", torch.tensor(7.0)), ("d", torch.randn(5, 4).t())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_payload_holds_the_tensors_bit_for_bit_and_reading_copies_nothing(dtype: torch.dtype) -> None:
    named = [(name, tensor.to(dtype)) for name, tensor in some_tensors()]
    info, weights = weights_info(named), pack(named, version=3)
    assert info.shapes == ((2, 3), (), (4, 5)) and info.dtype == str(dtype).removeprefix("torch.")
    weights.data.flags.writeable = False  # as it comes out of Ray's object store
    views = list(named_views(info, weights.data))
    for (name, tensor), (got_name, view) in zip(named, views, strict=True):
        assert got_name == name and torch.equal(view, tensor)
    start = weights.data.__array_interface__["data"][0]
    assert [view.data_ptr() - start for _, view in views] == [0, 6 * dtype.itemsize, 7 * dtype.itemsize]


def test_a_payload_does_not_change_with_the_weights_it_was_packed_from() -> None:
    named = some_tensors()
    weights = pack(named, version=0)
    before = weights.data.copy()
    named[0][1].add_(1)
    assert np.array_equal(weights.data, before)


def test_a_payload_of_another_size_or_with_a_flipped_bit_is_refused() -> None:
    named = some_tensors()
    info, weights = weights_info(named), pack(named, version=2, checksum=True)
    check_payload(info, weights)
    with pytest.raises(ValueError, match=r"weights\.data: version 2 must be 108 bytes"):
        check_payload(info, HostWeights(version=2, data=weights.data[:-4]))
    flipped = weights.data.copy()
    flipped[17] ^= 4
    with pytest.raises(ValueError, match=r"weights\.checksum: version 2"):
        check_payload(info, HostWeights(version=2, data=flipped, checksum=weights.checksum))


# Both engines. Each starts with one random policy and receives the weights of others of the same shape.


@pytest.fixture(scope="module", params=["tied", "untied", "mixture of experts"])
def policies(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, tie = tmp_path_factory.mktemp("published"), request.param == "tied"
    if request.param == "mixture of experts":
        return [make_mixture_of_experts(folder / str(seed), seed=seed) for seed in range(3)]
    return [make_policy(folder / str(seed), seed=seed, hidden=128, tie=tie) for seed in range(3)]


class Published:
    """A generator and the version it was last given; versions go up through the tests that share it."""

    def __init__(self, generator: Any, policies: list[Path]) -> None:
        self.generator, self.policies, self.version = generator, policies, 0
        self.sizes = weights_info(in_files(policies[0]))
        asyncio.run(generator.init_weights(self.sizes))

    def payload(self, policy: int, **changes: Any) -> HostWeights:
        packed = pack(in_files(self.policies[policy]), self.version, checksum=True)
        fields = {"version": packed.version, "data": packed.data, "checksum": packed.checksum}
        return HostWeights(**{**fields, **changes})

    def publish(self, policy: int) -> int:
        self.version += 1
        served: int = asyncio.run(self.generator.update_weights(self.payload(policy)))
        return served

    def answers(self, jobs: Sequence[GenerationJob]) -> Keyed:
        return answers(self.generator, jobs)


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.ray)])
def published(request: pytest.FixtureRequest, policies: list[Path]) -> Iterator[Published]:
    if request.param == "vllm":
        vllm: GeneratorServer = request.getfixturevalue("vllm")
        generator: Any = vllm.fork().build(policies[0], max_sequences=8)
    else:
        config = GeneratorConfig(max_sequences=8, timeout_s=100)
        generator = TransformersGenerator(str(policies[0]), config=config, dtype="float32", max_length=256)
    yield Published(generator, policies)
    asyncio.run(generator.close())


def job(key: str, count: int, *, temperature: float = 1.0, new: int = 20, prompt: int = 100) -> GenerationJob:
    """A prompt of three key-value blocks, the same one in every job: a stale prefix cache would show."""
    tokens = np.random.default_rng(0).integers(2, 250, size=prompt).astype(np.int32)
    return GenerationJob(
        key=key,
        prompt_id=key,
        prompt_tokens=tokens,
        seeds=tuple(range(count)),
        temperature=temperature,
        max_new_tokens=new,
    )


def assert_answers_of(model: Any, done: Keyed, temperature: float) -> None:
    """Log-probs within 1e-4 of the model's own; with a cold temperature, its greedy tokens."""
    for _, trajectory in done:
        ids = torch.as_tensor(trajectory.tokens, dtype=torch.long)
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        drawn = logits.gather(-1, ids[1:, None]).squeeze(-1)
        mask = trajectory.mask[1:]
        if temperature == COLD:
            assert ((logits.max(-1).values - drawn)[mask] < 15 * COLD).all()
        else:
            expected = torch.log_softmax(logits / temperature, -1).gather(-1, ids[1:, None]).squeeze(-1)
            np.testing.assert_allclose(trajectory.logp_sampler[1:][mask], expected[mask], atol=1e-4)


def test_after_an_update_tokens_and_log_probs_are_those_of_the_new_weights(published: Published) -> None:
    for policy in (0, 1, 2, 1):
        assert published.publish(policy) == published.version
        model = load(published.policies[policy])
        for temperature in (1.0, COLD):
            done = published.answers([job("a", 4, temperature=temperature)])
            assert_answers_of(model, done, temperature)
            assert {(t.first_version, t.last_version) for _, t in done} == {(published.version, published.version)}


def pieces_of_payload(published: Published, policy: int, version: int) -> list[HostWeights]:
    """The payload in three pieces."""
    named = in_files(published.policies[policy])
    bounds = [0, 1, len(named) // 2, len(named)]
    parts = [(pack(named[first:end], version, checksum=True), (first, end)) for first, end in pairwise(bounds)]
    return [replace(packed, tensors=tensors) for packed, tensors in parts]


def test_a_version_in_pieces_is_served_after_the_last_and_nothing_is_decoded_before(published: Published) -> None:
    published.publish(0)
    old, published.version = published.version, published.version + 1
    first, *between, last = pieces_of_payload(published, 2, published.version)

    async def run() -> Keyed:
        for piece in (first, *between):
            assert await published.generator.update_weights(piece) == old
        await published.generator.submit([job("paused", 2)])
        assert not len(await published.generator.collect(0.5))
        assert await published.generator.update_weights(last) == published.version
        return await collect(published.generator, [job("paused", 2)], 2)

    done = asyncio.run(run())
    assert_answers_of(load(published.policies[2]), done, 1.0)
    assert {(t.first_version, t.last_version) for _, t in done} == {(published.version, published.version)}


def test_a_version_can_be_repeated_but_not_taken_back(published: Published) -> None:
    published.publish(0)
    again = published.payload(1)
    assert asyncio.run(published.generator.update_weights(again)) == published.version
    older = published.payload(1, version=published.version - 1)
    with pytest.raises(ValueError, match=r"weights\.version"):
        asyncio.run(published.generator.update_weights(older))
    assert_answers_of(load(published.policies[0]), published.answers([job("b", 2)]), 1.0)


def test_a_damaged_payload_is_refused_before_anything_is_loaded(published: Published) -> None:
    published.publish(0)
    following, whole = published.version + 1, published.payload(1)
    flipped = whole.data.copy()
    flipped[len(flipped) // 2] ^= 1
    for damaged, field in ((flipped, "checksum"), (whole.data[:-8], "data")):
        weights = published.payload(1, version=following, data=damaged)
        with pytest.raises(ValueError, match=rf"weights\.{field}"):
            asyncio.run(published.generator.update_weights(weights))
    done = published.answers([job("c", 2)])
    assert {t.last_version for _, t in done} == {published.version}
    assert_answers_of(load(published.policies[0]), done, 1.0)


def test_the_versions_of_an_answer_show_an_update_during_its_decoding(published: Published) -> None:
    published.publish(0)
    old = published.version

    jobs = [job("short", 4, new=2), job("long", 8, new=150), job("waiting", 16, new=20)]

    async def run() -> Keyed:
        await published.generator.submit(jobs)
        done = keyed(await published.generator.collect(100.0), {one.key: one for one in jobs})
        published.version += 1
        assert await published.generator.update_weights(published.payload(1)) == published.version
        return done + await collect(published.generator, jobs, 28 - len(done))

    done = asyncio.run(run())
    versions = {
        key: [(t.first_version, t.last_version) for own, t in done if own == key]
        for key in ("short", "long", "waiting")
    }
    assert set(versions["short"]) == {(old, old)}
    assert set(versions["waiting"][-8:]) == {(old + 1, old + 1)}
    assert all(first <= last for pairs in versions.values() for first, last in pairs)
    assert all(t.finish_reason in ("stop", "length") for _, t in done)
    assert (old, old + 1) in versions["long"]
    fresh = [(key, t) for key, t in done if t.first_version == old + 1]
    assert_answers_of(load(published.policies[1]), fresh, 1.0)


@pytest.mark.parametrize("published", [pytest.param("vllm", marks=pytest.mark.ray)], indirect=True)
def test_the_four_transfer_calls_one_by_one_do_what_an_update_does(published: Published) -> None:
    published.publish(0)
    published.version += 1
    client = TransferClient([published.generator], tensor_parallel=1)
    info, child = published.sizes, published.generator
    client.version = published.version
    client.init_weight_transfer_engine({"names": info.names, "shapes": info.shapes, "dtype": info.dtype})
    client.start_weight_update()

    async def decode_nothing() -> int:
        await child.submit([job("paused", 2)])
        return len(await child.collect(0.5))

    assert asyncio.run(decode_nothing()) == 0
    client.update_weights({"data": published.payload(2).data})
    client.finish_weight_update()
    assert_answers_of(load(published.policies[2]), asyncio.run(collect(child, [job("paused", 2)], 2)), 1.0)


@pytest.mark.ray
def test_a_tensor_that_the_first_update_leaves_out_shows_in_the_log_probs(
    vllm: GeneratorServer, tmp_path: Path
) -> None:
    folder = make_mixture_of_experts(tmp_path / "policy")
    generator = vllm.fork().build(folder, max_sequences=8)
    try:
        published = Published(generator, [folder])
        kept = [(name, tensor) for name, tensor in in_files(folder) if ".experts.3." not in name]
        asyncio.run(generator.init_weights(weights_info(kept)))
        asyncio.run(generator.update_weights(pack(kept, 1)))  # vLLM reports all of its parameters as loaded
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            assert_answers_of(load(folder), published.answers([job("a", 4)]), 1.0)
    finally:
        asyncio.run(generator.close())


def test_an_engine_ends_when_a_piece_of_the_weights_is_left_out(policies: list[Path]) -> None:
    config = GeneratorConfig(timeout_s=100)
    generator = TransformersGenerator(str(policies[0]), config=config, dtype="float32", max_length=256)
    published = Published(generator, policies)
    first, _, last = pieces_of_payload(published, 1, 1)
    asyncio.run(generator.update_weights(first))
    with pytest.raises(AssertionError, match=r"the piece must begin with tensor 1, not \d+"):
        asyncio.run(generator.update_weights(last))
    with pytest.raises(RuntimeError, match="engine has ended"):
        asyncio.run(generator.collect(0.1))
    asyncio.run(generator.close())


def test_the_transformers_engine_refuses_weights_of_another_model(tiny_policy: Path) -> None:
    generator = TransformersGenerator(str(tiny_policy), config=GeneratorConfig(), dtype="float32", max_length=64)
    names = [name for name, _ in load(tiny_policy).named_parameters()]
    info = WeightsInfo(names=tuple(names), shapes=((1,),) * len(names), dtype="float32")
    with pytest.raises(ValueError, match=r"weights: .*model\.embed_tokens\.weight"):
        asyncio.run(generator.init_weights(info))
    asyncio.run(generator.close())


# The learner's side of vLLM's transfer between GPUs, as far as it works without a GPU.


class RecordingReceiver:
    """A generator that records the transfer calls of a learner."""

    def __init__(self, barrier: threading.Barrier | None = None) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.barrier = barrier

    def _note(self, name: str, value: Any) -> None:
        self.calls.append((name, value))
        if self.barrier is not None:
            self.barrier.wait(10)

    def init_transfer(self, info: dict[str, Any]) -> None:
        self._note("init_transfer", info)

    def start_update(self) -> None:
        self._note("start_update", None)

    def receive(self, info: dict[str, Any]) -> None:
        self._note("receive", info)

    def finish_update(self, version: int) -> int:
        self._note("finish_update", version)
        return version


NCCL_INIT = {"master_address": "10.0.0.1", "master_port": 5, "rank_offset": 1, "world_size": 7, "packed": True}


def test_every_engine_has_ranks_of_its_own_in_the_transfer_group() -> None:
    receivers = [RecordingReceiver() for _ in range(3)]
    client = TransferClient(receivers, tensor_parallel=2)
    assert client.world_size == 7
    client.init_weight_transfer_engine(NCCL_INIT)
    assert [receiver.calls for receiver in receivers] == [
        [("init_transfer", NCCL_INIT | {"rank_offset": offset})] for offset in (1, 3, 5)
    ]
    ranks = [offset + inside for offset in (1, 3, 5) for inside in range(2)]
    assert [0, *ranks] == list(range(client.world_size))


def test_a_backend_without_ranks_gets_its_info_unchanged() -> None:
    receiver = RecordingReceiver()
    TransferClient([receiver], tensor_parallel=4).init_weight_transfer_engine({"packed": False})
    assert receiver.calls == [("init_transfer", {"packed": False})]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.init_weight_transfer_engine(dict(NCCL_INIT)),
        lambda client: client.start_weight_update(),
        lambda client: client.update_weights({}),
        lambda client: client.finish_weight_update(),
    ],
)
def test_a_transfer_call_reaches_all_engines_at_once(call: Callable[[TransferClient], None]) -> None:
    barrier = threading.Barrier(3)
    receivers = [RecordingReceiver(barrier) for _ in range(3)]
    call(TransferClient(receivers, tensor_parallel=1))
    assert not barrier.broken and all(len(receiver.calls) == 1 for receiver in receivers)


def test_the_engines_serve_the_announced_version() -> None:
    receiver = RecordingReceiver()
    client = TransferClient([receiver], tensor_parallel=1)
    client.version = 12
    client.finish_weight_update()
    client.finish_weight_update("13")
    assert receiver.calls == [("finish_update", 12), ("finish_update", 13)]


def test_the_error_of_one_engine_is_raised_with_its_number() -> None:
    class Broken(RecordingReceiver):
        def receive(self, info: dict[str, Any]) -> None:
            raise ConnectionError("peer is gone")

    client = TransferClient([RecordingReceiver(), Broken()], tensor_parallel=1)
    with pytest.raises(RuntimeError, match=r"^generator 1: receive failed: ConnectionError\('peer is gone'\)$"):
        client.update_weights({})


class Waiting(RecordingReceiver):
    """A generator that waits for the others, as in a collective, until the test ends."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def receive(self, info: dict[str, Any]) -> None:
        assert self.released.wait(60)


def test_a_failed_engine_ends_a_call_for_which_another_engine_and_the_learner_still_wait() -> None:
    class Gone(RecordingReceiver):
        def receive(self, info: dict[str, Any]) -> None:
            raise ConnectionError("its process died")

    waiting = Waiting()
    client = TransferClient([waiting, Gone()], tensor_parallel=1)

    def send() -> None:  # as vLLM's sender: the calls run beside a collective
        call = threading.Thread(target=receive, args=(client,))
        call.start()
        waiting.receive({})
        call.join()

    with pytest.raises(RuntimeError, match=r"generator 1: receive failed: .*its process died"):
        unless_failed(send, client)
    with pytest.raises(RuntimeError, match="generator 1"):
        unless_failed(lambda: None, client)
    waiting.released.set()


def receive(client: TransferClient) -> None:
    with contextlib.suppress(RuntimeError):
        client.update_weights({})


def test_an_error_of_the_learner_itself_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "NAMING_S", 0.01)
    client = TransferClient([RecordingReceiver()], tensor_parallel=1)
    with pytest.raises(ZeroDivisionError):
        unless_failed(lambda: 1 / 0, client)
    assert unless_failed(lambda: 3, client) == 3


@pytest.mark.ray
def test_the_learners_side_agrees_with_vllms_own_types(vllm: GeneratorServer) -> None:
    process = vllm.fork()
    process.run("tests.actors.weights.vllm_types", "check_the_learners_side")
    process.end()
