"""The policy as a torch module: log-probs and entropies of a Batch's tokens, without logits of shape [N, V].

Axes: N tokens of the batch, M trained tokens (mask True), C tokens of a chunk, B trajectories, V vocabulary, D hidden.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from actors.policy_files.tiny import tiny_model
from actors.scoring.attention import linear_width, packs
from actors.scoring.token_scores import logit_scores, token_scores
from actors.scoring.value_heads import ValueHeads
from configs.transport import BLOCK
from objectives.divergence.batch_sinkhorn import answer_blocks
from trajectories.batch import Batch
from trajectories.shared_prefixes import lay_out, shared_rows

LogitsFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Computes a number per token from a chunk of logits: (logits float32 [C, V], divided by the sampling temperature;
sampled tokens int64 [C]; their positions in the batch int64 [C]) -> float32 [C]."""


class Scored(NamedTuple):
    """Outputs of a policy for the tokens of a batch. A NamedTuple, so that FSDP finds the tensors inside and can hook
    their backward pass."""

    logp: Tensor
    """float32 [N], nats, at the sampling temperature, with gradient."""
    entropy: Tensor
    """float32 [N], nats, of the distribution each token was sampled from. With gradient only if `entropy_gradient`."""
    extra: dict[str, Tensor]
    """float32 [N] for each of the `functions`."""
    hidden: Tensor | None = None
    """[N, D]: the final hidden state that predicts each token."""
    values: Tensor | None = None
    """float32 [B, heads], by the critic. The gradient reaches the critic's heads only."""


