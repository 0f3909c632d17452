"""The policy as a module: token log-probs and entropies of a Batch, the one place where logits exist.

Axes: N tokens of the batch, M trained tokens (mask True), B trajectories, V vocabulary, D hidden.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from actors.learning.value_heads import ValueHeads
from objectives.divergence.batch_sinkhorn import answer_blocks
from trajectories.batch import Batch

disable_progress_bar()  # loading a shard is not worth a line on the run's console


Reader = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits [C, V] at the sampling temperature, the tokens drawn [C], their places in [N]) -> float32 [C]."""


class Scored(NamedTuple):
    """What a policy says of the tokens of a batch. A tuple, in which FSDP finds the tensors to hook."""

    logp: Tensor
    """float32 [N], nats at the sampling temperature, with gradient."""
    entropy: Tensor
    """float32 [N], nats, of the distributions the tokens came from; with gradient if the policy was told so."""
    read: dict[str, Tensor]
    """float32 [N] for each reader."""
    hidden: Tensor | None = None
    """[N, D]: the states from which the tokens are predicted."""
    values: Tensor | None = None
    """float32 [B, heads] by the critic, with gradient to its heads alone."""


class Policy(nn.Module):
    """A causal language model that scores batches without ever holding `[N, V]`.

    The whole computation is one forward, so that FSDP gathers the head's weights around it. Raises ValueError naming
    `learner.layout` for a packed layout of a model that cannot tell packed trajectories apart.
    """

    def __init__(
        self,
        model: Any,
        *,
        layout: str,
        logits_chunk: int,
        temperature: float,
        entropy_gradient: bool = False,
    ) -> None:
        super().__init__()
        if layout == "pack" and not _packs(model):
            kind = type(model).__name__
            raise ValueError(
                f"learner.layout: must be 'pad' for {kind}, which ignores where packed positions restart, got 'pack'"
            )
        self.model: Any = model
        self.layout = layout
        self.logits_chunk = logits_chunk
        self.temperature = temperature
        self.entropy_gradient = entropy_gradient
        self.critic: ValueHeads | None = None

    @property
    def log_vocabulary(self) -> float:
        """log V, in nats."""
        return math.log(self.model.config.vocab_size)

    @property
    def width(self) -> int:
        """D, of the hidden states."""
        return int(self.model.get_output_embeddings().weight.shape[-1])

    def forward(self, batch: Batch, readers: Mapping[str, Reader] | None = None, keep_hidden: bool = False) -> Scored:
        """What the policy says of the batch's tokens given what precedes them; 0 where the mask is False.

        `readers` are asked with every chunk of logits there is, by name; `keep_hidden` keeps the final hidden states.
        """
        rows = batch.mask.nonzero().squeeze(1)  # [M]
        read_at = [] if self.critic is None else [self.critic.places(batch)]
        hidden, *at_places = self._hidden(batch, rows, *read_at)
        values = None if self.critic is None else self.critic(at_places[0])
        columns: dict[str, list[Tensor]] = {}
        place, size = answer_blocks(batch.seq[rows])
        sizes = chunk_sizes(size[place == 0].tolist(), self.logits_chunk)
        for part, at in zip(hidden.split(sizes), rows.split(sizes), strict=True):
            for name, column in self._read_chunk(part, batch.tokens[at], at, readers or {}).items():
                columns.setdefault(name, []).append(column)
        blank = torch.zeros(len(batch.tokens), device=hidden.device)
        whole = {name: blank.index_put((rows,), torch.cat(parts)) for name, parts in columns.items()}
        states = None
        if keep_hidden:
            states = hidden.new_zeros(len(batch.tokens), hidden.shape[-1]).index_put((rows,), hidden)
        return Scored(logp=whole.pop("logp"), entropy=whole.pop("entropy"), read=whole, hidden=states, values=values)

    def _hidden(self, batch: Batch, rows: Tensor, *places: Tensor) -> list[Tensor]:
        """Final hidden states [M, D] from which the tokens at `rows` are predicted; and those [P, D] at `places`."""
        lengths = batch.lengths
        starts = lengths.cumsum(0) - lengths
        position = torch.arange(len(batch.tokens), device=batch.tokens.device) - starts[batch.seq]
        assert bool((position[rows] > 0).all()), "a trajectory's first token has nothing before it to be predicted from"
        body = self.model.base_model
        if self.layout == "pack":
            # One row; positions restart with each trajectory, which is how transformers tells them apart.
            states = body(input_ids=batch.tokens[None], position_ids=position[None], use_cache=False)
            return [states.last_hidden_state[0, at] for at in (rows - 1, *places)]
        # Right-padded rows: causal attention never looks at the padding after a token, so no mask is needed.
        padded = batch.tokens.new_zeros(len(lengths), int(lengths.max()))
        padded[batch.seq, position] = batch.tokens
        states = body(input_ids=padded, use_cache=False)
        return [states.last_hidden_state[batch.seq[at], position[at]] for at in (rows - 1, *places)]

    def _read_chunk(
        self, hidden: Tensor, targets: Tensor, rows: Tensor, readers: Mapping[str, Reader]
    ) -> dict[str, Tensor]:
        """Columns [chunk]; the chunk's logits are recomputed in the backward pass, not kept."""
        if torch.is_grad_enabled():
            arguments = (hidden, targets, rows, readers)
            return checkpoint(self._read_logits, *arguments, use_reentrant=False)  # type: ignore[no-any-return]
        return self._read_logits(hidden, targets, rows, readers)

    def _read_logits(
        self, hidden: Tensor, targets: Tensor, rows: Tensor, readers: Mapping[str, Reader]
    ) -> dict[str, Tensor]:
        head = self.model.get_output_embeddings()
        logits = head(hidden).float() / self.temperature  # [chunk, V]
        logps = torch.log_softmax(logits, dim=-1)
        taken = logps.gather(-1, targets[:, None]).squeeze(-1)
        # What has no gradient stands behind the last step that has one, so that the recomputation stops before it.
        read = {name: reader(logits, targets, rows) for name, reader in readers.items()}
        with torch.set_grad_enabled(self.entropy_gradient and torch.is_grad_enabled()):
            entropy = -(logps.exp() * logps).sum(-1)
        return {**read, "logp": taken, "entropy": entropy}


