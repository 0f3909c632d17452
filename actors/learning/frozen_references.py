"""Frozen reference policies on the learner ranks, over which each is sharded like the policy that is trained.

Axes: n tokens of a microbatch, D hidden, V vocabulary.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from actors.contracts import Column
from actors.learning.context import ContextPolicy, policy_class
from actors.learning.sharding import move_buffers, shard_frozen, whole
from actors.policy_files.reading import fill_average
from actors.reference import empty_soup, score_columns
from actors.reference_parts import label, logps_field
from actors.scoring.policy import Policy
from configs.learner import LearnerConfig
from trajectories.batch import Batch


class FrozenReferences:
    """References that are never updated, by name. Their weights are read by `fill`.

    Every rank must call the same methods in the same order, with equally many microbatches: each forward pass gathers
    the parameters of a layer at a time.

    Args:
        references: for each, the directories of the models that are averaged, and their weights in the average.
        dtype: of weights and forward passes, "float32" or "bfloat16".
        temperature: the sampling temperature.
    """

    def __init__(
        self,
        references: Mapping[str, Mapping[str, float]],
        *,
        config: LearnerConfig,
        dtype: str,
        temperature: float,
        device: str,
    ) -> None:
        self.references, self.dtype, self.device = references, dtype, device
        self.policies: dict[str, Policy] = {}
        for name, parts in references.items():
            model = empty_soup(parts, getattr(torch, dtype)).requires_grad_(False)
            self.policies[name] = policy_class(config).configured(
                model, config, temperature=temperature, device=device, dtype=dtype
            )

    def fill(self, trained: Policy, mesh: DeviceMesh | None) -> None:
        """Shard the policies and read their weights: each rank its shards.

        Args:
            trained: the policy that is trained, whose context group shares the tokens of references too.
            mesh: of the learner ranks; None: a single rank holds whole policies.
        """
        for name, policy in self.policies.items():
            if isinstance(policy, ContextPolicy) and isinstance(trained, ContextPolicy):
                assert trained.context is not None, "the trained policy must have joined its context group"
                policy.join_context(trained.context.group)
            if mesh is not None:
                shard_frozen(policy, mesh, self.dtype)
            offloaded = mesh is not None and self.device == "cuda"
            fill_average(policy.model, self.references[name], "cpu" if offloaded else self.device)
            move_buffers(policy, self.device)

    @torch.no_grad()
    def weight(self, layer: nn.Module) -> Tensor:
        """Return the whole weight [V, D] of an embedding or LM head. A collective if it is sharded."""
        assert getattr(layer, "bias", None) is None, "the LM head of a reference must have no bias"
        weight: Tensor = layer.weight  # type: ignore[assignment]
        return whole(weight, getattr(torch, self.dtype))

    @torch.no_grad()
    def hidden_states(self, name: str, batch: Batch) -> Tensor:
        """Return the final hidden states of a microbatch, as `Policy.hidden_states` does."""
        return self.policies[name].hidden_states(batch)

    @torch.no_grad()
    def score(
        self, microbatches: Sequence[Batch], names: Sequence[str], columns: Sequence[Column]
    ) -> list[dict[str, Tensor]]:
        """Score microbatches, all of whose tokens the references compare.

        Returns:
            For each microbatch, on the CPU and named as in `reference_parts.outputs`: log-probs of the references and
            the columns, float32 [n].
        """
        outputs = []
        for micro in microbatches:
            on_device, output = micro.to(self.device), {}
            for name in dict.fromkeys((*names, *(column.reference for column in columns))):
                own = [column for column in columns if column.reference == name]
                scored = score_columns(self.policies[name], on_device, own)
                output[logps_field(name)] = scored.logp.cpu()
                output |= {label(column): scored.extra[label(column)].cpu() for column in own}
            outputs.append(output)
        return outputs
