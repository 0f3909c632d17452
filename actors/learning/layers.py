"""How the decoder layers compute: recomputed or offloaded activations, compiled layers, sums in a fixed order."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from actors.learning.sharding import decoder_layers
from configs.learner import LearnerConfig


def prepare_layers(model: Any, config: LearnerConfig) -> None:
    """Apply `gradient_checkpointing`, `checkpoint_every`, `offload_activations` and `compile` to a model, in place.

    Must be called before the layers are sharded.
    """
    layers = decoder_layers(model)
    if config.gradient_checkpointing:
        # Without an accelerator activations are in host memory anyway, and transformers could not pin theirs.
        offload = config.offload_activations and torch.accelerator.is_available()
        model.gradient_checkpointing_enable(
            {"use_reentrant": False}, every_n_layers=config.checkpoint_every, offload=offload
        )
        for layer in layers:
            # transformers checkpoints only layers in training mode. Their submodules stay in evaluation mode.
            layer.training = True
    if config.compile:
        compile_layers(layers)


def compile_layers(layers: Iterable[nn.Module], backend: str = "inductor") -> None:
    """Compile the forward passes of layers, for all shapes, in place.

    Only `forward` is compiled: FSDP gathers parameters in hooks outside it, and recomputation repeats the compiled
    function. The layers of a model share their code, so that it is compiled once and not once per layer.
    """
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)  # type: ignore[method-assign]


def fix_order_of_sums(device: str) -> None:
    """Have the gradients on a CPU summed in the same order each time, in the whole process.

    Else several threads add up those of an element that is indexed more than once, such as the hidden state behind a
    shared prompt, in the order in which they arrive, and the last bits of a repeated run differ.
    """
    if device == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=True)
        # To fill empty tensors costs time, and nothing reads them.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
