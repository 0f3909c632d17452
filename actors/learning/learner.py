"""Learner: one FSDP2 rank of the policy being trained. The objective decides what is optimised; this executes it."""

import contextlib
import math
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
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
from actors.learning.anchor_heads import AnchorHeads
from actors.learning.policy import Policy, load_model, load_tokenizer
from actors.learning.value_heads import ValueHeads
from actors.weights.host import pack, weights_info
from configs.learner import LearnerConfig
from configs.objective import ObjectiveConfig
from objectives.advantage.critic import soft_min
from objectives.diagnostics import Stats, TensorStats, added, to_stats
from objectives.objective import Scores, loss
from trajectories.batch import Batch


def learning_rate(config: LearnerConfig, update: int, total: int) -> float:
    """Rate of the update numbered from 0: 0 while frozen, linear warm-up, then the schedule down to 0 at `total`."""
    update, total = update - config.frozen_updates, total - config.frozen_updates
    if update < 0:
        return 0.0
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
        references: Mapping[str, Mapping[str, float]] | None = None,
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
        self.policy = Policy(
            model,
            layout=config.layout,
            logits_chunk=config.logits_chunk,
            temperature=temperature,
            entropy_gradient=objective.entropy_bonus > 0,
        )
        if objective.advantage == "critic":
            self.policy.critic = ValueHeads(self.policy.width, objective.critic)
        self.heads = AnchorHeads(objective, references or {}, dtype=dtype, device=device, temperature=temperature)
        self.sharded = ranks > 1 or dtype == "bfloat16"
        self.updates = 0
        self.skipped_in_a_row = 0

    def join(self, rendezvous: str = "") -> None:
        """Meet the other ranks at `tcp://host:port` (alone: nowhere), shard the policy and make the optimizer."""
        if self.sharded:
            self._shard(rendezvous)
        else:
            self.policy.to(self.device)
        self.groups = {"policy": list(self.policy.model.parameters())}
        if self.policy.critic is not None:
            self.groups["critic"] = list(self.policy.critic.parameters())
        self.optimizer = torch.optim.AdamW(
            [{"params": parameters} for parameters in self.groups.values()],
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
        if self.policy.critic is not None:
            fully_shard(self.policy.critic, mesh=mesh, mp_policy=replace(precision, param_dtype=torch.float32))
        fully_shard(self.policy, mesh=mesh, mp_policy=replace(precision, cast_forward_inputs=False))

    @torch.no_grad()
    def score(self, microbatches: Sequence[Batch]) -> list[dict[str, Tensor]]:
        """What the policy says of each microbatch before this step's first update, as columns [n] (`value_old` [b]) on
        the CPU by the fields of `Batch` they are for; `distance/TERM` is for the table of that name."""
        scored = []
        for micro in microbatches:
            on_device = micro.to(self.device)
            said = self.policy(on_device, self.heads.distance_readers(on_device))
            columns = {"logp_old": said.logp, "entropy_old": said.entropy}
            columns |= {f"distance/{name}": values for name, values in said.read.items()}
            if said.values is not None:
                columns["value_old"] = soft_min(said.values, self.objective.critic.softness)
            scored.append({name: values.cpu() for name, values in columns.items()})
        return scored

    def update(self, updates: Sequence[Sequence[Batch]], coefficients: Mapping[str, float]) -> Stats:
        """This rank's part of one training step: an optimizer update for each list of microbatches.

        Returns weighted sums; those of the ranks add up. Raises RuntimeError after too many successive updates with a
        non-finite loss or gradient.
        """
        totals: TensorStats = {}
        for update in updates:
            totals = added(totals, self._update(update, coefficients))
        return to_stats(totals)

    def _update(self, microbatches: Sequence[Batch], coefficients: Mapping[str, float]) -> TensorStats:
        totals: TensorStats = {}
        loss_sum = torch.zeros((), dtype=torch.float64)
        self.optimizer.zero_grad(set_to_none=True)
        for micro in microbatches:
            on_device = micro.to(self.device)
            scored = self.policy(on_device, self.heads.readers(on_device))
            scores = Scores(
                logp=scored.logp,
                entropy=scored.entropy,
                log_vocabulary=self.policy.log_vocabulary,
                exact=scored.read,
                values=scored.values,
            )
            value, stats = loss(scores, on_device, self.objective, coefficients)
            # FSDP averages gradients over the ranks, and the losses of the parts have to add up.
            (value * self.ranks).backward()
            explored = scored.entropy.detach()[on_device.on_route("explore")]
            stats = {**stats, "entropy": torch.tensor([float(explored.sum()), float(len(explored))])}
            totals = added(totals, stats)
            loss_sum += value.detach().double().cpu()
        return {**totals, **self._step(loss_sum)}

    def _step(self, loss_sum: Tensor) -> TensorStats:
        """Clip, step and schedule; or skip, when the loss or the gradient is not finite."""
        bounds = {"policy": self.config.max_grad_norm, "critic": self.objective.critic.max_grad_norm}
        norms = {name: _clip(parameters, bounds[name]) for name, parameters in self.groups.items()}
        norm = sum(norms.values())  # not finite where one is not
        if self.ranks > 1:
            loss_sum = loss_sum.to(self.device)
            dist.all_reduce(loss_sum)
        rate = learning_rate(self.config, self.updates, self.total_updates)
        self.updates += 1
        finite = math.isfinite(norm) and bool(torch.isfinite(loss_sum))
        if finite:
            rates = {"policy": rate, "critic": self.objective.critic.learning_rate or self.config.learning_rate}
            for name, group in zip(self.groups, self.optimizer.param_groups, strict=True):
                group["lr"] = rates[name]
            self.optimizer.step()
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.config.max_skipped_in_a_row:
            raise RuntimeError(
                f"{self.skipped_in_a_row} successive updates had a non-finite loss or gradient "
                f"(loss {float(loss_sum)}, gradient norm {norm}): lower learner.learning_rate or look at the "
                "last batch; the last checkpoint is from before"
            )
        if self.rank:  # what all ranks know alike is reported by one of them
            return {}
        values = {"learning_rate": rate, "skipped_updates": float(not finite)}
        if finite:
            values |= {"grad_norm": norms["policy"], "loss": float(loss_sum)}
            values |= {"grad_norm/critic": norms["critic"]} if "critic" in norms else {}
        return {name: torch.tensor([value, 1.0], dtype=torch.float64) for name, value in values.items()}

    def _full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter once, whole, under its Hugging Face name; one at a time exists on the device.

        A collective when sharded: every rank has to go through all of it.
        """
        for name, parameter in self.policy.model.named_parameters():
            p = parameter.detach()
            yield name, p.full_tensor() if isinstance(p, DTensor) else p

    def weights_info(self, dtype: str = "") -> WeightsInfo:
        named = [(name, torch.empty(p.shape, device="meta")) for name, p in self.policy.model.named_parameters()]
        return weights_info([(name, p.to(getattr(torch, dtype or self.dtype))) for name, p in named])

    def weights(self, version: int, checksum: bool = False, dtype: str = "") -> HostWeights | None:
        """All weights in `dtype` (default: that of the forward pass), on rank 0; None on the others."""
        to = getattr(torch, dtype or self.dtype)
        named = [(name, p.to("cpu", to)) for name, p in self._full_parameters() if self.rank == 0]
        return pack(named, version, checksum) if self.rank == 0 else None

    def save(self, folder: str) -> None:
        """Write `policy/` (float32, loads in transformers and vLLM) and `optimizer/` (one shard per rank)."""
        path = Path(folder)
        self.save_policy(str(path / "policy"))
        state = self._state()
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
        options = StateDictOptions(full_state_dict=True) if self.sharded else StateDictOptions()
        set_model_state_dict(self.policy.model, model.state_dict(), options=options)
        state = self._state()
        with _alone_is_meant(self.sharded):
            dcp.load(state, checkpoint_id=path / "optimizer", no_dist=not self.sharded)
        set_optimizer_state_dict(self.policy, self.optimizer, state["optimizer"])
        self.updates, self.skipped_in_a_row = (int(n) for n in state["counters"])

    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds besides the policy; loading fills the critic's own tensors."""
        counters = torch.tensor([self.updates, self.skipped_in_a_row])
        state = {"optimizer": get_optimizer_state_dict(self.policy, self.optimizer), "counters": counters}
        return state if self.policy.critic is None else state | {"critic": self.policy.critic.state_dict()}

    def close(self) -> None:
        if self.sharded and dist.is_initialized():
            dist.destroy_process_group()


def _clip(parameters: Sequence[torch.nn.Parameter], bound: float) -> float:
    """Bring the norm of their gradient down to `bound`; the norm before. A collective when sharded."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, bound)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


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
