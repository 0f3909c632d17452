"""LoRA adapters of the policy, which peft computes: add them to a model, initialise, merge and write them.

Axes: r rank, I and O sizes of a layer's input and output.
"""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from actors.policy_files.weights import part_of
from actors.policy_files.writing import host_copy, write_tensors
from actors.weights.adapter_names import BASE, DOWN, UP, is_adapter
from configs.lora import ALL_LINEAR, NEEDS_PEFT, LoraConfig

PREFIX = "base_model.model."
"""Beginning of all names in the files of an adapter, as peft writes them."""


def add_adapters(model: Any, config: LoraConfig) -> None:
    """Freeze a model and add an adapter to each target layer, in place, without values: `initialise` sets them.

    Raises:
        ValueError: peft is not installed, or a target is no linear layer of the model or is its LM head.
    """
    # Imported here: only a run with adapters needs peft.
    try:
        from peft import inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ModuleNotFoundError as error:
        raise ValueError(f"learner.lora.r: {NEEDS_PEFT}, got {config.r}") from error

    setting = "learner.lora.target_modules"
    try:
        inject_adapter_in_model(peft_config(config, model), model, low_cpu_mem_usage=True)
    except ValueError as error:
        rule = "must name linear layers of the model"
        raise ValueError(f"{setting}: {rule}, got {config.target_modules}: {error}") from error
    head = model.get_output_embeddings()
    adapted = ((name, each) for name, each in model.named_modules() if isinstance(each, BaseTunerLayer))
    other = [name for name, each in adapted if each is head or not isinstance(each.get_base_layer(), nn.Linear)]
    if other:
        rule = "must name linear layers of the model other than its LM head"
        raise ValueError(f"{setting}: {rule}, got {config.target_modules}, which adapts {other[:3]}")
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()


def peft_config(config: LoraConfig, model: Any) -> Any:
    """Return peft's settings of the adapters of a model without them."""
    from peft import LoraConfig as PeftConfig

    return PeftConfig(
        r=config.r,
        lora_alpha=config.alpha,
        use_rslora=config.use_rslora,
        target_modules=target_names(config, model),
        task_type="CAUSAL_LM",
    )


def target_names(config: LoraConfig, model: Any) -> list[str]:
    """Return the last parts of the names of the layers that get an adapter, in a model without adapters."""
    if config.target_modules != [ALL_LINEAR]:
        return config.target_modules
    # peft and vLLM would also adapt the experts that they stack, which are no linear layers of the model.
    head = model.get_output_embeddings()
    linear = [name for name, each in model.named_modules() if isinstance(each, nn.Linear) and each is not head]
    return sorted({name.rpartition(".")[2] for name in linear})


@torch.no_grad()
def initialise(model: Any, seed: int) -> None:
    """Set A to uniform random numbers of standard deviation 1 / sqrt(3 I), as peft does, and B to 0.

    The numbers do not depend on the division of the model among ranks: each draws all of A, and keeps its part.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            value = torch.zeros(parameter.shape)
            if DOWN in name:
                bound = parameter.shape[1] ** -0.5
                value.uniform_(-bound, bound, generator=generator)
            local, part = part_of(parameter)
            local.copy_(value[part])


def merged(model: Any, name: str, own: dict[str, Any], on_device: Callable[[Any], Any]) -> Any:
    """Return the weight `name` of an adapted layer with its adapter, W + s B A [O, I], float32, divided as W is.

    Args:
        own: the parameters of the model by name.
        on_device: moves what this rank holds of a parameter to the device of computation.
    """
    layer = model.get_submodule(name.rpartition(BASE)[0])
    down, up = on_device(own[name.replace(BASE, DOWN)]), on_device(own[name.replace(BASE, UP)])
    if isinstance(down, DTensor):  # B has the rows of W, so each rank needs all of A
        down = down.redistribute(placements=[Replicate()] * down.device_mesh.ndim)
    return on_device(own[name]).float() + layer.scaling["default"] * (up @ down)


def is_adapted_weight(name: str, own: dict[str, Any]) -> bool:
    """Return whether a parameter is the frozen weight of an adapted layer."""
    return BASE in name and name.replace(BASE, DOWN) in own


def name_of_adapter(name: str) -> str:
    """Return the name that a parameter of an adapter has in peft's files."""
    return PREFIX + name.replace(".default.", ".")


def meta_adapters(model: Any, dtype: torch.dtype) -> list[tuple[str, Tensor]]:
    """Return what `sharding.full_adapters` yields, on the meta device."""
    return [
        (name_of_adapter(name), torch.empty(p.shape, dtype=dtype, device="meta"))
        for name, p in model.named_parameters()
        if is_adapter(name)
    ]


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter as peft's directory, in host memory."""

    config: Any
    tensors: dict[str, Tensor]

    def write(self, folder: Path) -> None:
        """Write the adapter. `PeftModel.from_pretrained` adds it to the policy that the run started from."""
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        write_tensors(folder / "adapter_model.safetensors", self.tensors)


def adapter_files(model: Any, named: Iterable[tuple[str, Tensor]], start: str) -> AdapterFiles:
    """Copy the adapter of a model to host memory.

    Args:
        named: its matrices by their names in files, whole.
        start: directory of the policy to which the adapter belongs.
    """
    config = copy.deepcopy(model.peft_config["default"])
    config.base_model_name_or_path, config.inference_mode = start, True
    return AdapterFiles(config, {name: host_copy(tensor, torch.float32) for name, tensor in named})
