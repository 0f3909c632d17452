"""Learner: one FSDP2 rank of the policy being trained. The objective decides what is optimised; this executes it."""

import contextlib
import math
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from actors.contracts import HostWeights, WeightsInfo
from actors.host_weights import pack, weights_info
from actors.policy import Policy, load_model, load_tokenizer
from configs.objective_schema import ObjectiveConfig
from configs.schema import LearnerConfig
from objectives.diagnostics import Stats, TensorStats, to_stats
from objectives.objective import loss
from trajectories.batch import Batch, deal, partition


def plan_updates(batch: Batch, config: LearnerConfig, ranks: int) -> list[list[list[Batch]]]:
    """What each rank does with a batch: [rank][update][microbatch], the same shape on every rank."""
    updates = [partition(part, ranks, config.token_budget) for part in deal(batch, config.updates_per_batch)]
    return [[update[rank] for update in updates] for rank in range(ranks)]


def learning_rate(config: LearnerConfig, update: int, total: int) -> float:
    """Rate of the update numbered from 0: linear warm-up, then the schedule down to 0 at `total`."""
    if update < config.warmup_steps:
        return config.learning_rate * (update + 1) / config.warmup_steps
    done = (update - config.warmup_steps) / max(1, total - config.warmup_steps)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    if config.schedule == "linear":
        return config.learning_rate * max(0.0, 1 - done)
    return config.learning_rate


