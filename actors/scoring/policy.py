"""The policy as a torch module: log-probs and entropies of a Batch's tokens, without logits of shape [N, V].

Axes: N tokens of the batch, M trained tokens (mask True), C tokens of a chunk, B trajectories, V vocabulary, D hidden.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from actors.scoring.attention import REPEATED, linear_width, resolved, window
from actors.scoring.token_scores import LogitsFunction, token_scores
from actors.scoring.value_heads import ValueHeads
from actors.scoring.varlen import NAME, spans
from configs.learner import LearnerConfig
from configs.transport import BLOCK
from objectives.divergence.batch_sinkhorn import answer_blocks
from trajectories.batch import Batch
from trajectories.shared_prefixes import SMALLEST_GAIN, WIDEST, chain, lay_out, shared_rows


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
        layout: "auto", "pad", "varlen" or "pack", see `configs.learner`.
        device, dtype: of the forward pass. They decide what "auto" is, and whether rows that need a mask are cheap.
        share_prefixes: whether a prefix that trajectories share is computed once, see `configs.learner`.
        logits_megabytes: float32 size of the logits of one chunk, in 10^6 bytes.
        temperature: the sampling temperature, by which logits are divided.
        entropy_gradient: whether `Scored.entropy` has a gradient, which an entropy bonus needs.

    Raises:
        ValueError: the model cannot be computed in the layout, or its LM head is no linear layer.
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
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        super().__init__()
        head = model.get_output_embeddings()
        if not isinstance(head, nn.Linear):
            raise ValueError(f"policy.path: its LM head must be a torch.nn.Linear, got {type(head).__name__}")
        self.model: Any = model
        self.layout = resolved(layout, model, device=device, dtype=dtype)
        """"pad", "varlen" or "pack"."""
        self.linear_width = linear_width(model, self.layout, device=device, dtype=dtype) if share_prefixes else 0.0
        """Of `shared_rows`; 0 where prefixes are not shared."""
        self.window = window(model)
        if self.layout == "varlen":
            model.set_attn_implementation(NAME)
        elif device == "cuda" and dtype == "float32" and model.config._attn_implementation == "sdpa":
            model.set_attn_implementation(REPEATED)
        self.logits_chunk = max(1, int(logits_megabytes * 1e6) // (4 * head.out_features))
        self.temperature = temperature
        self.entropy_gradient = entropy_gradient
        self.critic: ValueHeads | None = None

    @classmethod
    def configured(
        cls,
        model: Any,
        config: LearnerConfig,
        *,
        temperature: float,
        device: str,
        dtype: str,
        entropy_gradient: bool = False,
    ) -> Self:
        """Return the policy of a model in the layout and with the chunks of the learner's settings."""
        return cls(
            model,
            layout=config.layout,
            logits_megabytes=config.logits_megabytes,
            temperature=temperature,
            share_prefixes=config.share_prefixes,
            entropy_gradient=entropy_gradient,
            device=device,
            dtype=dtype,
        )

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
        kept = _at_tokens(batch, rows, hidden) if keep_hidden else None
        return Scored(
            logp=columns.pop("logp"), entropy=columns.pop("entropy"), extra=columns, hidden=kept, values=values
        )

    def hidden_states(self, batch: Batch) -> Tensor:
        """Return the final hidden state that predicts each trained token, [N, D]; 0 where the mask is False."""
        rows = batch.mask.nonzero().squeeze(1)  # [M]
        [hidden] = self._hidden(batch, rows)
        return _at_tokens(batch, rows, hidden)

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
        wanted = (rows - 1, *positions)
        if self.layout == "varlen":
            states = self._end_to_end(batch, position)
            return [states[at] for at in wanted]
        if self.layout == "pack":
            self._check_width(len(batch.tokens), len(lengths) > 1 or self._slides(len(batch.tokens)))
            # One row, whose position ids restart at each trajectory. transformers detects the trajectories by these
            # restarts and lets none attend to another, by a mask of [N, N].
            states = body(input_ids=batch.tokens[None], position_ids=position[None], use_cache=False)
            return [states.last_hidden_state[0, at] for at in wanted]
        sequences = batch.sequences
        shared = shared_rows(sequences, self.linear_width)
        if len(shared) < len(sequences):
            laid = lay_out(sequences, shared)
            tokens, place, attends, cell = (torch.from_numpy(array).to(batch.tokens.device) for array in laid)
            states = body(input_ids=tokens, position_ids=place, attention_mask=attends[:, None], use_cache=False)
            flat = states.last_hidden_state.flatten(0, 1)
            return [flat[cell[at]] for at in wanted]
        # Right-padded rows. Causal attention never reaches the padding behind a token, so no mask is needed.
        width = int(lengths.max())
        self._check_width(width, self._slides(width))
        padded = batch.tokens.new_zeros(len(lengths), width)
        padded[batch.seq, position] = batch.tokens
        states = body(input_ids=padded, use_cache=False)
        return [states.last_hidden_state[batch.seq[at], position[at]] for at in wanted]

    def _end_to_end(self, batch: Batch, position: Tensor) -> Tensor:
        """Run the model's body on one row of all trajectories, without a mask. Return the hidden states [N, D]."""
        device, tokens, cell = batch.tokens.device, batch.tokens, None
        in_row = spans(batch.lengths, batch.lengths)
        if self.linear_width:
            chained = chain(batch.sequences)
            if len(chained.tokens) <= (1 - SMALLEST_GAIN) * len(tokens):
                tokens, position, cell, queries, keys, columns = (torch.from_numpy(a).to(device) for a in chained)
                in_row = spans(queries, keys, columns)
        body = self.model.base_model
        states = body(input_ids=tokens[None], position_ids=position[None], spans=in_row, use_cache=False)
        found: Tensor = states.last_hidden_state[0]
        return found if cell is None else found[cell]

    def _slides(self, width: int) -> bool:
        """Return whether transformers makes a mask for the sliding windows of a row."""
        return self.window is not None and width >= self.window

    def _check_width(self, width: int, masked: bool) -> None:
        """Raise ValueError if a row needs a mask of more than WIDEST x WIDEST."""
        if masked and width > WIDEST:
            reason = "of a model with sliding windows " if self.window else ""
            raise ValueError(
                f"learner.layout: must be 'varlen' where a row {reason}has more than {WIDEST:,} tokens, because "
                f"attention needs a mask of row x row tokens with {self.layout!r}; got a row of {width:,}"
            )

    def _score(
        self, hidden: Tensor, targets: Tensor, seq: Tensor, rows: Tensor, functions: Mapping[str, LogitsFunction]
    ) -> dict[str, Tensor]:
        """Return log-probs, entropies and the values of `functions` by name, each float32 [M]."""
        # Some functions compare the tokens of a block with each other.
        blocks, limit = [len(rows)], self.logits_chunk
        if functions:
            place, size = answer_blocks(seq)
            blocks, limit = size[place == 0].tolist(), max(limit, BLOCK)
        head = self.model.get_output_embeddings()
        logp, entropy, *values = token_scores(
            hidden,
            head.weight,
            head.bias,
            targets,
            temperature=self.temperature,
            sizes=chunk_sizes(blocks, limit),
            rows=rows,
            functions=list(functions.values()),
        )
        extra = dict(zip(functions, values, strict=True))
        return {**extra, "logp": logp, "entropy": entropy if self.entropy_gradient else entropy.detach()}


def _at_tokens(batch: Batch, rows: Tensor, hidden: Tensor) -> Tensor:
    """Return hidden states [M, D] in the place of their tokens, [N, D]."""
    return hidden.new_zeros(len(batch.tokens), hidden.shape[-1]).index_put((rows,), hidden)


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
