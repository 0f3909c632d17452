"""Write a policy as a Hugging Face directory, and check before a run that it can be written."""

import copy
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from actors.policy_files.folder import INDEX, ONE_FILE
from actors.policy_files.reading import empty_model, load_model, load_tokenizer
from actors.weights.adapter_names import file_parameters
from actors.weights.file_names import as_in_files, unit
from trajectories.atomic_write import flush

FILE_BYTES = 5_000_000_000
"""Largest size of a file of weights, but for one layer more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPart:
    """The files of weights that one rank writes, in host memory."""

    files: Mapping[str, dict[str, Tensor]]
    """Tensors by file and name."""
    index: Mapping[str, Any] | None
    """Content of the index, which rank 0 writes; None if there is one file only."""

    def write(self, folder: Path) -> None:
        """Write the files to `folder`, and flush them to disk."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, tensors in self.files.items():
            write_tensors(folder / name, tensors)
        if self.index is not None:
            (folder / INDEX).write_text(json.dumps(self.index, indent=2) + "\n")


def policy_part(
    model: Any, named: Iterable[tuple[str, Tensor]], dtype: str, *, rank: int = 0, ranks: int = 1
) -> PolicyPart:
    """Copy the part of a policy that this rank writes to host memory: some whole layers, about as many bytes as on the
    other ranks, under the names and in the shapes of the policy's files.

    Args:
        named: the model's parameters by name, whole. Every rank exhausts it, since it may contain collectives, and
            holds one of them at a time besides its part.
        dtype: "float32" or "bfloat16", of the parameters in the files.
    """
    to = getattr(torch, dtype)
    places = _places(model, to.itemsize, ranks)

    def kept(name: str, tensor: Tensor, to: torch.dtype) -> tuple[str, Tensor]:
        own = places[unit(name)][0] == rank
        return name, host_copy(tensor, to) if own else torch.empty_like(tensor, dtype=to, device="meta")

    copied = (kept(name, p, to) for name, p in named)
    buffers = (kept(name, b, b.dtype) for name, b in _persistent_buffers(model))
    files: dict[str, dict[str, Tensor]] = {}
    index: dict[str, str] = {}
    size = 0
    for layer, tensors in groupby(chain(copied, buffers), lambda item: unit(item[0])):
        owner, file = places[layer]
        for name, tensor in as_in_files(model, tensors):
            index[name] = file
            size += tensor.nbytes
            if owner == rank:
                files.setdefault(file, {})[name] = tensor.contiguous()
    several = rank == 0 and len(set(index.values())) > 1
    return PolicyPart(files=files, index={"metadata": {"total_size": size}, "weight_map": index} if several else None)


def _places(model: Any, itemsize: int, ranks: int) -> dict[str, tuple[int, str]]:
    """Return, by layer (`file_names.unit`), the rank that writes it and the name of its file."""
    sizes: dict[str, int] = {}
    for name, tensor in chain(file_parameters(model), _persistent_buffers(model)):
        sizes[unit(name)] = sizes.get(unit(name), 0) + tensor.numel() * itemsize
    total = sum(sizes.values())
    per_rank = math.ceil(total / ranks / FILE_BYTES)
    starts = accumulate(sizes.values(), initial=0)
    numbers = {layer: start * ranks * per_rank // total for layer, start in zip(sizes, starts, strict=False)}
    used = sorted(set(numbers.values()))  # a small model has fewer layers than there could be files
    files = {n: f"model-{i:05d}-of-{len(used):05d}.safetensors" for i, n in enumerate(used, 1)}
    if len(used) == 1:
        files = {used[0]: ONE_FILE}
    return {layer: (number // per_rank, files[number]) for layer, number in numbers.items()}


def _persistent_buffers(model: Any) -> list[tuple[str, Tensor]]:
    held = model.state_dict().keys()
    return [(name, buffer) for name, buffer in model.named_buffers() if name in held]


def host_copy(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy in host memory. It is not pinned: torch rounds pinned memory up to a power of two, and keeps it for
    later after it is freed, so that a checkpoint would hold up to twice its bytes from then on."""
    return tensor.detach().to("cpu", dtype, copy=True)


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of host memory to a safetensors file, and flush it to disk."""
    save_file(dict(tensors), file, metadata={"format": "pt"})
    flush(file)


def write_settings(folder: Path, model: Any, tokenizer: Any, dtype: str) -> None:
    """Write what a policy's directory holds besides weights: settings of model and generation, and the tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.dtype, config.architectures = dtype, [type(model).__name__]
    config.save_pretrained(folder)
    valid_generation_config(model.generation_config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_policy(folder: str, model: Any, tokenizer: Any, dtype: str) -> None:
    """Write a policy that this process holds whole to `folder`, which is replaced, with its weights in `dtype`."""
    if Path(folder).exists():
        shutil.rmtree(folder)
    write_settings(Path(folder), model, tokenizer, dtype)
    policy_part(model, model.named_parameters(), dtype).write(Path(folder))


def copy_policy(source: str, folder: str, dtype: str) -> None:
    """Write the policy of the directory `source` to `folder`, with its weights in `dtype`."""
    save_policy(folder, load_model(source, getattr(torch, dtype)), load_tokenizer(source), dtype)


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
        model = empty_model(path)
        with tempfile.TemporaryDirectory() as folder:
            write_settings(Path(folder), model, tokenizer, "float32")
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
