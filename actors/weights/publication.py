"""Publish weights through vLLM's weight-transfer interface: our backend `host`, which runs in vLLM's workers, and the
sending side of vLLM's backends `nccl` and `ipc`, which runs in the learner.

Importing this module registers `host` with vLLM's factory. vLLM's workers import it to load `WorkerExtension`.
"""

import math
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
from vllm.lora.lora_model import LoRAModel
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from actors.contracts import WeightsInfo
from actors.learning.sharding import full_parameters
from actors.weights.file_names import as_in_files, meta_in_files
from actors.weights.host import info_of, named_views
from actors.weights.transfer import BUFFER_BYTES, TransferClient, unless_failed


def disable_cpu_weight_packing() -> None:
    """Keep CPU weights as ordinary parameters, in this process.

    By default vLLM packs linear layers for oneDNN and AMX when it loads them. Packed weights cannot be updated: the
    original parameters are left empty, and a tied LM head keeps its old packing. Decoding is as fast without packing.
    """
    custom_ops._supports_onednn = False
    layer_utils.check_cpu_sgl_kernel = lambda *args: False


# vLLM's workers import this module before they load a model, also those in processes of their own.
disable_cpu_weight_packing()


@dataclass
class HostInitInfo(WeightTransferInitInfo):
    """The fields of `WeightsInfo`, which vLLM passes as keywords."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str


@dataclass
class HostUpdateInfo(WeightTransferUpdateInfo):
    data: np.ndarray
    """uint8, as in `HostWeights`."""
    tensors: tuple[int, int] | None = None
    """As in `HostWeights`."""


class HostEngine(WeightTransferEngine[HostInitInfo, HostUpdateInfo]):
    """Backend `host`: copies weights from buffers in host memory into the model's parameters, in place."""

    init_info_cls, update_info_cls = HostInitInfo, HostUpdateInfo
    info: WeightsInfo | None = None
    left: set[str]
    """Names of the model's parameters that the update in progress has not loaded."""

    def init_transfer_engine(self, init_info: HostInitInfo) -> None:
        for experts in self._cpu_experts():
            size = experts.moe_config.intermediate_size_per_partition
            if experts.w2_weight.shape[2] != size:
                raise ValueError(
                    "policy.path: vLLM on CPU pads experts to a multiple of 32, and padded ones cannot be updated, "
                    f"got moe_intermediate_size {size}"
                )
        self.info = WeightsInfo(names=init_info.names, shapes=init_info.shapes, dtype=init_info.dtype)

    def start_weight_update(self) -> None:
        self.left = {name for name, _ in self.model.named_parameters()}
        # Some GPU kernels keep weights in another layout. vLLM's layerwise reload converts new weights to it, as vLLM's
        # nccl backend does. On CPU only the layout of experts changes (see `finish_weight_update`).
        if self.device.type != "cpu":
            initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: HostUpdateInfo) -> None:
        """Load all weights, or a piece."""
        assert self.info is not None, "init_weight_transfer_engine must be called first"
        part = info_of(self.info, update_info.tensors or (0, len(self.info.names)))
        load_weights: Any = self.model.load_weights  # every vLLM model has it
        loaded = load_weights(named_views(part, update_info.data))
        self.left -= self.left if loaded is None else loaded  # some models do not say what they have loaded

    def finish_weight_update(self) -> None:
        """End the update. Raise RuntimeError if it lacked any parameter of the model."""
        if self.left:
            raise RuntimeError(f"the payload has no weights for {sorted(self.left)}")
        if self.device.type != "cpu":
            finalize_layerwise_reload(self.model, self.model_config)
        # vLLM packs experts for its CPU kernel when it loads a model. An update writes them as the files hold them.
        for experts in self._cpu_experts():
            experts.quant_method.moe_kernel.fused_experts.process_weights_after_loading(experts)

    def _cpu_experts(self) -> list[Any]:
        """Return the layers of experts, if their kernel is one for CPUs."""
        on_cpu = self.device.type == "cpu"
        return [layer for layer in self.model.modules() if on_cpu and isinstance(layer, RoutedExperts)]

    def shutdown(self) -> None:
        self.info = None


WeightTransferEngineFactory.register_engine("host", HostEngine)


ADAPTER = LoRARequest(lora_name="policy", lora_int_id=1, lora_path="published")
"""Marks requests that the policy with its adapter answers. There is no such path: `load_adapter` gives the adapter."""


