"""One FSDP2 rank of the learner: forward, loss, backward and optimizer step of the policy, and its checkpoints.

`objectives` defines the loss; nothing here depends on the method. Axes: n tokens and b trajectories of a microbatch.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from actors.contracts import Column, HostWeights, SharedMemory, WeightsInfo
from actors.learning.adapters import add_adapters, initialise
from actors.learning.anchor_heads import AnchorHeads
from actors.learning.checkpoints import Checkpoints
from actors.learning.context import policy_class
from actors.learning.frozen_references import FrozenReferences
from actors.learning.layers import fix_order_of_sums, prepare_layers
from actors.learning.optimizer import Extragradient, adamw
from actors.learning.outgoing import OutgoingWeights
from actors.learning.schedule import learning_rate
from actors.learning.scores_in_loss import scores_in_loss
from actors.learning.sharding import (
    clip_gradient,
    divide,
    join_process_group,
    move_buffers,
    prepare_accumulation,
    reshard,
)
from actors.policy_files.reading import empty_model, fill_model, load_tokenizer
from actors.scoring.value_heads import ValueHeads
from configs.learner import LearnerConfig
from configs.objective import ObjectiveConfig
from objectives.advantage.critic import soft_min
from objectives.diagnostics import Stats, TensorStats, added, to_stats
from objectives.objective import loss
from trajectories.batch import Batch


class FsdpLearner:
    """One learner rank. With several ranks, or bfloat16, the policy is sharded with FSDP2.

    Every rank must run the same sequence of methods, with equally many microbatches: forward, backward, the gradient
    norm, saving and loading all contain collectives, and a rank that skips one blocks the others.

    Args:
        policy_path: directory of the policy to start from.
        dtype: "float32" or "bfloat16", of the forward and backward pass. Master weights, gradient reductions and
            optimizer state are float32 in both cases (see `sharding.shard`).
        temperature: the sampling temperature, at which log-probs are computed.
        total_steps: training steps of the run, for the learning-rate schedule.
        references: for each reference that this rank holds with the others, the directories of the models that are
            averaged, and their weights in the average: those whose full distributions the objective needs, and those
            that `score_references` scores with.
        checkpoint_dtype: "float32" or "bfloat16", of the policy in checkpoints.
        collective_timeout_s: longest wait for the other ranks in one collective operation.
        seed: of the first values of adapters (`learner.lora`).
        rank, ranks: number of this rank, and of all ranks.
    """

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
        checkpoint_dtype: str = "float32",
        collective_timeout_s: float = 3600.0,
        seed: int = 0,
        device: str = "cpu",
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.checkpoint_dtype, self.collective_timeout_s = checkpoint_dtype, collective_timeout_s
        self.config, self.objective, self.dtype, self.device, self.rank, self.ranks = (
            config, objective, dtype, device, rank, ranks,
        )  # fmt: skip
        self.total_updates = total_steps * config.updates_per_batch
        self.tokenizer = load_tokenizer(policy_path)
        self.policy_path, self.seed = policy_path, seed
        self.adapted = config.lora.r > 0
        # In evaluation mode: dropout would make the log-probs differ from those of the generators. `join` reads the
        # weights, when it is known which of them this rank holds.
        # Frozen weights are held in the dtype of the forward pass: no update is too small for it.
        model = empty_model(policy_path, getattr(torch, dtype) if self.adapted else torch.float32)
        if self.adapted:
            add_adapters(model, config.lora)
        prepare_layers(model, config)
        fix_order_of_sums(device)
        self.policy = policy_class(config).configured(
            model,
            config,
            temperature=temperature,
            device=device,
            dtype=dtype,
            entropy_gradient=objective.entropy_bonus > 0,
        )
        if objective.value_heads is not None:
            self.policy.critic = ValueHeads(self.policy.width, objective.value_heads)
        self.references = FrozenReferences(
            references or {}, config=config, dtype=dtype, temperature=temperature, device=device
        )
        self.heads = AnchorHeads(objective, self.references, temperature=temperature)
        self.sharded = ranks > 1 or dtype == "bfloat16" or config.offload_states
        self.outgoing = OutgoingWeights(
            model,
            getattr(torch, dtype),
            rank=rank,
            adapter=self.adapted and config.lora.publish == "adapter",
            can_hold=not (self.sharded or self.adapted) and device == "cpu",
        )
        self.updates = 0
        self.skipped_in_a_row = 0

    def join(self, rendezvous: str = "") -> None:
        """Join the process group, shard policy and references, read their weights and create the optimizer.

        Args:
            rendezvous: "tcp://host:port" of rank 0; empty with a single rank.
        """
        mesh = None
        if self.sharded:
            timeout_s = self.collective_timeout_s
            join_process_group(rendezvous, timeout_s, device=self.device, rank=self.rank, ranks=self.ranks)
            mesh = divide(self.policy, self.config, timeout_s, dtype=self.dtype, device=self.device, ranks=self.ranks)
            fill_model(self.policy.model, self.policy_path, "cpu" if self.config.offload_states else self.device)
            move_buffers(self.policy, self.device)
        else:
            fill_model(self.policy.model, self.policy_path, self.device)
            self.policy.to(self.device)
        initialise(self.policy.model, self.seed)
        self.references.fill(self.policy, mesh)
        self.heads.gather()
        self.groups = {"policy": [p for p in self.policy.model.parameters() if p.requires_grad]}
        if self.policy.critic is not None:
            self.groups["critic"] = list(self.policy.critic.parameters())
        self.optimizer = adamw(self.policy, self.groups.values(), self.config)
        self.pair = Extragradient(self.policy, self.optimizer)
        self.checkpoints = Checkpoints(
            self.policy, self.optimizer, self.pair, self.tokenizer, self.policy_path, rank=self.rank, ranks=self.ranks
        )

    def linear_width(self) -> float:
        """Return the policy's `linear_width`, with which batches are split."""
        return self.policy.linear_width

    @torch.no_grad()
    def score(self, microbatches: Sequence[Batch]) -> list[dict[str, Tensor]]:
        """Score microbatches under the weights before this step's first update.

        Returns:
            For each microbatch, on the CPU and by field of `Batch`: `logp_old` and `entropy_old`, float32 [n];
            "distance/TERM", float32 [n]; and `value_old`, float32 [b], if there is a critic.
        """
        outputs = []
        for micro in microbatches:
            on_device = micro.to(self.device)
            scored = self.policy(on_device, self.heads.distance_functions(on_device))
            columns = {"logp_old": scored.logp, "entropy_old": scored.entropy}
            columns |= {f"distance/{name}": values for name, values in scored.extra.items()}
            if scored.values is not None:
                columns["value_old"] = soft_min(scored.values, self.objective.critic.softness)
            outputs.append({name: values.cpu() for name, values in columns.items()})
        reshard(self.policy)
        return outputs

    def score_references(
        self, microbatches: Sequence[Batch], names: Sequence[str], columns: Sequence[Column]
    ) -> list[dict[str, Tensor]]:
        """Score microbatches under references, as `FrozenReferences.score` does."""
        return self.references.score(microbatches, names, columns)

    def update(self, updates: Sequence[Sequence[Batch]], coefficients: Mapping[str, float]) -> Stats:
        """Run one training step on this rank's part of the batch.

        Args:
            updates: the microbatches of each optimizer update.
            coefficients: coefficient of each divergence term, by name.

        Returns:
            Metrics as (weighted sum, weight), to be summed over the ranks.

        Raises:
            RuntimeError: `learner.max_skipped_in_a_row` successive updates had a non-finite loss or gradient.
        """
        totals: TensorStats = {}
        for update in updates:
            totals = added(totals, self._update(update, coefficients))
            self.free_gradients()
        return to_stats(totals)

    def free_gradients(self) -> None:
        """Free the gradients: the next update adds to what is left, and other roles on the GPU may use the memory."""
        self.optimizer.zero_grad(set_to_none=True)

    def _update(self, microbatches: Sequence[Batch], coefficients: Mapping[str, float]) -> TensorStats:
        totals: TensorStats = {}
        loss_sum = torch.zeros((), dtype=torch.float64)
        for number, micro in enumerate(microbatches, 1):
            prepare_accumulation(self.policy, self.config.accumulate, last=number == len(microbatches))
            on_device = micro.to(self.device)
            scores = scores_in_loss(self.policy, on_device, self.heads.term_functions)
            value, stats = loss(scores, on_device, self.objective, coefficients)
            # Each microbatch's loss is already normalised by the whole batch's totals, so the losses sum to the
            # batch's. FSDP averages gradients over the ranks; the factor makes it a sum.
            (value * self.ranks).backward()
            if self.rank % self.config.context_parallel:
                continue  # the first rank of a context group reports for all of it
            explored = scores.entropy.detach()[on_device.on_route("explore")]
            stats = {**stats, "entropy": torch.tensor([float(explored.sum()), float(len(explored))])}
            totals = added(totals, stats)
            loss_sum += value.detach().double().cpu()
        return {**totals, **self._step(loss_sum)}

    def _step(self, loss_sum: Tensor) -> TensorStats:
        """Clip the gradients, set the learning rate and step the optimizer, unless loss or gradient is not finite.

        A non-finite update is skipped: one would make every weight NaN, and Adam's moments with them. A single one may
        come from a rare batch; several in a row mean that training has diverged, so they end the run.
        """
        bounds = {"policy": self.config.max_grad_norm, "critic": self.objective.critic.max_grad_norm}
        norms = {name: clip_gradient(parameters, bounds[name]) for name, parameters in self.groups.items()}
        norm = sum(norms.values())  # not finite if any of them is not
        if self.ranks > 1:
            # The gradient norms are already global. The loss must be too, or the ranks could differ on whether to skip.
            loss_sum = loss_sum.to(self.device)
            dist.all_reduce(loss_sum)
        rate = learning_rate(self.config, self.updates, self.total_updates)
        finite = math.isfinite(norm) and bool(torch.isfinite(loss_sum))
        rates = {"policy": rate, "critic": self.objective.critic.learning_rate or self.config.learning_rate}
        for name, group in zip(self.groups, self.optimizer.param_groups, strict=True):
            group["lr"] = rates[name]
        if self.config.extragradient:
            self.pair.step(ahead=self.updates % 2 == 0, finite=finite)
        elif finite:
            self.optimizer.step()
        self.updates += 1
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= self.config.max_skipped_in_a_row:
            raise RuntimeError(
                f"{self.skipped_in_a_row} successive updates had a non-finite loss or gradient "
                f"(loss {float(loss_sum)}, gradient norm {norm}): lower learner.learning_rate or look at the "
                "last batch; the last checkpoint is from before"
            )
        if self.rank:  # these values are the same on every rank, and metrics are summed over ranks
            return {}
        values = {"learning_rate": rate, "skipped_updates": float(not finite)}
        if finite:
            values |= {"grad_norm": norms["policy"], "loss": float(loss_sum)}
            values |= {"grad_norm/critic": norms["critic"]} if "critic" in norms else {}
        return {name: torch.tensor([value, 1.0], dtype=torch.float64) for name, value in values.items()}

    def weights_info(self) -> WeightsInfo:
        """Return the names, shapes and dtype of `weights`."""
        return self.outgoing.info()

    def share_weights(self) -> SharedMemory | None:
        """As `OutgoingWeights.share`."""
        return self.outgoing.share()

    def weights(self, version: int, checksum: bool = False, with_bytes: bool = True) -> HostWeights | None:
        """As `OutgoingWeights.whole`."""
        return self.outgoing.whole(version, checksum, with_bytes)

    def weights_pieces(self) -> int:
        """As `OutgoingWeights.count_pieces`."""
        return self.outgoing.count_pieces()

    def weights_piece(self, number: int, version: int, checksum: bool = False) -> HostWeights | None:
        """As `OutgoingWeights.piece`."""
        return self.outgoing.piece(number, version, checksum)

    def master_info(self) -> WeightsInfo:
        """Return the names, shapes and dtype of `master_weights`."""
        return self.outgoing.master_info()

    def master_weights(self) -> HostWeights | None:
        """As `OutgoingWeights.master`."""
        return self.outgoing.master()

    def save(self, folder: str) -> None:
        """Copy policy and training state, and begin to write them as `Checkpoints.save` does."""
        self.checkpoints.save(Path(folder), self.checkpoint_dtype, (self.updates, self.skipped_in_a_row))

    def saved(self) -> None:
        """Wait until this rank's files of the last `save` are written. Raises what writing raised, once."""
        self.checkpoints.saved()

    def save_policy(self, folder: str, dtype: str = "float32") -> None:
        """Write model and tokenizer as a Hugging Face directory."""
        self.checkpoints.save_policy(Path(folder), dtype)

    def load(self, folder: str) -> None:
        """Restore what `save` wrote, possibly on another number of ranks. Raises as `Checkpoints.load`."""
        self.updates, self.skipped_in_a_row = self.checkpoints.load(Path(folder))

    def close(self) -> None:
        if self.sharded and dist.is_initialized():
            dist.destroy_process_group()
