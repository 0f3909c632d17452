"""Shard a policy over the learner ranks with FSDP2, accumulate its gradients, and gather its parameters and norms."""

from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from actors.learning.adapters import is_adapted_weight, merged, name_of_adapter
from actors.learning.context import ContextPolicy
from actors.scoring.policy import Policy
from actors.weights.adapter_names import is_adapter, name_in_files
from configs.learner import LearnerConfig


def join_process_group(rendezvous: str, timeout_s: float, *, device: str, rank: int, ranks: int) -> None:
    """Join the process group of the learner ranks, if this process is in none.

    Args:
        rendezvous: "tcp://host:port" of rank 0; empty with a single rank.
        timeout_s: longest wait for the other ranks in one collective operation.
    """
    if not dist.is_initialized():
        dist.init_process_group(
            # gloo sums the norms of gradients that are in host memory (`learner.offload_states`).
            "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo",
            init_method=rendezvous or None,
            store=None if rendezvous else dist.HashStore(),
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=timeout_s),
        )


def divide(
    policy: Policy, config: LearnerConfig, timeout_s: float, *, dtype: str, device: str, ranks: int
) -> DeviceMesh:
    """Divide the policy's parameters, and with `learner.context_parallel` its tokens, among the ranks, in place.

    Args:
        timeout_s: as in `join_process_group`.

    Returns:
        The mesh of the ranks.
    """
    if isinstance(policy, ContextPolicy):
        group, _ = dist.new_subgroups(config.context_parallel, timeout=timedelta(seconds=timeout_s))
        policy.join_context(group)
    mesh = mesh_of(config.replicas, timeout_s, device=device, ranks=ranks)
    shard(policy, mesh, config, dtype=dtype)
    return mesh


def mesh_of(replicas: int, timeout_s: float, *, device: str, ranks: int) -> DeviceMesh:
    """Return the ranks in a row; or with several replicas as a mesh [replicas, ranks / replicas], where each row of
    successive ranks holds the whole policy."""
    if replicas == 1:
        return dist.device_mesh.init_device_mesh(device, (ranks,))
    layout, timeout = torch.arange(ranks).view(replicas, -1), timedelta(seconds=timeout_s)
    columns, _ = dist.new_subgroups_by_enumeration(layout.T.tolist(), timeout=timeout)
    rows, _ = dist.new_subgroups_by_enumeration(layout.tolist(), timeout=timeout)
    return DeviceMesh.from_group([columns, rows], device, mesh=layout, mesh_dim_names=("replicate", "shard"))


def shard(policy: Policy, mesh: DeviceMesh, config: LearnerConfig, *, dtype: str) -> None:
    """Shard each decoder layer, the critic and the rest of the policy, in place. Gradients are averaged over the ranks.

    Forward and backward passes run in `dtype`, the critic's in float32. Master weights, gradient reductions and hence
    the optimizer state are float32: an update changes a weight by about the learning rate, and bfloat16, with 8
    significant bits, would round most such changes to zero.
    """
    precision = MixedPrecisionPolicy(
        param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32, output_dtype=torch.float32
    )
    offload = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if config.offload_states else OffloadPolicy()
    for layer in decoder_layers(policy.model):
        fully_shard(layer, mesh=mesh, mp_policy=replace(precision, output_dtype=None), offload_policy=offload)
    if policy.critic is not None:
        of_critic = replace(precision, param_dtype=torch.float32)
        fully_shard(policy.critic, mesh=mesh, mp_policy=of_critic, offload_policy=offload)
    fully_shard(policy, mesh=mesh, mp_policy=replace(precision, cast_forward_inputs=False), offload_policy=offload)


