"""A tiny model has the class and the settings of a large one, which has no weights."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Zamba2Config,
    Zamba2ForCausalLM,
)

from actors.policy_files.tiny import tiny_model
from actors.scoring.attention import linear_width, packs

ARCHITECTURES = ("llama", "qwen2", "qwen3", "qwen3_moe", "mistral", "gemma3_text", "phi3", "olmo2", "deepseek_v3")
ARCHITECTURES += ("gpt2", "gpt_neox", "opt", "gpt_oss", "smollm3", "glm4_moe", "falcon")


def without_weights(architecture: str) -> AutoModelForCausalLM:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_tiny_model_of_a_large_architecture_is_small_and_runs(architecture: str) -> None:
    large, before = without_weights(architecture), torch.random.get_rng_state()
    tiny = tiny_model(large)
    assert type(tiny) is type(large) and not tiny.training
    assert sum(p.numel() for p in tiny.parameters()) < 20e6
    states = tiny.base_model(input_ids=torch.arange(6)[None], use_cache=False).last_hidden_state
    assert states.isfinite().all()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("heads", "keys"), [(heads, keys) for heads in range(1, 61) for keys in range(1, 13) if heads % keys == 0]
)
def test_every_key_head_of_a_tiny_model_belongs_to_equally_many_heads(heads: int, keys: int) -> None:
    config = AutoConfig.for_model(
        "llama", num_attention_heads=heads, num_key_value_heads=keys, hidden_size=8 * heads, intermediate_size=8,
        num_hidden_layers=1, vocab_size=64,
    )  # fmt: skip
    with torch.device("meta"):
        large = AutoModelForCausalLM.from_config(config)
    small = tiny_model(large).config
    assert small.num_attention_heads == min(heads, 4) and small.num_attention_heads % small.num_key_value_heads == 0


def test_every_kind_of_layer_is_in_the_tiny_model() -> None:
    kinds = set(tiny_model(without_weights("gemma3_text")).config.layer_types)
    assert kinds == {"sliding_attention", "full_attention"}


def test_what_a_large_model_can_do_is_found_without_its_weights() -> None:
    large = without_weights("qwen3")
    assert packs(large) and linear_width(large, "pad", device="cpu", dtype="float32") > 0
    with torch.device("meta"):
        biased = BloomForCausalLM(BloomConfig())
    assert not packs(biased) and linear_width(biased, "pad", device="cpu", dtype="float32") == 0


def test_an_architecture_that_cannot_be_made_small_is_named() -> None:
    with torch.device("meta"):
        model = Zamba2ForCausalLM(Zamba2Config())
    with pytest.raises(ValueError, match=r"^policy\.path: must be of an architecture .* got Zamba2ForCausalLM: "):
        tiny_model(model)
