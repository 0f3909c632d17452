"""Shard a policy over the learner ranks with FSDP2, and gather its parameters and gradient norms."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from actors.scoring.policy import Policy


def join_process_group(rendezvous: str, timeout_s: float, *, device: str, rank: int, ranks: int) -> None:
    """Join the process group of the learner ranks, if this process is in none.

    Args:
        rendezvous: "tcp://host:port" of rank 0; empty with a single rank.
        timeout_s: longest wait for the other ranks in one collective operation.
    """
    if not dist.is_initialized():
        dist.init_process_group(
            "nccl" if device == "cuda" else "gloo",
            init_method=rendezvous or None,
            store=None if rendezvous else dist.HashStore(),
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=timeout_s),
        )


def shard(policy: Policy, *, dtype: str, device: str, ranks: int) -> None:
    """Shard each decoder layer, the critic and the rest of the policy, in place.

    Forward and backward passes run in `dtype`, the critic's in float32. Master weights, gradient reductions and hence
    the optimizer state are float32: an update changes a weight by about the learning rate, and bfloat16, with 8
    significant bits, would round most such changes to zero.
    """
    mesh = dist.device_mesh.init_device_mesh(device, (ranks,))
    precision = MixedPrecisionPolicy(
        param_dtype=getattr(torch, dtype), reduce_dtype=torch.float32, output_dtype=torch.float32
    )
    for layer in decoder_layers(policy.model):
        fully_shard(layer, mesh=mesh, mp_policy=replace(precision, output_dtype=None))
    if policy.critic is not None:
        fully_shard(policy.critic, mesh=mesh, mp_policy=replace(precision, param_dtype=torch.float32))
    fully_shard(policy, mesh=mesh, mp_policy=replace(precision, cast_forward_inputs=False))


def full_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield every parameter, unsharded, under its Hugging Face name. The device holds one of them at a time.

    Contains collectives if the model is sharded: every rank must exhaust the iterator.
    """
    for name, parameter in model.named_parameters():
        p = parameter.detach()
        yield name, p.full_tensor() if isinstance(p, DTensor) else p


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
