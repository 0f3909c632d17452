"""A learner that publishes over vLLM's own classes to two vLLM engines. Runs in a process that has vLLM imported."""

import socket
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import actors.weights.publication as publication
from actors.contracts import GenerationJob
from actors.weights.transfer import TransferClient
from tests.actors.generation.collected import answers
from tests.actors.generation.generator_process import GeneratorProcess
from tests.actors.weights import without_cuda

MODULE = "tests.actors.weights.without_cuda"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def generators(address: str, policy: Path, backend: str, dies_in: int | None = None) -> list[GeneratorProcess]:
    """Start two engines with the weights in `policy`. The second ends in broadcast number `dies_in`."""
    made = []
    for number in range(2):
        process = GeneratorProcess(address)
        process.run(MODULE, "replace_cuda", dies_in=dies_in if number else None)
        made.append(process.build(policy, max_sequences=4, transfer=backend))
    return made


def publisher(policy: Path, client: TransferClient, backend: str, buffer_bytes: int) -> Any:
    without_cuda.replace_cuda()
    publication.BUFFER_BYTES = buffer_bytes
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    return publication.GpuPublisher(
        model, client, backend=backend, dtype="float32", rank=0, address="127.0.0.1", port=free_port()
    )


def job() -> GenerationJob:
    tokens = np.random.default_rng(0).integers(2, 250, size=40).astype(np.int32)
    return GenerationJob(key="a", prompt_id="a", prompt_tokens=tokens, seeds=(1, 2), temperature=1.0, max_new_tokens=20)


def assert_serves(generator: GeneratorProcess, policy: Path, version: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
    for _, trajectory in answers(generator, [job()]):
        assert trajectory.last_version == version
        ids = torch.as_tensor(trajectory.tokens, dtype=torch.long)
        with torch.no_grad():
            logps = torch.log_softmax(model(ids[None]).logits[0, :-1], -1).gather(-1, ids[1:, None]).squeeze(-1)
        mask = trajectory.mask[1:]
        np.testing.assert_allclose(trajectory.logp_sampler[1:][mask], logps[mask], atol=1e-4)


def check_publication(address: str, start: Path, policies: list[Path], backend: str, buffer_bytes: int) -> int:
    """Publish several policies to two engines, and compare their log-probs. Return the number of broadcasts."""
    engines = generators(address, start, backend)
    try:
        client = TransferClient(engines, tensor_parallel=1)
        sender = publisher(policies[0], client, backend, buffer_bytes)
        for version, policy in enumerate(policies):
            source = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
            sender.engine.source._module.load_state_dict(source.state_dict())
            assert sender.publish(version) == version
            for engine in engines:
                assert_serves(engine, policy, version)
        without_cuda.remove_shared()
        return without_cuda.GlooCommunicator.broadcasts
    finally:
        for engine in engines:
            engine.end()


def check_return(address: str, policies: list[Path], backend: str, buffer_bytes: int) -> None:
    """Publish to two engines, replace the second, and publish the same version, then another one, to both."""
    engines = generators(address, policies[0], backend)
    try:
        sender = publisher(policies[1], TransferClient(engines, tensor_parallel=1), backend, buffer_bytes)
        sender.publish(0)
        engines.pop().end()
        [again, *rest] = generators(address, policies[0], backend)
        for other in rest:
            other.end()
        engines.append(again)
        sender.close()
        sender = publisher(policies[1], TransferClient(engines, tensor_parallel=1), backend, buffer_bytes)
        sender.publish(0)
        for engine in engines:
            assert_serves(engine, policies[1], 0)
        source = AutoModelForCausalLM.from_pretrained(policies[2], dtype=torch.float32)
        sender.engine.source._module.load_state_dict(source.state_dict())
        sender.publish(1)
        for engine in engines:
            assert_serves(engine, policies[2], 1)
        without_cuda.remove_shared()
    finally:
        for engine in engines:
            engine.end()


def check_death(address: str, policy: Path, buffer_bytes: int, dies_in: int) -> str:
    """Publish to two engines, the second of which dies on the way. Return the error."""
    engines = generators(address, policy, "nccl", dies_in)
    try:
        sender = publisher(policy, TransferClient(engines, tensor_parallel=1), "nccl", buffer_bytes)
        try:
            sender.publish(0)
        except RuntimeError as error:
            return str(error)
        raise AssertionError("the publication to a dead engine succeeded")
    finally:
        for engine in engines:
            engine.end()