class Policy(nn.Module):
    """A causal language model that scores the tokens of a batch, a chunk at a time.

    A batch of 16,384 tokens and a vocabulary of 150,000 would need 10 GB of float32 logits, and as much again for their
    gradient. So logits exist for `logits_chunk` tokens at a time, and are recomputed in the backward pass if there are
    several chunks.

    The LM head is applied inside `forward`, and not by the loss: FSDP gathers the head's weights only during `forward`.

    Args:
        layout: "pad" or "pack", see `configs.learner`.
        share_prefixes: whether a prefix that trajectories share is computed once, see `configs.learner`.
        logits_megabytes: float32 size of the logits of one chunk, in 10^6 bytes.
        temperature: the sampling temperature, by which logits are divided.
        entropy_gradient: whether `Scored.entropy` has a gradient, which an entropy bonus needs.

    Raises:
        ValueError: the layout is "pack" and the model lets packed trajectories attend to each other; or the model's LM
            head is no linear layer.
    """

    def __init__(
        self,
        model: Any,
        *,
        layout: str,
        logits_megabytes: float,
        temperature: float,
        share_prefixes: bool = False,
        entropy_gradient: bool = False,
    ) -> None:
        super().__init__()
        if layout == "pack" and not packs(tiny_model(model)):
            kind = type(model).__name__
            raise ValueError(
                f"learner.layout: must be 'pad' for {kind}, which ignores where packed positions restart, got 'pack'"
            )
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise ValueError(f"policy.path: its LM head must be a torch.nn.Linear, got {type(head).__name__}")
        self.model: Any = model
        self.layout = layout
        self.linear_width = linear_width(model) if share_prefixes and layout == "pad" else 0.0
        """Of `shared_rows`; 0 where prefixes are not shared."""
        self.logits_chunk = max(1, int(logits_megabytes * 1e6) // (4 * head.out_features))
        self.temperature = temperature
        self.entropy_gradient = entropy_gradient
        self.critic: ValueHeads | None = None

    @property
    def log_vocabulary(self) -> float:
        """log V, nats: the largest possible entropy."""
        return math.log(self.model.config.vocab_size)

    @property
    def width(self) -> int:
        """D, the size of a hidden state."""
        return int(self.model.get_output_embeddings().weight.shape[-1])

    def forward(
        self, batch: Batch, functions: Mapping[str, LogitsFunction] | None = None, keep_hidden: bool = False
    ) -> Scored:
        """Score each trained token given the tokens before it.

        Args:
            functions: evaluated on every chunk of logits, by name.
            keep_hidden: whether to return the final hidden states.

        Returns:
            Outputs per token; 0 where the mask is False.
        """
        # Only trained positions reach the LM head: prompts and tool text have no loss, and the head is the most
        # expensive matrix product of a small model.
        rows = batch.mask.nonzero().squeeze(1)  # [M]
        value_positions = [] if self.critic is None else [self.critic.positions(batch)]
        hidden, *value_states = self._hidden(batch, rows, *value_positions)
        values = None if self.critic is None else self.critic(value_states[0])
        columns = self._score(hidden, batch.tokens[rows], batch.seq[rows], rows, functions or {})
        zeros = torch.zeros(len(batch.tokens), device=hidden.device)
        columns = {name: zeros.index_put((rows,), values) for name, values in columns.items()}
        kept = None
        if keep_hidden:
            kept = hidden.new_zeros(len(batch.tokens), hidden.shape[-1]).index_put((rows,), hidden)
        return Scored(
            logp=columns.pop("logp"), entropy=columns.pop("entropy"), extra=columns, hidden=kept, values=values
        )

    def _hidden(self, batch: Batch, rows: Tensor, *positions: Tensor) -> list[Tensor]:
        """Run the model's body on the whole batch.

        Returns:
            The final hidden states [M, D] that predict the tokens at `rows`, and those at each of the `positions`.
        """
        lengths = batch.lengths
        starts = lengths.cumsum(0) - lengths
        position = torch.arange(len(batch.tokens), device=batch.tokens.device) - starts[batch.seq]
        assert bool((position[rows] > 0).all()), "the first token of a trajectory has no prefix, so it has no log-prob"
        body = self.model.base_model
        # The state that predicts token n is that of token n - 1.
        if self.layout == "pack":
            # One row, whose position ids restart at each trajectory. transformers detects the trajectories by these
            # restarts and lets none attend to another.
            states = body(input_ids=batch.tokens[None], position_ids=position[None], use_cache=False)
            return [states.last_hidden_state[0, at] for at in (rows - 1, *positions)]
        sequences = batch.sequences
        shared = shared_rows(sequences, self.linear_width)
        if len(shared) < len(sequences):
            laid = lay_out(sequences, shared)
            tokens, place, attends, cell = (torch.from_numpy(array).to(batch.tokens.device) for array in laid)
            states = body(input_ids=tokens, position_ids=place, attention_mask=attends[:, None], use_cache=False)
            flat = states.last_hidden_state.flatten(0, 1)
            return [flat[cell[at]] for at in (rows - 1, *positions)]
        # Right-padded rows. Causal attention never reaches the padding behind a token, so no mask is needed.
        padded = batch.tokens.new_zeros(len(lengths), int(lengths.max()))
        padded[batch.seq, position] = batch.tokens
        states = body(input_ids=padded, use_cache=False)
        return [states.last_hidden_state[batch.seq[at], position[at]] for at in (rows - 1, *positions)]

    def _score(
        self, hidden: Tensor, targets: Tensor, seq: Tensor, rows: Tensor, functions: Mapping[str, LogitsFunction]
    ) -> dict[str, Tensor]:
        """Return log-probs, entropies and the values of `functions` by name, each float32 [M]."""
        if not functions:
            head = self.model.get_output_embeddings()
            logp, entropy = token_scores(
                hidden, head.weight, head.bias, targets, temperature=self.temperature, chunk=self.logits_chunk
            )
            return {"logp": logp, "entropy": entropy if self.entropy_gradient else entropy.detach()}
        chunks: dict[str, list[Tensor]] = {}
        place, size = answer_blocks(seq)
        sizes = chunk_sizes(size[place == 0].tolist(), max(self.logits_chunk, BLOCK))
        for states, tokens, at in zip(hidden.split(sizes), targets.split(sizes), rows.split(sizes), strict=True):
            if len(sizes) > 1 and torch.is_grad_enabled():
                # The backward pass computes the chunk's logits, and the functions, again instead of storing them.
                scored = checkpoint(self._score_logits, states, tokens, at, functions, use_reentrant=False)
            else:
                scored = self._score_logits(states, tokens, at, functions)
            for name, column in scored.items():
                chunks.setdefault(name, []).append(column)
        return {name: torch.cat(parts) for name, parts in chunks.items()}

    def _score_logits(
        self, hidden: Tensor, targets: Tensor, rows: Tensor, functions: Mapping[str, LogitsFunction]
    ) -> dict[str, Tensor]:
        """Return the columns of one chunk, whose functions need whole logits: each float32 [C]."""
        logits = self.model.get_output_embeddings()(hidden).float()  # [C, V]
        if self.temperature != 1:
            logits /= self.temperature
        logp, entropy = logit_scores(logits, targets)
        # Recomputation ends with the last tensor that the backward pass needs. Functions without gradient come after
        # it, so that they are computed only once.
        extra = {name: function(logits, targets, rows) for name, function in functions.items()}
        return {**extra, "logp": logp, "entropy": entropy if self.entropy_gradient else entropy.detach()}


def chunk_sizes(blocks: Sequence[int], limit: int) -> list[int]:
    """Divide successive blocks of tokens into chunks, without splitting a block that fits into one chunk.

    Some divergence terms compare all tokens of a block with each other, so a chunk must hold whole blocks.

    Args:
        blocks: tokens of each block.
        limit: largest chunk. Only a block longer than this is split.

    Returns:
        Tokens of each chunk. [0] without blocks: an empty chunk still reaches every parameter in the backward pass,
        so that a rank without trained tokens takes part in the gradient reduction.
    """
    sizes = [0]
    for block in blocks:
        for piece in (min(limit, block - start) for start in range(0, block, limit)):
            if sizes[-1] + piece <= limit:
                sizes[-1] += piece
            else:
                sizes.append(piece)
    return sizes