class FsdpLearner:
    """One rank. With several ranks, or a bfloat16 forward, the policy is sharded with FSDP2; every rank must be called
    with the same sequence of methods, since each of them may hold a collective."""

    def __init__(
        self,
        policy_path: str,
        *,
        config: LearnerConfig,
        objective: ObjectiveConfig,
        dtype: str,
        temperature: float,
        total_steps: int,
        device: str = "cpu",
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.config, self.objective, self.dtype, self.device, self.rank, self.ranks = (
            config, objective, dtype, device, rank, ranks,
        )  # fmt: skip
        self.total_updates = total_steps * config.updates_per_batch
        self.tokenizer = load_tokenizer(policy_path)
        model = load_model(policy_path)  # not in training mode: dropout would change what the log-probs are of
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            for layer in _decoder_layers(model):
                layer.training = True  # transformers asks for it before it checkpoints; what is inside stays as it is
        self.policy = Policy(model, layout=config.layout, logits_chunk=config.logits_chunk, temperature=temperature)
        self.sharded = ranks > 1 or dtype == "bfloat16"
        self.updates = 0
        self.skipped_in_a_row = 0

    def join(self, rendezvous: str = "") -> None:
        """Meet the other ranks at `tcp://host:port` (alone: nowhere), shard the policy and make the optimizer."""
        if self.sharded:
            self._shard(rendezvous)
        else:
            self.policy.to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(),
            lr=self.config.learning_rate,
            betas=(self.config.beta1, self.config.beta2),
            weight_decay=self.config.weight_decay,
        )
        # AdamW makes its moments in its first step, and torch takes such a step (of length 0) where a checkpoint needs
        # them sooner. Made and counted from 0 here, they continue from any checkpoint alike.
        get_optimizer_state_dict(self.policy, self.optimizer)
        for state in self.optimizer.state.values():
            state["step"].zero_()

    def _shard(self, rendezvous: str) -> None:
        """FSDP2 over the ranks: bfloat16 forwards if asked for, float32 master weights, reductions and optimizer."""
        if not dist.is_initialized():
            dist.init_process_group(
                "nccl" if self.device == "cuda" else "gloo",
                init_method=rendezvous or None,
                store=None if rendezvous else dist.HashStore(),
                rank=self.rank,
                world_size=self.ranks,
            )
        mesh = dist.device_mesh.init_device_mesh(self.device, (self.ranks,))
        precision = MixedPrecisionPolicy(
            param_dtype=getattr(torch, self.dtype), reduce_dtype=torch.float32, output_dtype=torch.float32
        )
        for layer in _decoder_layers(self.policy.model):
            fully_shard(layer, mesh=mesh, mp_policy=replace(precision, output_dtype=None))
        fully_shard(self.policy, mesh=mesh, mp_policy=replace(precision, cast_forward_inputs=False))

    def update(self, updates: Sequence[Sequence[Batch]], coefficient: float) -> Stats:
        """This rank's part of one training step: an optimizer update for each list of microbatches.

        Returns weighted sums; those of the ranks add up. Raises RuntimeError after too many successive updates with a
        non-finite loss or gradient.
        """
        if len(updates) > 1 and self.objective.old_policy == "learner":
            updates = [[self._with_old_logps(micro) for micro in update] for update in updates]
        totals: TensorStats = {}
        for update in updates:
            for name, value in self._update(update, coefficient).items():
                totals[name] = totals.get(name, torch.zeros(2, dtype=torch.float64)) + value
        return to_stats(totals)

    def _update(self, microbatches: Sequence[Batch], coefficient: float) -> TensorStats:
        totals: TensorStats = {}
        loss_sum = torch.zeros((), dtype=torch.float64)
        self.optimizer.zero_grad(set_to_none=True)
        for micro in microbatches:
            on_device = micro.to(self.device)
            logp, entropy = self.policy(on_device)
            value, stats = loss(logp, on_device, self.objective, coefficient)
            # FSDP averages gradients over the ranks, and the losses of the parts have to add up.
            (value * self.ranks).backward()
            explored = entropy[on_device.on_route("explore")]
            stats = {**stats, "entropy": torch.tensor([float(explored.sum()), float(len(explored))])}
            for name, pair in stats.items():
                totals[name] = totals.get(name, torch.zeros(2, dtype=torch.float64)) + pair.double().cpu()
            loss_sum += value.detach().double().cpu()
        return {**totals, **self._step(loss_sum)}

    def _step(self, loss_sum: Tensor) -> TensorStats:
        """Clip, step and schedule; or skip, when the loss or the gradient is not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.config.max_grad_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.ranks > 1:
            loss_sum = loss_sum.to(self.device)
            dist.all_reduce(loss_sum)
        rate = learning_rate(self.config, self.updates, self.total_updates)
        self.updates += 1
        finite = bool(torch.isfinite(norm)) and bool(torch.isfinite(loss_sum))
        if finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.config.max_skipped_in_a_row:
            raise RuntimeError(
                f"{self.skipped_in_a_row} successive updates had a non-finite loss or gradient "
                f"(loss {float(loss_sum)}, gradient norm {float(norm)}): lower learner.learning_rate or look at the "
                "last batch; the last checkpoint is from before"
            )
        if self.rank:  # what all ranks know alike is reported by one of them
            return {}
        values = {"learning_rate": rate, "skipped_updates": float(not finite)}
        if finite:
            values |= {"grad_norm": float(norm), "loss": float(loss_sum)}
        return {name: torch.tensor([value, 1.0], dtype=torch.float64) for name, value in values.items()}

    @torch.no_grad()
    def _with_old_logps(self, micro: Batch) -> Batch:
        logp, _ = self.policy(micro.to(self.device))
        return replace(micro, logp_old=logp.cpu())

    def _full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter once, whole, under its Hugging Face name; one at a time exists on the device.

        A collective when sharded: every rank has to go through all of it.
        """
        for name, parameter in self.policy.model.named_parameters():
            p = parameter.detach()
            yield name, p.full_tensor() if isinstance(p, DTensor) else p

    def weights_info(self) -> WeightsInfo:
        named = [(name, torch.empty(p.shape, device="meta")) for name, p in self.policy.model.named_parameters()]
        return weights_info([(name, p.to(getattr(torch, self.dtype))) for name, p in named])

    def weights(self, version: int, checksum: bool = False) -> HostWeights | None:
        """All weights in the compute dtype, on rank 0; None on the others."""
        dtype = getattr(torch, self.dtype)
        named = [(name, p.to("cpu", dtype)) for name, p in self._full_parameters() if self.rank == 0]
        return pack(named, version, checksum) if self.rank == 0 else None

    def save(self, folder: str) -> None:
        """Write `policy/` (float32, loads in transformers and vLLM) and `optimizer/` (one shard per rank)."""
        path = Path(folder)
        self.save_policy(str(path / "policy"))
        state = {"optimizer": get_optimizer_state_dict(self.policy, self.optimizer), "counters": self._counters()}
        with _alone_is_meant(self.sharded):
            dcp.save(state, checkpoint_id=path / "optimizer", no_dist=not self.sharded)

    def save_policy(self, folder: str) -> None:
        """Rank 0 writes model (float32) and tokenizer as an ordinary Hugging Face directory."""
        parameters = {name: p.cpu() for name, p in self._full_parameters() if self.rank == 0}
        if self.rank:
            return
        if Path(folder).exists():
            shutil.rmtree(folder)
        self.policy.model.save_pretrained(folder, state_dict=parameters)
        self.tokenizer.save_pretrained(folder)

    def load(self, folder: str) -> None:
        """Continue from what `save` wrote, on any number of ranks."""
        path = Path(folder)
        model = load_model(str(path / "policy"))
        whole = {f"model.{name}": p for name, p in model.state_dict().items()}
        options = StateDictOptions(full_state_dict=True) if self.sharded else StateDictOptions()
        set_model_state_dict(self.policy, whole, options=options)
        state: dict[str, Any] = {
            "optimizer": get_optimizer_state_dict(self.policy, self.optimizer),
            "counters": self._counters(),
        }
        with _alone_is_meant(self.sharded):
            dcp.load(state, checkpoint_id=path / "optimizer", no_dist=not self.sharded)
        set_optimizer_state_dict(self.policy, self.optimizer, state["optimizer"])
        self.updates, self.skipped_in_a_row = (int(n) for n in state["counters"])

    def _counters(self) -> Tensor:
        return torch.tensor([self.updates, self.skipped_in_a_row])

    def close(self) -> None:
        if self.sharded and dist.is_initialized():
            dist.destroy_process_group()


@contextlib.contextmanager
def _alone_is_meant(sharded: bool) -> Iterator[None]:
    """Without a process group, torch warns that a checkpoint is written by a single process; here it is meant to be."""
    with warnings.catch_warnings():
        if not sharded:
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


def _decoder_layers(model: Any) -> list[torch.nn.Module]:
    """The repeated blocks of a causal language model, each a unit of sharding."""
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    if not lists:
        raise ValueError(f"policy.path: its model must hold its decoder layers in a ModuleList, got {type(model)}")
    # By weight: in a mixture of experts, a layer's list of experts may be longer than the list of layers.
    heaviest = max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))
    return list(heaviest)
