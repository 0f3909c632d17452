"""Read the weights of a policy's files into a model, of which a process may hold only its shards.

Every process reads the slices that it holds, one tensor at a time, so that its memory grows by its shards and one
tensor. Where transformers holds several tensors of the files as one parameter, such as the experts of a layer, the
whole parameter is made first, so that a process holds one layer's more.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from actors.policy_files.folder import policy_folder, weight_files
from actors.weights.adapter_names import file_state


class TensorFiles:
    """The tensors in safetensors files, by name. Nothing is read before it is asked for.

    Raises:
        ValueError: a file is missing, truncated or no safetensors file. The message starts with `setting`.
    """

    def __init__(self, paths: Iterable[Path], setting: str) -> None:
        self.setting = setting
        self.of: dict[str, tuple[Path, Any]] = {}
        """The file of each tensor, and its opened form."""
        for path in paths:
            # Reading instead of mapping: mapped pages would count as memory of the process until the file is closed.
            opened = self._tried(path, partial(safe_open, path, framework="pt", backend="pread"))
            self.of |= dict.fromkeys(opened.keys(), (path, opened))

    def read(self, name: str, part: tuple[slice, ...] | None = None) -> Tensor:
        """Return a tensor, or a part of it, in the dtype of its file."""
        path, opened = self.of[name]
        if part is None:
            return self._tried(path, lambda: opened.get_tensor(name))  # type: ignore[no-any-return]
        return self._tried(path, lambda: opened.get_slice(name)[part])  # type: ignore[no-any-return]

    def shape(self, name: str) -> tuple[int, ...]:
        path, opened = self.of[name]
        return tuple(self._tried(path, lambda: opened.get_slice(name).get_shape()))

    def _tried(self, path: Path, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (SafetensorError, OSError) as error:
            rule = "must be a whole safetensors file"
            raise ValueError(f"{self.setting}: {path} {rule}, got {type(error).__name__}: {error}") from None


def policy_tensors(path: str) -> TensorFiles:
    """Open the weights of a policy's directory. Raises as `TensorFiles`, and ValueError for an index that is missing or
    no index."""
    folder = policy_folder(path)
    return TensorFiles([folder / name for name in weight_files(folder)], "policy.path")


def part_of(tensor: Tensor) -> tuple[Tensor, tuple[slice, ...]]:
    """Return what this process holds of a tensor, and where in the whole it lies."""
    if not isinstance(tensor, DTensor):
        return tensor, tuple(slice(0, size) for size in tensor.shape)
    sizes, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    part = tuple(slice(start, start + size) for start, size in zip(offsets, sizes, strict=True))
    return tensor.to_local(), part


Made = Callable[[], Mapping[str, Tensor]]
"""Makes parameters of several tensors of the files."""
Reader = Callable[[tuple[slice, ...]], Tensor]
"""Returns the part of a tensor at these slices."""


def sources(model: Any, files: TensorFiles) -> tuple[dict[str, str], dict[str, Made]]:
    """Map the tensors of the files to a model's parameters and buffers, as transformers does when it loads a model.

    Notes in the model which conversions its files need, as transformers does, so that it is saved likewise.

    Returns:
        For each parameter that is one tensor of the files, that tensor's name; and functions that make the others, each
        by the name of a parameter that it makes.
    """
    conversions = get_model_conversion_mapping(model)
    renamings = [one for one in conversions if isinstance(one, WeightRenaming)]
    converters = [one for one in conversions if isinstance(one, WeightConverter)]
    of_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    own = file_state(model)
    plain: dict[str, str] = {}
    made: dict[str, WeightConverter] = {}
    for name in sorted(files.of, key=dot_natural_key):
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, own)
        if target not in own and name in own:
            target, pattern = name, None
        if target not in own:  # a tensor that this class of model does not use
            continue
        if pattern is None:
            plain[target] = name
        else:
            converter = made.setdefault(target, copy.deepcopy(of_pattern[pattern]))
            converter.add_tensor(target, name, pattern, partial(files.read, name))  # type: ignore[arg-type]
    model._weight_conversions = [one for one in conversions if one.was_used()]
    making: dict[str, Made] = {
        name: partial(one.convert, name, model=model, config=model.config) for name, one in made.items()
    }
    return plain, making


def read_weights(model: Any, path: str) -> None:
    """Copy the weights of a policy's directory into a model. Args and Raises: as for `read_average`."""
    read_average(model, {path: 1.0})


@torch.no_grad()
def read_average(model: Any, parts: Mapping[str, float]) -> None:
    """Copy the weighted average of the weights of several policies into a model's parameters and buffers, which may be
    sharded, on any device and in any dtype. It is computed in float32 from one tensor of each policy at a time. Every
    process reads on its own: there is no collective.

    Args:
        parts: directories of policies, and their weights in the average.

    Raises:
        ValueError: a file is missing or damaged, a parameter is missing or has another shape, or the policies differ
            in the names of their parameters.
    """
    own = file_state(model)
    found = [(path, files, *sources(model, files)) for path, files in ((path, policy_tensors(path)) for path in parts)]
    _, _, plain, made = found[0]
    if any((each[2].keys(), each[3].keys()) != (plain.keys(), made.keys()) for each in found):
        raise ValueError(f"references: policies of a soup must have the same parameters, got {list(parts)}")
    filled: set[int] = set()

    def fill(target: str, shapes: Sequence[tuple[int, ...]], readers: Sequence[Reader]) -> None:
        tensor = own[target]
        for path, shape in zip(parts, shapes, strict=True):
            if shape != tensor.shape:
                rule = f"must have the shape {tuple(tensor.shape)} of config.json"
                raise ValueError(f"policy.path: {target} {rule}, got {shape} in {path}")
        local, part = part_of(tensor)
        if local.numel():
            local.copy_(_average([read(part) for read in readers], list(parts.values())))
        filled.add(id(tensor))

    for target in plain:
        names = [(files, of_file[target]) for _, files, of_file, _ in found]
        fill(target, [f.shape(name) for f, name in names], [partial(f.read, name) for f, name in names])
    for key in made:
        wholes = [make[key]() for _, _, _, make in found]
        for target in wholes[0]:
            values = [whole[target][0] if isinstance(whole[target], list) else whole[target] for whole in wholes]
            fill(target, [tuple(value.shape) for value in values], [value.__getitem__ for value in values])
    lacking = [name for name, tensor in own.items() if id(tensor) not in filled]
    if lacking:
        raise ValueError(f"policy.path: its files must hold all weights, got none for {lacking[:5]} in {list(parts)}")


def _average(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted average, computed in float32; of a single tensor itself."""
    if len(tensors) == 1:
        return tensors[0]
    total = torch.zeros_like(tensors[0], dtype=torch.float32)
    for tensor, weight in zip(tensors, weights, strict=True):
        total.add_(tensor.float(), alpha=weight)
    return total
