"""Attention of one new token per row over keys and values that are not repeated."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from actors.generation.grouped_attention import NAME, use_grouped_attention

ROWS, COLUMNS = 3, 7


def llama(key_value_heads: int) -> Any:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=key_value_heads,
        initializer_range=0.2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@torch.no_grad()
def decoded(model: Any, mask: torch.Tensor) -> torch.Tensor:
    """Logits [R, 2, V] of two tokens, each decoded alone after a prompt with this mask."""
    tokens, past = torch.arange(ROWS * COLUMNS).view(ROWS, COLUMNS) % 50, DynamicCache(config=model.config)
    model(input_ids=tokens, attention_mask=mask, past_key_values=past)
    logits = []
    for token in (11, 12):
        mask = torch.cat([mask, mask.new_ones(ROWS, 1)], dim=1)
        last = torch.full((ROWS, 1), token)
        logits.append(model(input_ids=last, attention_mask=mask, past_key_values=past).logits[:, 0])
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("key_value_heads", [1, 2, 6])
@pytest.mark.parametrize("padding", [0, 3])
def test_it_computes_what_transformers_computes(key_value_heads: int, padding: int) -> None:
    model = llama(key_value_heads)
    mask = torch.ones(ROWS, COLUMNS, dtype=torch.int64)
    mask[1, :padding] = 0
    expected = decoded(model, mask)
    use_grouped_attention(model)
    assert model.config._attn_implementation == NAME
    torch.testing.assert_close(decoded(model, mask), expected, rtol=1e-5, atol=1e-5)


def test_keys_and_values_are_not_repeated_for_the_query_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = llama(2), []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(query: torch.Tensor, key: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        seen.append((query.shape[2], key.shape[1]))
        return attend(query, key, *arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    use_grouped_attention(model)
    mask = torch.ones(ROWS, COLUMNS, dtype=torch.int64)
    mask[0, 0] = 0
    decoded(model, mask)
    assert seen[2:] == [(3, 2)] * 4  # after the prompt: two layers, two tokens


def test_another_attention_stays() -> None:
    model = llama(2)
    model.set_attn_implementation("eager")
    use_grouped_attention(model)
    assert model.config._attn_implementation == "eager"
