"""Sizes of models from their config.json alone."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from configs.lora import LoraConfig
from orchestrator.planning.model_shapes import ModelShapes, read_shapes
from tests.orchestrator.planning.known_models import config_of, shapes_of, write_config


def test_parameters_of_layers_and_root_are_those_of_the_architecture() -> None:
    """Qwen2.5 7B. A layer: queries and output 3,584 x 3,584 each, keys and values 3,584 x 512 each, their biases
    3,584 + 2 x 512, three matrices 3,584 x 18,944 of the MLP, two norms of 3,584. Root: embedding and head
    152,064 x 3,584 each, one norm."""
    shapes = shapes_of("7B")
    layer = 2 * 3_584**2 + 2 * 3_584 * 512 + 3_584 + 2 * 512 + 3 * 3_584 * 18_944 + 2 * 3_584
    assert (shapes.layers, shapes.layer, shapes.root) == (28, layer, 2 * 152_064 * 3_584 + 3_584)
    assert shapes.parameters == 28 * layer + shapes.root
    assert shapes.largest_tensor == shapes.head == 152_064 * 3_584


def test_a_tied_head_is_counted_once() -> None:
    assert shapes_of("1.5B").root == 151_936 * 1_536 + 1_536


def test_key_values_are_two_for_each_layer_key_head_and_its_width() -> None:
    """Qwen3 8B: heads of 128, which hidden size / heads, 4,096 / 32, gives too; 147 KB per token in bfloat16."""
    assert shapes_of("8B").key_values * 2 == 2 * 2 * 36 * 8 * 128 == 147_456


def test_a_config_without_weights_and_tokenizer_is_enough(tmp_path: Path) -> None:
    shapes = read_shapes(write_config("7B", tmp_path / "policy"), "bfloat16", LoraConfig())
    assert shapes.parameters == shapes_of("7B").parameters
    assert shapes.activations == shapes_of("7B").activations


def test_a_layer_keeps_what_its_products_and_norms_read() -> None:
    """Qwen2.5 7B, per token: 6 matrix products and 2 residual sums in bfloat16, 2 norms in float32, and the gate.

    D = 3,584, I = 18,944, keys K = 512: inputs of q/k/v (D), of the output (D), of gate and up (D), of down (I); gate,
    activated gate and up (3 I); queries, keys and values as attention reads them (D + 2 K): 2 x (4 D + 2 K + 4 I) =
    182,272 bytes. Two norms keep a float32 copy of D and its normalised form: 2 x (4 D + 4 D) or less.
    """
    activations = shapes_of("7B").activations
    products = 2 * (4 * 3_584 + 2 * 512 + 4 * 18_944)
    assert products < activations.saved < products + 3 * 8 * 3_584
    assert activations.forward < activations.saved < activations.backward


class ReadsValues(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        return states if bool(states.sum() > 0) else -states


def test_a_layer_that_reads_values_is_refused_by_name() -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of("1.5B"))
    model.model.layers[0].mlp = ReadsValues()
    with pytest.raises(ValueError, match=r"^policy.path: memory cannot be computed for Qwen2ForCausalLM, got: "):
        _ = ModelShapes(model, torch.bfloat16).activations
