"""Read a policy's directory: its model, configuration and tokenizer."""

import threading
from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.initialization import meta_device_safe_creation_ops
from transformers.utils.logging import disable_progress_bar

from actors.policy_files.folder import check_policy_folder, config_folder
from actors.policy_files.tiny import tiny_model
from actors.policy_files.weights import policy_tensors, read_average, sources

disable_progress_bar()  # the progress of loading each weight file would clutter the run's console

LOADING = threading.Lock()
"""Held while transformers builds a model. It replaces functions of the whole process meanwhile, such as `tie_weights`,
and two threads at once would leave them replaced."""


def from_files(model: Any, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the parameters of a model like this one that transformers makes of the tensors of a policy's files."""
    with LOADING:
        loaded = type(model).from_pretrained(None, config=model.config, state_dict=tensors, dtype=model.dtype)
    return dict(loaded.named_parameters())


def load_model(path: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Any:
    """Load a Hugging Face causal language model, with dropout off. Raises as `empty_model` and `read_average`."""
    model = empty_model(path, dtype)
    fill_model(model, path, device)
    return model


def empty_model(path: str, dtype: torch.dtype = torch.float32) -> Any:
    """Build a Hugging Face causal language model on the meta device, without weights, with dropout off.

    Raises:
        ValueError: `policy.path` is missing or holds no model, its weights are quantized, or the model's logits are not
            its LM head applied to its final hidden states. Capped or rescaled logits would be scored wrongly, since
            `Policy` applies the head itself.
    """
    folder = check_policy_folder(path)
    config = load_config(path)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"policy.path: its weights must not be quantized, got {path!r}")
    model = meta_model(config, dtype)
    _keep_in_float32(model, dtype)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    _check_logits(model, path)
    sources(model, policy_tensors(path))
    return model


def meta_model(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """Build the causal language model of a configuration on the meta device, with dropout off."""
    with LOADING, torch.device("meta"), meta_device_safe_creation_ops():
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def fill_model(model: Any, path: str, device: str) -> None:
    """Give a model on the meta device its weights, from the files of a policy. As `fill_average`."""
    fill_average(model, {path: 1.0}, device)


def fill_average(model: Any, parts: Mapping[str, float], device: str) -> None:
    """Give a model on the meta device its weights, the weighted average of those of policies. It may be sharded.

    Args:
        parts: directories of policies, and their weights in the average.
        device: of the weights that this process holds.

    Raises:
        ValueError: as `read_average`.
    """
    model.to_empty(device=device)
    model.tie_weights(recompute_mapping=False)
    read_average(model, parts)
    for tensor in model.state_dict(keep_vars=True).values():
        tensor._is_hf_initialized = True
    with LOADING:
        model.initialize_weights()  # only what no file holds, such as the rotary frequencies


def _keep_in_float32(model: Any, dtype: torch.dtype) -> None:
    """Change to float32 the parameters and buffers that transformers keeps in it whatever the dtype of the model."""
    kept = list(model._get_dtype_plan(dtype))
    for name, tensor in model.state_dict(keep_vars=True).items():
        if any(part in name for part in kept):
            tensor.data = tensor.data.float()


def _check_logits(model: Any, path: str) -> None:
    """Raise ValueError if the model's logits are not its LM head applied to its final hidden states."""
    with LOADING:
        tiny = tiny_model(model)
    tokens = torch.tensor([[0, 1]])
    with torch.no_grad():
        plain = tiny.get_output_embeddings()(tiny.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
        logits = tiny(input_ids=tokens, use_cache=False).logits
    if not torch.allclose(plain, logits, rtol=1e-3, atol=1e-3):
        kind = type(model).__name__
        raise ValueError(
            f"policy.path: its logits must be its head's output, not capped or scaled, got {kind} {path!r}"
        )


def load_config(path: str) -> Any:
    """Load the configuration of a policy's model, without a padding token that its embedding does not have."""
    config = AutoConfig.from_pretrained(config_folder(path), local_files_only=True)
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
    tokenizer = AutoTokenizer.from_pretrained(check_policy_folder(path), local_files_only=True)
    if tokenizer.eos_token_id is None:
        raise ValueError(f"policy.path: its tokenizer must have an EOS token, so that answers can end, got {path!r}")
    return tokenizer
