"""Context parallelism: several learner ranks share the tokens of each microbatch, for sequences too long for one GPU.

Outside attention every operation of a decoder layer is of single tokens, so each of the c ranks of a context group
computes a contiguous part of the columns. For attention the ranks exchange heads for tokens: each gets all tokens of
1 / c of the heads, and afterwards its own tokens of all heads again.

Source: DeepSpeed-Ulysses, arXiv:2309.14509. Axes: R rows, T columns of a microbatch, t of one rank, H heads, c ranks of
a context group, M trained tokens, D hidden.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from actors.scoring.attention import undivided, varlen_refusal, window
from actors.scoring.policy import Policy
from actors.scoring.token_scores import LogitsFunction
from actors.scoring.varlen import NAME as VARLEN
from configs.learner import LearnerConfig
from objectives.divergence.batch_sinkhorn import answer_blocks

ATTENTION = "context_parallel"
"""Name of `exchanged_attention` in transformers' registry."""


class ContextPolicy(Policy):
    """A policy whose tokens a context group shares. Each rank of the group gets the same batch, and all its scores.

    The sum of the ranks' gradients is the gradient of the batch: the loss is the same on every rank, and each rank
    carries its gradient back through the trained tokens it has scored itself.
    """

    context: "ContextGroup | None" = None

    def join_context(self, group: dist.ProcessGroup) -> None:
        """Share the tokens of every batch from the next forward pass on.

        Raises:
            ValueError: the model cannot be divided among so many ranks.
        """
        self.context = context = ContextGroup(group, self.model.config._attn_implementation)
        check_context(self.model, context.size)
        for module in self.model.modules():
            module.context = context
        self.model.set_attn_implementation(ATTENTION)
        body = self.model.base_model
        body.register_forward_pre_hook(context.take_columns, with_kwargs=True)
        body.register_forward_hook(context.give_columns)
        if self.critic is not None:
            # Every rank computes the values of all trajectories, so the sum of the ranks' gradients has each c times.
            self.critic.register_forward_hook(context.divide_gradient)

    def _score(
        self, hidden: Tensor, targets: Tensor, seq: Tensor, rows: Tensor, functions: Mapping[str, LogitsFunction]
    ) -> dict[str, Tensor]:
        """Apply the LM head to this rank's share of the trained tokens, and return the columns [M] of all."""
        if self.context is None:
            return super()._score(hidden, targets, seq, rows, functions)
        start, end = self.context.share(answer_blocks(seq)[0])
        mine = slice(start, end)
        scored = super()._score(hidden[mine], targets[mine], seq[mine], rows[mine], functions)
        columns = torch.stack([pad(column, (start, len(rows) - end)) for column in scored.values()])
        summed: Tensor = _SumOnce.apply(columns, self.context.group)  # type: ignore[no-untyped-call]
        return dict(zip(scored, summed.unbind(), strict=True))


def policy_class(config: LearnerConfig) -> type[Policy]:
    """Return the class of the policies on the learner ranks."""
    return Policy if config.context_parallel == 1 else ContextPolicy