def shard_frozen(policy: Policy, mesh: DeviceMesh, dtype: str) -> None:
    """Shard each decoder layer and the rest of a policy that is never trained, in place.

    A rank holds whole parameters of one layer at a time, and of the next one. On GPUs its shards lie in host memory:
    they are read once per microbatch, while the layer before computes (this path is not tested without a GPU).
    """
    precision = MixedPrecisionPolicy(param_dtype=getattr(torch, dtype))
    on_gpu = mesh.device_type == "cuda"
    offload = CPUOffloadPolicy(pin_memory=True) if on_gpu else OffloadPolicy()
    of_root = replace(precision, cast_forward_inputs=False)
    for module, own in (*((layer, precision) for layer in decoder_layers(policy.model)), (policy, of_root)):
        # Without a backward pass nothing would reshard the root.
        fully_shard(module, mesh=mesh, mp_policy=own, offload_policy=offload, reshard_after_forward=True)
    register_fsdp_forward_method(policy, "hidden_states")


def move_buffers(module: nn.Module, device: str) -> None:
    """Move what is no parameter, such as rotary frequencies: it is on the device, also where shards are not."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(device)


def prepare_accumulation(policy: nn.Module, accumulate: str, *, last: bool) -> None:
    """Set what the next forward and backward pass of a sharded policy gathers and reduces.

    Args:
        accumulate: "sharded" or "unsharded", see `configs.learner`.
        last: whether it is the last microbatch of an update, whose backward pass completes the gradient.
    """
    if not isinstance(policy, FSDPModule):
        return
    policy.set_is_last_backward(last)
    # Between replicas, gradients are summed once per update.
    policy.set_requires_all_reduce(last)
    if accumulate == "unsharded":
        policy.set_requires_gradient_sync(last)
        policy.set_reshard_after_forward(False)
        policy.set_reshard_after_backward(last)


def reshard(policy: nn.Module) -> None:
    """Free gathered parameters. Without a backward pass those of the root stay, and a checkpoint needs the shards."""
    for module in policy.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def full_parameters(
    model: nn.Module, dtype: torch.dtype | None = None, names: Container[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter of the model's files, unsharded, under its Hugging Face name; the weights of layers with
    adapters with these merged. The device holds one of them at a time.

    Contains collectives if the model is sharded: every rank must exhaust the iterator.

    Args:
        dtype: to which each shard is cast before it is gathered, so that no more bytes are sent than needed; None: the
            parameter's own.
        names: of the parameters to yield; None: all.
    """
    own: dict[str, Any] = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for name, p in own.items():
        if not is_adapter(name) and (names is None or name_in_files(name) in names):
            held = merged(model, name, own, _on_device) if is_adapted_weight(name, own) else p
            yield name_in_files(name), whole(held, dtype or p.dtype)


def full_adapters(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter of the model's adapters, unsharded, under its name in peft's files. Collectives as in
    `full_parameters`."""
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            yield name_of_adapter(name), whole(parameter, dtype)


def gather_only(gathered: Iterable[tuple[str, Tensor]]) -> None:
    """Take part in the collectives of `full_parameters` or `full_adapters`, and keep nothing."""
    deque(gathered, maxlen=0)


def whole(parameter: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return a parameter unsharded, on the device. A collective if it is sharded. Args: as for `full_parameters`."""
    p = _on_device(parameter.detach())
    p = p.to(dtype or p.dtype)
    return p.full_tensor() if isinstance(p, DTensor) else p


def _on_device(p: Any) -> Any:
    """Return a parameter whose shards are on the device, where they are gathered. They may be in host memory."""
    return p.to(p.device_mesh.device_type) if isinstance(p, DTensor) else p


def clip_gradient(parameters: Sequence[nn.Parameter], bound: float) -> float:
    """Clip the gradient norm over all ranks to `bound`. Returns the norm before. A collective if sharded."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, bound)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def decoder_layers(model: Any) -> list[nn.Module]:
    """Return the decoder layers of a causal language model: the units of sharding and of gradient checkpointing."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ValueError(f"policy.path: its model must hold its decoder layers in a ModuleList, got {type(model)}")
    # The list with most parameters: in a mixture of experts, a list of experts may be longer than that of the layers.
    heaviest = max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))
    return list(heaviest)
