"""Random policies of a given size, saved as Hugging Face directories of the Llama architecture."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.characters import END, PADDING, VOCABULARY_SIZE, save_tokenizer


@dataclass(frozen=True)
class Size:
    """Shape of a policy."""

    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int

    def config(self) -> LlamaConfig:
        return LlamaConfig(
            num_hidden_layers=self.layers,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            vocab_size=self.vocabulary,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )


SIZES = {
    "10M": Size(layers=8, hidden=256, intermediate=1024, vocabulary=6_000, heads=4),
    "100M": Size(layers=12, hidden=768, intermediate=2048, vocabulary=20_000, heads=12),
    "152k": Size(layers=1, hidden=32, intermediate=64, vocabulary=152_000, heads=1),
    "tiny": Size(layers=2, hidden=64, intermediate=128, vocabulary=2_000, heads=2),
}
"""10M and 100M parameters; the vocabulary of Qwen with as few parameters as possible; and one for quick benchmarks.
The end of an answer is one token of the vocabulary, so random policies hardly ever end an answer before its limit."""


def random_policy(size: str, folder: Path) -> Path:
    """Write a policy with random weights, unless it is there, and return its directory."""
    path = folder / f"random-{size}"
    if (path / "config.json").exists():
        return path
    torch.manual_seed(0)
    config = SIZES[size].config()
    LlamaForCausalLM(config).save_pretrained(path)
    save_tokenizer(path)
    file = str(path / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=file, pad_token=PADDING, eos_token=END)
    # Every token has a text, so that all trainers can decode what the policy samples.
    tokenizer.add_tokens([f"<{i}>" for i in range(VOCABULARY_SIZE, min(config.vocab_size, 20_000))])
    tokenizer.save_pretrained(path)
    return path


def parameter_bytes(policy: Path) -> int:
    """Return the bytes of all weights in float32."""
    model = AutoModelForCausalLM.from_pretrained(policy)
    return 4 * sum(parameter.numel() for parameter in model.parameters())