class ContextGroup:
    """The ranks that share each microbatch, and this rank's columns of the one in progress.

    Args:
        attention: name in transformers' registry of the function that computes the attention of whole sequences.
    """

    def __init__(self, group: dist.ProcessGroup, attention: str) -> None:
        self.group, self.attention = group, attention
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.columns: list[int] = []
        """t of each rank, for the microbatch in progress: also its backward pass needs them, to recompute layers."""

    def share(self, place: Tensor) -> tuple[int, int]:
        """Return the first of this rank's share of M trained tokens and the first after it. Blocks stay whole.

        Args:
            place: int64 [M], position of each token in its block (see `answer_blocks`).
        """
        starts = (place == 0).nonzero().squeeze(1)
        wanted = torch.tensor([len(place) * rank // self.size for rank in (self.rank, self.rank + 1)])
        following = torch.searchsorted(starts, wanted.to(starts.device))
        first, end = (int(starts[i]) if i < len(starts) else len(place) for i in following.tolist())
        return first, end

    def take_columns(self, body: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        """Pass this rank's columns to the model's body, with their positions in the whole rows."""
        tokens = inputs["input_ids"]
        whole = tokens.shape[1]
        self.columns = [(whole + rank) // self.size for rank in range(self.size)]
        position = inputs.get("position_ids")
        if position is None:
            position = torch.arange(whole, device=tokens.device)[None]
        tokens, position = (tensor.split(self.columns, dim=1)[self.rank] for tensor in (tokens, position))
        return args, inputs | {"input_ids": tokens, "position_ids": position}

    def give_columns(self, body: Any, args: tuple[Any, ...], output: Any) -> Any:
        """Gather the final hidden states [R, T, D] of all ranks."""
        states = output.last_hidden_state
        rows, _, width = states.shape
        parts = self.exchange([states] * self.size, [(rows, columns, width) for columns in self.columns])
        output.last_hidden_state = torch.cat(parts, dim=1)
        return output

    def divide_gradient(self, critic: nn.Module, args: tuple[Any, ...], values: Tensor) -> None:
        if values.requires_grad:
            values.register_hook(lambda gradient: gradient / self.size)

    def to_heads(self, states: Tensor) -> Tensor:
        """Exchange this rank's tokens of all heads [R, H, t, d] for all tokens of its heads [R, H / c, T, d]."""
        rows, heads, _, width = states.shape
        shapes = [(rows, heads // self.size, columns, width) for columns in self.columns]
        return torch.cat(self.exchange(states.chunk(self.size, dim=1), shapes), dim=2)

    def to_tokens(self, states: Tensor) -> Tensor:
        """Exchange all tokens of this rank's heads [R, T, H / c, d] for its tokens of all heads [R, t, H, d]."""
        rows, _, heads, width = states.shape
        shape = (rows, self.columns[self.rank], heads, width)
        return torch.cat(self.exchange(states.split(self.columns, dim=1), [shape] * self.size), dim=2)

    def exchange(self, parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Send one part to each rank. Return what each rank has sent to this one, of these shapes."""
        sent = torch.cat([part.reshape(-1) for part in parts])
        sizes = [torch.Size(shape).numel() for shape in shapes]
        counts = [part.numel() for part in parts]
        received: Tensor = _AllToAll.apply(sent, counts, sizes, self.group)  # type: ignore[no-untyped-call]
        return [part.view(shape) for part, shape in zip(received.split(sizes), shapes, strict=True)]


@torch.compiler.disable
def exchanged_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Attention in transformers' registry: of this rank's tokens [R, H, t, d], to those of all ranks.

    A mask, and other `options`, describe whole rows.

    Returns:
        [R, t, H, d].
    """
    context: ContextGroup = module.context
    if key.shape[1] % context.size:  # fewer key heads than ranks: each rank needs one
        key, value = (states.repeat_interleave(context.size // key.shape[1], dim=1) for states in (key, value))
    query, key, value = (context.to_heads(states) for states in (query, key, value))
    # The functions of the registry read these attributes of a layer.
    layer = SimpleNamespace(
        config=module.config,
        training=module.training,
        is_causal=getattr(module, "is_causal", True),
        layer_idx=getattr(module, "layer_idx", None),
        num_key_value_groups=query.shape[1] // key.shape[1],
    )
    whole, _ = ALL_ATTENTION_FUNCTIONS[context.attention](layer, query, key, value, attention_mask, **options)
    return context.to_tokens(whole), None


# No function that makes masks is registered under this name, so that transformers makes none: it would be one of this
# rank's columns. Without a mask, attention is causal over whole rows.
AttentionInterface.register(ATTENTION, exchanged_attention)


def check_context(model: Any, ranks: int) -> None:
    """Raise ValueError unless `ranks` ranks can share the attention of a model."""
    attention = model.config._attn_implementation
    if rule := undivided(model.config, ranks):
        raise ValueError(f"learner.context_parallel: {rule}, got {ranks}")
    # A policy with layout varlen has shown already that its attention is computed by functions of the registry.
    reason = "" if attention == VARLEN else varlen_refusal(model)
    if not reason and attention != VARLEN and window(model) is not None:
        reason = "whose sliding windows need a mask unless learner.layout is 'varlen'"
    if reason:
        raise ValueError(f"learner.context_parallel: must be 1 for {type(model).__name__}, {reason}, got {ranks}")


class _AllToAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sent: Tensor, counts: list[int], sizes: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.counts, ctx.sizes, ctx.group = counts, sizes, group
        return _all_to_all(sent, counts, sizes, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(gradients[0].contiguous(), ctx.sizes, ctx.counts, ctx.group), None, None, None


def _all_to_all(sent: Tensor, counts: list[int], sizes: list[int], group: dist.ProcessGroup) -> Tensor:
    received = sent.new_empty(sum(sizes))
    dist.all_to_all_single(received, sent, sizes, counts, group)
    return received


class _SumOnce(torch.autograd.Function):
    """Sum over the ranks. The gradient of the sum is the same on every rank, and each passes it to its own addend."""

    @staticmethod
    def forward(ctx: Any, addend: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = addend.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
