"""New weights through vLLM's weight-transfer interface, the only door: backend `host` inside the engine's workers, and
the learner's side of vLLM's own `nccl` and `ipc` backends.

Importing this module registers `host` with vLLM's factory, in every worker process that names `WorkerExtension`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import vllm._custom_ops as custom_ops
import vllm.model_executor.layers.utils as layer_utils
from torch import Tensor, nn
from vllm.distributed.weight_transfer import ModuleSource, ParamMeta, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import (
    TrainerWeightTransferEngine,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.contracts import WeightsInfo
from actors.weights.host import named_views
from actors.weights.transfer import TransferClient


def disable_cpu_weight_packing() -> None:
    """Keep CPU weights as ordinary parameters; call it before the engine is built.

    vLLM packs linear layers for oneDNN and AMX when it loads them, and an update into packed weights is lost (they are
    left empty) or wrong (a tied head keeps its old packing). Decoding is as fast without.
    """
    custom_ops._supports_onednn = False
    layer_utils.check_cpu_sgl_kernel = lambda *args: False


@dataclass
class HostInitInfo(WeightTransferInitInfo):
    """`WeightsInfo`, as the keywords vLLM passes."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str


@dataclass
class HostUpdateInfo(WeightTransferUpdateInfo):
    data: np.ndarray
    """uint8, as in `HostWeights`."""


class HostEngine(WeightTransferEngine[HostInitInfo, HostUpdateInfo]):
    """Backend `host`: all weights from one buffer in host memory, into the parameters where they are."""

    init_info_cls, update_info_cls = HostInitInfo, HostUpdateInfo
    info: WeightsInfo | None = None

    def init_transfer_engine(self, init_info: HostInitInfo) -> None:
        self.info = WeightsInfo(names=init_info.names, shapes=init_info.shapes, dtype=init_info.dtype)

    def start_weight_update(self) -> None:
        # On a GPU some kernels hold weights in a layout of their own; vLLM's layerwise reload redoes it, as its nccl
        # backend does. On CPU nothing is packed.
        if self.device.type != "cpu":
            initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: HostUpdateInfo) -> None:
        """Raises RuntimeError when the payload left a parameter as it was."""
        assert self.info is not None, "init_weight_transfer_engine comes first"
        wanted = {name for name, _ in self.model.named_parameters()}
        load_weights: Any = self.model.load_weights  # every vLLM model has it
        loaded = load_weights(named_views(self.info, update_info.data))
        if loaded is not None and wanted - loaded:
            raise RuntimeError(f"the payload holds no weights for {sorted(wanted - loaded)}")

    def finish_weight_update(self) -> None:
        if self.device.type != "cpu":
            finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        self.info = None


WeightTransferEngineFactory.register_engine("host", HostEngine)


class WorkerExtension:
    """Names this module to vLLM's workers (`worker_extension_cls`); it adds nothing to them."""


class CastSource(ModuleSource):
    """A learner's float32 master weights, whole, in the dtype the generators compute in. Iterating is a collective."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(module)
        self.dtype = dtype

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(meta.name, self.dtype, meta.shape) for meta in super().metadata()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in super().__iter__():
            yield name, tensor.detach().to(self.dtype)


class GpuPublisher:
    """The learner's side of vLLM's `nccl` (generators on other GPUs) and `ipc` (on the learners' own GPUs) backends.

    One per learner rank, built and called by all ranks together. It runs on GPUs only: the tests cover the calls it
    makes to the generators, not the transfer. For `nccl`, `address` and `port` are those of rank 0, and the transfer
    group is rank 0 and every worker of every generator.
    """

    def __init__(
        self,
        module: nn.Module,
        client: TransferClient,
        *,
        backend: str,
        dtype: str,
        rank: int,
        address: str = "",
        port: int = 0,
    ) -> None:
        assert backend in ("nccl", "ipc"), backend
        self.client, self.rank = client, rank
        self.version = -1
        info = (
            NCCLTrainerInitInfo(address, port, client.world_size, rank=rank)
            if backend == "nccl"
            else IPCTrainerInitInfo(rank=rank)
        )
        source = CastSource(module, getattr(torch, dtype))
        self.engine: TrainerWeightTransferEngine = WeightTransferTrainerFactory.trainer_init(
            info, client=client, source=source
        )

    def publish(self, version: int) -> int:
        """Send the weights as `version`; sending a version again does nothing."""
        if version < self.version:
            raise ValueError(f"weights.version: must not go back from {self.version}, got {version}")
        if version > self.version:
            self.client.version = version
            self.engine.send_weights()
            self.version = version
        return self.version
