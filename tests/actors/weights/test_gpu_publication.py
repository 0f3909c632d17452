"""Weights from a learner to vLLM engines by `nccl` and `ipc`: vLLM's own classes of both sides, on a CPU."""

from pathlib import Path

import pytest

from tests.actors.generation.generator_process import GeneratorServer
from tests.conftest import make_policy

pytestmark = pytest.mark.ray

MODULE = "tests.actors.weights.gpu_publication"
BUFFER = 4096
"""Least bytes of a buffer of the transfer. The largest tensor is larger, and a policy has about ten times as many."""


@pytest.mark.parametrize(("backend", "tie"), [("nccl", True), ("nccl", False), ("ipc", True)])
def test_two_engines_serve_every_version_that_vllms_classes_carry_in_many_small_buffers(
    vllm: GeneratorServer, tmp_path: Path, backend: str, tie: bool
) -> None:
    policies = [make_policy(tmp_path / str(seed), seed=seed, hidden=128, tie=tie) for seed in range(3)]
    learner = vllm.fork()
    broadcasts = learner.run(
        MODULE,
        "check_publication",
        address=vllm.address,
        start=policies[0],
        policies=policies,
        backend=backend,
        buffer_bytes=BUFFER,
    )
    learner.end()
    assert broadcasts >= 3 * 4 if backend == "nccl" else broadcasts == 0


def test_a_stream_that_packs_a_tensor_waits_until_it_is_made_and_keeps_its_memory(
    vllm: GeneratorServer, tmp_path: Path
) -> None:
    learner = vllm.fork()
    policy = make_policy(tmp_path, hidden=128)
    taken = learner.run("tests.actors.weights.packed_on_streams", "packed", policy=policy, buffer_bytes=BUFFER)
    learner.end()
    # Two buffers are packed in turn. The optimizer writes the parameters on the default stream.
    assert set(taken) == {("default", "buffer 0"), ("default", "buffer 1")}


def test_a_generator_that_dies_during_a_publication_ends_it_with_its_name(
    vllm: GeneratorServer, tmp_path: Path
) -> None:
    policy, learner = make_policy(tmp_path, hidden=128), vllm.fork()
    error = learner.run(MODULE, "check_death", address=vllm.address, policy=policy, buffer_bytes=BUFFER, dies_in=3)
    learner.end()
    assert error.startswith("generator 1: receive failed: "), error


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_an_engine_that_was_started_again_joins_a_transfer_group_that_is_set_up_anew(
    vllm: GeneratorServer, tmp_path: Path, backend: str
) -> None:
    policies = [make_policy(tmp_path / str(seed), seed=seed, hidden=128) for seed in range(3)]
    learner = vllm.fork()
    learner.run(MODULE, "check_return", address=vllm.address, policies=policies, backend=backend, buffer_bytes=BUFFER)
    learner.end()
