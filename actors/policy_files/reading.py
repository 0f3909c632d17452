"""Read a policy's directory: its model, configuration and tokenizer."""

import threading
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from actors.policy_files.folder import check_policy_folder

disable_progress_bar()  # the progress of loading each weight file would clutter the run's console

LOADING = threading.Lock()
"""Held while transformers loads a model. It replaces functions of the whole process meanwhile, such as `tie_weights`,
and two threads at once would leave them replaced."""


def load_model(path: str, dtype: torch.dtype = torch.float32) -> Any:
    """Load a Hugging Face causal language model on the CPU, with dropout off.

    Raises:
        ValueError: `policy.path` is missing or holds no model, or the model's logits are not its LM head applied to its
            final hidden states. Capped or rescaled logits would be scored wrongly, since `Policy` applies the head
            itself.
    """
    check_policy_folder(path)
    with LOADING:
        model = AutoModelForCausalLM.from_pretrained(path, config=load_config(path), dtype=dtype, local_files_only=True)
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


def load_config(path: str) -> Any:
    """Load the configuration of a policy's model, without a padding token that its embedding does not have."""
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    if not has_usable_padding(config):
        # Loading would fail; or, with -1, the embedding of the last token would never be trained.
        config.get_text_config().pad_token_id = None
    return config


def has_usable_padding(config: Any) -> bool:
    """Return whether the padding token of a model's config is None or in its vocabulary."""
    text = config.get_text_config()
    pad = getattr(text, "pad_token_id", None)
    return pad is None or 0 <= pad < text.vocab_size


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer of a policy's directory.

    Raises:
        ValueError: there is none, or it has no end-of-sequence token.
    """
    check_policy_folder(path)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"policy.path: its tokenizer must have an EOS token, so that answers can end, got {path!r}")
    return tokenizer
