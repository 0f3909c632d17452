"""Write a policy as a Hugging Face directory, and check before a run that it can be written."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from actors.policy_files.reading import LOADING, load_config, load_model, load_tokenizer


def save_policy(folder: str, model: Any, tokenizer: Any, parameters: dict[str, Tensor]) -> None:
    """Write model, generation settings and tokenizer to `folder`, which is replaced.

    Args:
        parameters: of the model by name, in the dtype in which they are written.
    """
    if Path(folder).exists():
        shutil.rmtree(folder)
    model.generation_config = valid_generation_config(model.generation_config)
    model.save_pretrained(folder, state_dict=parameters)
    if parameters:  # transformers writes the dtype of the model, not that of the parameters
        model.config.dtype = next(iter(parameters.values())).dtype
        model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def copy_policy(source: str, folder: str, dtype: str) -> None:
    """Write the policy of the directory `source` to `folder`, with its weights in `dtype`."""
    model = load_model(source, getattr(torch, dtype))
    save_policy(folder, model, load_tokenizer(source), model.state_dict())


def valid_generation_config(config: GenerationConfig) -> GenerationConfig:
    """Return the generation settings that are written with a policy.

    transformers reads contradictory settings, such as a temperature without sampling, but refuses to write them. Of
    such settings only the special tokens are kept.
    """
    try:
        config.validate(strict=True)
    except ValueError:
        return GenerationConfig(
            bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
        )
    return config


def check_saving(path: str, tokenizer: Any) -> None:
    """Write all files of a policy but its weights to a temporary directory, read them back, and compare.

    Args:
        tokenizer: of the policy, as `load_tokenizer` returns it.

    Raises:
        ValueError: a file cannot be written or read, or the tokenizer that was read back differs.
    """
    try:
        with LOADING, torch.device("meta"):
            model = AutoModelForCausalLM.from_config(load_config(path))
        if (Path(path) / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(path, local_files_only=True)
        with tempfile.TemporaryDirectory() as folder:
            save_policy(folder, model, tokenizer, {})
            AutoConfig.from_pretrained(folder, local_files_only=True)
            GenerationConfig.from_pretrained(folder, local_files_only=True)
            saved = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # of any library: the policy's files decide which code runs
        reason = " ".join(str(error).split())
        raise ValueError(
            f"policy.path: checkpoints of the policy must be writable and readable, got {path!r}: "
            f"{type(error).__name__}: {reason}"
        ) from error
    for name in ("chat_template", "eos_token_id", "bos_token_id", "pad_token_id"):
        before, after = getattr(tokenizer, name), getattr(saved, name)
        if before != after:
            raise ValueError(
                f"policy.path: its tokenizer must be the same after it is saved and loaded, got {path!r}, whose "
                f"{name} changes from {before!r} to {after!r}"
            )
    text = "The sum of 12 and 7 is:\n  19. <b>Café</b>"
    if tokenizer(text)["input_ids"] != saved(text)["input_ids"]:
        raise ValueError(
            f"policy.path: its tokenizer must be the same after it is saved and loaded, got {path!r}, which encodes "
            f"{text!r} differently then"
        )
