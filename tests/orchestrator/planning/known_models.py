"""Configurations of published models, as their config.json has them. Nothing is downloaded."""

import json
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, Qwen2Config, Qwen3Config

from actors.learning.adapters import add_adapters
from configs.lora import LoraConfig
from orchestrator.planning.model_shapes import ModelShapes

# hidden, intermediate, layers, heads, key heads, vocabulary, tied
QWEN2 = {
    "1.5B": (1536, 8960, 28, 12, 2, 151_936, True),
    "7B": (3584, 18_944, 28, 28, 4, 152_064, False),
    "14B": (5120, 13_824, 48, 40, 8, 152_064, False),
    "32B": (5120, 27_648, 64, 40, 8, 152_064, False),
    "72B": (8192, 29_568, 80, 64, 8, 152_064, False),
}
"""Qwen2.5, by its size."""
QWEN3 = {"8B": (4096, 12_288, 36, 32, 8, 151_936, False)}
"""Qwen3: heads of 128, whose queries and keys are normalised."""


def config_of(name: str) -> PreTrainedConfig:
    """Return the configuration of a model by its size."""
    kind = Qwen2Config if name in QWEN2 else Qwen3Config
    hidden, intermediate, layers, heads, key_heads, vocabulary, tied = (QWEN2 | QWEN3)[name]
    return kind(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=32_768,
        use_sliding_window=False,
    )


@cache
def shapes_of(name: str, r: int = 0) -> ModelShapes:
    """Return the sizes of a model in bfloat16, with adapters of rank r."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(name))
    if r:
        add_adapters(model, LoraConfig(r=r))
    return ModelShapes(model, torch.bfloat16)


def write_config(name: str, folder: Path) -> str:
    """Write the config.json of a model, without weights and tokenizer, and return the directory."""
    config = config_of(name)
    config.architectures = ["Qwen2ForCausalLM" if name in QWEN2 else "Qwen3ForCausalLM"]
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    return str(folder)