class WorkerExtension:
    """Methods that vLLM's workers get. They import this module because `worker_extension_cls` names this class."""

    model_runner: Any

    def clear_weights(self) -> None:
        """Set every parameter to 0, so that the log-probs show whether an update loads all of them."""
        for parameter in self.model_runner.model.parameters():
            parameter.data.zero_()

    def load_adapter(self, info: WeightsInfo, data: np.ndarray, settings: dict[str, Any]) -> None:
        """Replace the LoRA adapter by one in host memory. vLLM itself reads adapters from files only.

        Args:
            info, data: tensors of the adapter, and their bytes.
            settings: peft's.

        Raises:
            ValueError: vLLM does not compute a layer of the adapter with it.
        """
        workers = self.model_runner.lora_manager
        manager = workers._adapter_manager
        mapper = getattr(manager.model, "hf_to_vllm_mapper", None)
        adapter = LoRAModel.from_lora_tensors(
            ADAPTER.lora_int_id,
            # Copied, because vLLM scales them in place.
            {name: view.clone() for name, view in named_views(info, data)},
            PEFTHelper.from_dict(settings),
            device="cpu",
            dtype=workers.lora_config.lora_dtype,
            weights_mapper=None if mapper is None else mapper.get_rename_mapper(),
        )
        manager.remove_adapter(adapter.id)
        manager.add_adapter(adapter)
        unused = sorted(adapter.loras.keys() - manager.modules.keys())
        if unused:
            rule = "must be merged, or learner.lora.target_modules without layers that vLLM does not adapt"
            raise ValueError(f"learner.lora.publish: {rule}, got an adapter of {unused[:3]}")
        manager.activate_adapter(adapter.id)


class CastSource(ModuleSource):
    """Iterates over a learner's float32 master weights, cast to the generators' dtype, then unsharded, as the policy's
    files hold them. Iterating contains collectives.

    vLLM's `nccl` backend takes tensors on two streams in turn, and those of a layer, which are made together, on both.
    So all are made on the default stream, on which the optimizer writes the parameters. The stream that takes a tensor
    waits until it is made, and its memory is not used again before that stream has read it.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(module)
        self.dtype = dtype

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, t.dtype, tuple(t.shape)) for name, t in meta_in_files(self._module, self.dtype)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        named = as_in_files(self._module, full_parameters(self._module, self.dtype))
        making = torch.cuda.default_stream()
        while True:
            with torch.cuda.stream(making):
                made = next(named, None)
            if made is None:
                return
            taking = torch.cuda.current_stream()
            taking.wait_stream(making)
            made[1].record_stream(taking)
            yield made


class GpuPublisher:
    """Sending side of vLLM's weight transfer, one per learner rank. All ranks must build it and publish together.

    Runs on GPUs. The tests run vLLM's classes of both sides on a CPU, with gloo in the place of NCCL and shared memory
    in that of CUDA IPC.

    Args:
        client: sends vLLM's calls to the generators.
        backend: "nccl" if the generators are on other GPUs, "ipc" if they are on the learners' GPUs.
        dtype: of the weights sent.
        address, port: of rank 0, for `nccl`. Its transfer group is rank 0 and every worker of every generator.
    """

    def __init__(
        self,
        module: nn.Module,
        client: TransferClient,
        *,
        backend: str,
        dtype: str,
        rank: int,
        address: str,
        port: int,
    ) -> None:
        assert backend in ("nccl", "ipc"), backend
        self.client, self.rank = client, rank
        self.version = -1
        source = CastSource(module, getattr(torch, dtype))
        size = max(BUFFER_BYTES, *(math.prod(meta.shape) * meta.dtype.itemsize for meta in source.metadata()))
        info = (
            NCCLTrainerInitInfo(address, port, client.world_size, packed_buffer_size_bytes=size, rank=rank)
            if backend == "nccl"
            # Packed: otherwise a copy of all weights stays on the GPU of every learner until all engines have theirs.
            else IPCTrainerInitInfo(packed=True, packed_buffer_size_bytes=size, rank=rank)
        )
        self.engine: TrainerWeightTransferEngine = unless_failed(
            lambda: WeightTransferTrainerFactory.trainer_init(info, client=client, source=source), client
        )

    def publish(self, version: int) -> int:
        """Send the weights as `version`, and return it. Sending a version again does nothing.

        Raises:
            ValueError: the version is older than the last one sent.
            RuntimeError: a generator failed, which is named. Nothing can be published after that.
        """
        if version < self.version:
            raise ValueError(f"weights.version: must not go back from {self.version}, got {version}")
        if version > self.version:
            self.client.version = version
            unless_failed(self.engine.send_weights, self.client)
            self.version = version
        return self.version

    def close(self) -> None:
        """End the transfer group, so that another one can be built, with other generators."""
        self.engine.shutdown()
