"""Tell the parameters of a model's files from those of LoRA adapters.

peft replaces an adapted layer by a module that holds it as `base_layer`, beside the matrices A and B of its adapter.
Without adapters every parameter is one of the files.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.", ".lora_B.default."
"""In names of parameters: of the adapted layer itself, of A [r, in] and of B [out, r]."""


def is_adapter(name: str) -> bool:
    """Return whether a parameter is one of an adapter."""
    return DOWN in name or UP in name


def name_in_files(name: str) -> str:
    """Return the name that a parameter has in the model without adapters."""
    return name.replace(BASE, ".")


def file_parameters(model: Any) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters that the model has without adapters, under their names then."""
    for name, parameter in model.named_parameters():
        if not is_adapter(name):
            yield name_in_files(name), parameter


def file_state(model: Any) -> dict[str, Tensor]:
    """Return the parameters and buffers that the model has without adapters, under their names then."""
    state = model.state_dict(keep_vars=True)
    return {name_in_files(name): tensor for name, tensor in state.items() if not is_adapter(name)}