def chunk_sizes(blocks: Sequence[int], limit: int) -> list[int]:
    """Tokens of each chunk, at most `limit`, for blocks of so many tokens in a row: whole ones, but for a block that is
    longer than the limit; a chunk of 0 where there is none."""
    sizes = [0]
    for block in blocks:
        for piece in (min(limit, block - start) for start in range(0, block, limit)):
            if sizes[-1] + piece <= limit:
                sizes[-1] += piece
            else:
                sizes.append(piece)
    return sizes


@torch.no_grad()
def _packs(model: Any) -> bool:
    """Whether a trajectory's hidden states are the same behind another one in its row as they are alone."""
    tokens = torch.tensor([[0, 1, 2, 3]], device=model.device)
    packed = model.base_model(input_ids=tokens, position_ids=tokens % 2, use_cache=False).last_hidden_state[0, 2:]
    alone = model.base_model(input_ids=tokens[:, 2:], use_cache=False).last_hidden_state[0]
    return bool((packed - alone).norm() < torch.finfo(alone.dtype).eps ** 0.5 * alone.norm())


def load_model(path: str, dtype: torch.dtype = torch.float32) -> Any:
    """A Hugging Face causal language model on the CPU, dropout off.

    Raises ValueError naming `policy.path` when the directory is missing or holds no model, or one whose logits are not
    its head applied to its final hidden states (soft-capped or rescaled ones would be scored wrongly).
    """
    check_policy_folder(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, local_files_only=True)
    tokens = torch.tensor([[0, 1]])
    with torch.no_grad():
        plain = model.get_output_embeddings()(model.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
        logits = model(input_ids=tokens, use_cache=False).logits
    if not torch.allclose(plain, logits, rtol=1e-3, atol=1e-3):
        kind = type(model).__name__
        raise ValueError(
            f"policy.path: its logits must be its head's output, not capped or scaled, got {kind} {path!r}"
        )
    return model


def load_tokenizer(path: str) -> Any:
    """The tokenizer saved beside a policy. Raises ValueError when there is none or it has no end-of-sequence token."""
    check_policy_folder(path)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"policy.path: its tokenizer must have an EOS token, so that answers can end, got {path!r}")
    return tokenizer


def check_policy_folder(path: str) -> None:
    """Raise ValueError unless `path` is a directory with a Hugging Face model and tokenizer."""
    folder = Path(path)
    if not folder.is_dir():
        raise ValueError(f"policy.path: must be a directory of a Hugging Face policy, got {path!r}")
    for name in ("config.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise ValueError(f"policy.path: must hold {name}, got {path!r}")
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"policy.path: must hold its weights as *.safetensors, got {path!r}")
