"""The policy as a module: token log-probs and entropies of a Batch, the one place where logits exist.

Axes: N tokens of the batch, M trained tokens (mask True), B trajectories, V vocabulary, D hidden.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from trajectories.batch import Batch

disable_progress_bar()  # loading a shard is not worth a line on the run's console


class Policy(nn.Module):
    """A causal language model that scores batches without ever holding `[N, V]`.

    The whole computation is one forward, so that FSDP gathers the head's weights around it. Raises ValueError naming
    `learner.layout` for a packed layout of a model that cannot tell packed trajectories apart.
    """

    def __init__(self, model: Any, *, layout: str, logits_chunk: int, temperature: float) -> None:
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

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probs of the batch's tokens given what precedes them, and entropies of the distributions they came from.

        Both are float32 [N] in nats at the sampling temperature, and 0 where the mask is False. Only the log-probs
        carry a gradient.
        """
        rows = batch.mask.nonzero().squeeze(1)  # [M]
        hidden = self._hidden(batch, rows)  # [M, D]
        targets = batch.tokens[rows]
        parts = [
            self._score_chunk(h, t)
            for h, t in zip(hidden.split(self.logits_chunk), targets.split(self.logits_chunk), strict=True)
        ]
        logp = torch.cat([part[0] for part in parts])
        entropy = torch.cat([part[1] for part in parts])
        blank = torch.zeros(len(batch.tokens), device=logp.device)
        return blank.index_put((rows,), logp), blank.index_put((rows,), entropy)

    def _hidden(self, batch: Batch, rows: Tensor) -> Tensor:
        """Final hidden states [M, D] from which the tokens at `rows` are predicted."""
        lengths = batch.lengths
        starts = lengths.cumsum(0) - lengths
        position = torch.arange(len(batch.tokens), device=batch.tokens.device) - starts[batch.seq]
        assert bool((position[rows] > 0).all()), "a trajectory's first token has nothing before it to be predicted from"
        body = self.model.base_model
        if self.layout == "pack":
            # One row; positions restart with each trajectory, which is how transformers tells them apart.
            states = body(input_ids=batch.tokens[None], position_ids=position[None], use_cache=False)
            return states.last_hidden_state[0, rows - 1]
        # Right-padded rows: causal attention never looks at the padding after a token, so no mask is needed.
        padded = batch.tokens.new_zeros(len(lengths), int(lengths.max()))
        padded[batch.seq, position] = batch.tokens
        states = body(input_ids=padded, use_cache=False)
        return states.last_hidden_state[batch.seq[rows], position[rows] - 1]

    def _score_chunk(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies [chunk]; the chunk's logits are recomputed in the backward pass, not kept."""
        if torch.is_grad_enabled():
            return checkpoint(self._logits_to_logps, hidden, targets, use_reentrant=False)  # type: ignore[no-any-return]
        return self._logits_to_logps(hidden, targets)

    def _logits_to_logps(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        head = self.model.get_output_embeddings()
        logps = torch.log_softmax(head(hidden).float() / self.temperature, dim=-1)  # [chunk, V]
        taken = logps.gather(-1, targets[:, None]).squeeze(-1)
        with torch.no_grad():  # behind the last step that has a gradient, so that the recomputation stops before it
            entropy = -(logps.exp() * logps).sum(-1)
        return taken, entropy


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
