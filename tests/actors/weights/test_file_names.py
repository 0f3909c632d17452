"""Weights under the names and in the shapes of a policy's files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from actors.weights.file_names import as_in_files, meta_in_files
from tests.conftest import make_mixture_of_experts, make_policy


def mixtral(folder: Path) -> Path:
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
    )
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("make", [make_policy, make_mixture_of_experts, mixtral])
def test_the_weights_are_those_of_the_files_name_by_name(make: object, tmp_path: Path) -> None:
    assert callable(make)
    make(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    found = dict(as_in_files(model, model.named_parameters()))
    expected = load_file(tmp_path / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    declared = meta_in_files(model, torch.bfloat16)
    assert [(name, t.shape) for name, t in declared] == [(name, t.shape) for name, t in found.items()]
    assert {t.dtype for _, t in declared} == {torch.bfloat16} and all(t.is_meta for _, t in declared)


def test_the_experts_of_a_mixture_have_one_name_each(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_mixture_of_experts(tmp_path), dtype=torch.float32)
    assert any(name.endswith("experts.gate_up_proj") for name, _ in model.named_parameters())
    names = {name for name, _ in meta_in_files(model, torch.float32)}
    for projection in ("gate_proj", "up_proj", "down_proj"):
        assert {f"model.layers.1.mlp.experts.{i}.{projection}.weight" for i in range(4)} <= names
