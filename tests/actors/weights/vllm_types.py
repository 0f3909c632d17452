"""The learner's side of vLLM's transfer against vLLM's own types, without a GPU. Runs in a process of its own."""

from typing import Any

import torch
from vllm.distributed.weight_transfer import (
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, worker_init_payload

from actors.weights.publication import CastSource, GpuPublisher
from actors.weights.transfer import TransferClient
from tests.actors.weights.without_cuda import replace_cuda


class RecordingEngine:
    """An engine that records the four transfer calls."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def init_transfer(self, info: dict[str, Any]) -> None:
        self.info = NCCLWeightTransferInitInfo(**info)

    def start_update(self) -> None:
        self.calls.append("start")

    def receive(self, info: dict[str, Any]) -> None:
        self.calls.append(info)

    def finish_update(self, version: int) -> int:
        self.calls.append(version)
        return version


class WithoutGpu(TrainerWeightTransferEngine):
    """vLLM's `nccl` engine of the learner's side, without the broadcast."""

    @classmethod
    def trainer_init(cls, init_info: Any, *, client: Any, source: Any = None) -> "WithoutGpu":
        worker = NCCLWeightTransferInitInfo(
            master_address=init_info.master_address,
            master_port=init_info.master_port,
            rank_offset=1,
            world_size=init_info.world_size,
            packed=init_info.packed,
        )
        client.init_weight_transfer_engine(worker_init_payload(worker))
        return cls(client=client, source=source, is_sender=init_info.is_sender)

    def send_weights(self) -> None:
        self.client.start_weight_update()
        self.client.update_weights({"names": [meta.name for meta in self.source.metadata()]})
        self.client.finish_weight_update()


def check_the_learners_side() -> None:
    replace_cuda()
    assert {"nccl", "ipc"} <= set(WeightTransferTrainerFactory._registry)
    WeightTransferTrainerFactory._registry["nccl"] = lambda: WithoutGpu
    engines = [RecordingEngine(), RecordingEngine()]
    client = TransferClient(engines, tensor_parallel=4)
    assert isinstance(client, VLLMWeightSyncClient)
    publisher = GpuPublisher(
        torch.nn.Linear(2, 1), client, backend="nccl", dtype="bfloat16", rank=0, address="10.0.0.1", port=5
    )
    found = [(engine.info.rank_offset, engine.info.world_size) for engine in engines]
    assert found == [(1, 9), (5, 9)], found
    assert [publisher.publish(version) for version in (4, 4, 6)] == [4, 4, 6]
    names = {"names": ["weight", "bias"]}
    assert all(engine.calls == ["start", names, 4, "start", names, 6] for engine in engines), engines[0].calls

    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    source = CastSource(model, torch.bfloat16)
    declared = [(meta.name, meta.dtype, meta.shape) for meta in source.metadata()]
    sent = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in source]
    assert declared == sent and len(sent) == 4, (declared, sent)
