"""Yield a model's weights under the names and in the shapes of its files, which are those that vLLM loads.

transformers may hold several tensors of the files as one parameter: it stacks the experts of a layer.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from actors.weights.adapter_names import file_parameters

LAYER = re.compile(r".*?\.\d+\.")
"""Beginning of the names of one layer's parameters, such as `model.layers.3.`"""


def unit(name: str) -> str:
    """Return what the parameters of a layer have in common, the beginning of their names; of another one its name."""
    layer = LAYER.match(name)
    return layer.group() if layer else name


def as_in_files(model: Any, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of a transformers model as its files hold them. One layer is held at a time.

    Args:
        named: parameters by name, those of a layer in succession; on any device, in any dtype.
    """
    for _, parameters in groupby(named, lambda item: unit(item[0])):
        yield from revert_weight_conversion(model, dict(parameters)).items()


def meta_in_files(model: Any, dtype: torch.dtype) -> list[tuple[str, Tensor]]:
    """Return what `as_in_files` yields for all parameters of the model, on the meta device.

    Raises:
        ValueError: a tensor of the files is made of parameters of several layers.
    """
    named = [(name, torch.empty(p.shape, dtype=dtype, device="meta")) for name, p in file_parameters(model)]
    by_layer = list(as_in_files(model, named))
    whole = revert_weight_conversion(model, dict(named))
    if {name: t.shape for name, t in by_layer} != {name: t.shape for name, t in whole.items()}:
        kind = type(model).__name__
        raise ValueError(f"policy.path: each tensor of its files must belong to one layer, got a {kind}, where not")
    return by_layer
