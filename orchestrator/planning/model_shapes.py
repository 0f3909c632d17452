"""Read the sizes of a model from its config.json: parameters, key-values and activations, without its weights.

The model is built on the meta device, so that every architecture of transformers counts its own parameters. One decoder
layer runs on fake tensors, which have shapes and no memory, to count the bytes that its passes hold.

Axes: T tokens of a microbatch, D hidden, V vocabulary.
"""

import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from actors.learning.adapters import add_adapters
from actors.learning.sharding import decoder_layers
from actors.policy_files.reading import load_config, meta_model
from actors.scoring.attention import undivided, undivided_layers
from actors.weights.adapter_names import file_parameters, is_adapter
from configs.lora import LoraConfig

ROWS, COLUMNS = 16, 4_096
"""Size of the microbatch with which a layer is measured: so large that one weight's gradient is small beside it."""


@dataclass(frozen=True, kw_only=True)
class LayerBytes:
    """Bytes per token that one decoder layer holds, in the dtype of the forward pass. Attention without a mask of T x T
    elements is assumed, so that all of them are linear in T."""

    forward: float
    """Most at one time in a forward pass that keeps nothing, as of a reference or of a layer that is recomputed later,
    its output included."""
    saved: float
    """What a forward pass keeps for the backward pass, without its input and its output."""
    backward: float
    """Most at one time in the backward pass, with what was saved and the gradient of the output; without the weights'
    gradients."""


class UnknownMemory(ValueError):
    """The memory of a model cannot be computed."""


class ModelShapes:
    """Sizes of a causal language model, in elements unless a name says otherwise.

    Args:
        model: on the meta device.
        dtype: of the forward pass.
    """

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self._model, self._dtype = model, dtype
        text = model.config.get_text_config()
        layers = decoder_layers(model)
        self.name = type(model).__name__
        self.dtype_bytes = dtype.itemsize
        self.layers = len(layers)
        self.hidden: int = model.get_input_embeddings().weight.shape[1]
        self.vocabulary: int = model.get_output_embeddings().weight.shape[0]
        self.sizes = _sizes(model)
        """Parameters of each tensor, without those of adapters."""
        self.parameters = sum(self.sizes)
        """Without those of adapters, as are the numbers below."""
        self.layer = max(map(_count, layers))
        """Parameters of the largest decoder layer."""
        self.root = self.parameters - sum(map(_count, layers))
        """Parameters outside the decoder layers: embedding, LM head if it is not the embedding, and the last norm."""
        self.head = self.vocabulary * self.hidden
        self.largest_tensor = max(p.numel() for _, p in file_parameters(model))
        self.adapter_sizes = _sizes(model, of_adapters=True)
        self.adapters = sum(self.adapter_sizes)
        """Parameters of LoRA adapters (`learner.lora`); 0: all parameters are trained."""
        self.trained = self.adapters or self.parameters
        self.layer_adapters = max(_count(layer, of_adapters=True) for layer in layers)
        self.layer_trained = self.layer_adapters or self.layer
        self.heads: int = text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // self.heads
        self.queries = self.heads * width
        """Width of the queries of one layer."""
        self.key_heads: int = getattr(text, "num_key_value_heads", None) or self.heads
        self.key_values = 2 * self.layers * self.key_heads * width
        """Keys and values of one token in all layers."""

    def divides_heads(self, ranks: int) -> bool:
        """Return whether the attention heads can be divided among so many ranks."""
        return not undivided(self._model.config, ranks)

    def divides_layers(self, ranks: int) -> bool:
        """Return whether vLLM can divide the layers among so many ranks."""
        return not undivided_layers(self._model.config, ranks)

    def key_values_on(self, ranks: int) -> float:
        """Return the keys and values of one token on each of the GPUs that share a generator: at least one head's."""
        return self.key_values / min(ranks, self.key_heads)

    @cached_property
    def activations(self) -> LayerBytes:
        """Bytes per token of a decoder layer's passes.

        Raises:
            UnknownMemory: the layer cannot run on fake tensors, for example because it routes tokens by their values.
        """
        try:
            return _measured(self._model, self._dtype)
        except Exception as error:  # of any architecture's own code
            reason = " ".join(str(error).split())[:200]
            raise UnknownMemory(f"policy.path: memory cannot be computed for {self.name}, got: {reason}") from error


def read_shapes(path: str, dtype: str, lora: LoraConfig) -> ModelShapes:
    """Return the sizes of the model whose config.json is in the directory `path`. Weights are not needed.

    Args:
        dtype: of the forward pass, "float32" or "bfloat16".
        lora: adapters of the model.
    """
    model = meta_model(load_config(path))
    if lora.r:
        add_adapters(model, lora)
    return ModelShapes(model, getattr(torch, dtype))


def _sizes(module: nn.Module, *, of_adapters: bool = False) -> list[int]:
    return [p.numel() for name, p in module.named_parameters() if is_adapter(name) == of_adapters]


def _count(module: nn.Module, *, of_adapters: bool = False) -> int:
    return sum(_sizes(module, of_adapters=of_adapters))


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that were created in this mode and still exist, and the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.most = 0
        self._known = weakref.WeakSet[Any]()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage() not in self._known:
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: Any) -> None:
        size = storage.nbytes()
        self._known.add(storage)
        self.live += size
        self.most = max(self.most, self.live)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.live -= size


class _Reached(Exception):
    """Ends the forward pass of a model at its first layer."""


def _measured(model: Any, dtype: torch.dtype) -> LayerBytes:
    """Run the first decoder layer alone, forward without and with gradient, and backward."""
    layer = decoder_layers(model)[0]
    for parameter in model.parameters():  # Buffers keep their dtype, as under FSDP's mixed precision.
        parameter.data = parameter.data.to(dtype)
    arguments: dict[str, Any] = {}

    def reached(module: nn.Module, args: Any, kwargs: Any) -> None:
        arguments.update(args=args, kwargs=kwargs)
        raise _Reached

    hook = layer.register_forward_pre_hook(reached, with_kwargs=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        try:
            model.base_model(input_ids=torch.zeros(ROWS, COLUMNS, dtype=torch.long), use_cache=False)
        except _Reached:
            hook.remove()
        states, *others = arguments["args"]
        states = states.detach().to(dtype).requires_grad_()
        for parameter in layer.parameters():  # A weight's gradient does not grow with the tokens.
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(_without_gradient)
        with _LiveBytes() as counted, torch.no_grad():
            layer(states, *others, **arguments["kwargs"])
        forward = counted.most
        with _LiveBytes() as counted:
            output = layer(states, *others, **arguments["kwargs"])
            output = output[0] if isinstance(output, tuple) else output
            saved = counted.live - output.untyped_storage().nbytes()
            counted.most = 0
            output.backward(torch.ones_like(output))
    tokens = ROWS * COLUMNS
    return LayerBytes(forward=forward / tokens, saved=saved / tokens, backward=counted.most / tokens)


def _without_gradient(parameter: Tensor) -> None:
    parameter.grad = None
