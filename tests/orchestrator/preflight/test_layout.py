"""Refusals of layouts and of context parallelism that the policy's architecture does not allow."""

from pathlib import Path
from typing import Any

import pytest
from transformers import Gemma2Config, MistralConfig, Qwen2MoeConfig

from configs.config import Config
from configs.load import load
from orchestrator.preflight.layout import check_layout


def run_of(folder: Path, architecture: Any, *words: str) -> Config:
    """Settings of a run whose policy is a directory with a config.json only."""
    architecture.save_pretrained(folder)
    return load([f"policy.path={folder}", *words])


def mistral(**changes: Any) -> Any:
    """8 heads of 8 elements, and 2 key heads; windows of 64 tokens."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64}
    return MistralConfig(
        **{**sizes, "num_attention_heads": 8, "num_key_value_heads": 2, "sliding_window": 64, **changes}
    )


LONG = ("sampling.max_prompt_tokens=1000", "sampling.max_new_tokens=4000")


def test_long_rows_with_sliding_windows_are_refused_unless_the_layout_is_varlen(tmp_path: Path) -> None:
    message = (
        r"^sampling\.max_new_tokens: with sampling\.max_prompt_tokens must be at most 4,096 for a model with "
        r"windows of 64 tokens in learner\.layout=pad.*got 1,000 \+ 4,000; take learner\.layout=varlen"
    )
    with pytest.raises(ValueError, match=message):
        check_layout(run_of(tmp_path, mistral(), *LONG))
    check_layout(run_of(tmp_path, mistral(), *LONG, "learner.layout=varlen"))
    check_layout(run_of(tmp_path, mistral(), "sampling.max_prompt_tokens=96", "sampling.max_new_tokens=4000"))
    check_layout(run_of(tmp_path, mistral(sliding_window=5_001), *LONG))
    check_layout(run_of(tmp_path, mistral(sliding_window=None), *LONG))
    with pytest.raises(ValueError, match=r"windows of 5,000 tokens"):
        check_layout(run_of(tmp_path, mistral(sliding_window=5_000), *LONG))


def test_ranks_of_a_generator_that_cannot_share_the_attention_heads_are_refused(tmp_path: Path) -> None:
    split = ("scale=16gpu", "placement.tensor_parallel=2")
    check_layout(run_of(tmp_path, mistral(), *split))
    check_layout(run_of(tmp_path, mistral(), "scale=16gpu", "placement.tensor_parallel=4"))
    message = r"^placement\.tensor_parallel: must divide the attention heads \(9\), and .* key heads \(3\), got 2$"
    with pytest.raises(ValueError, match=message):
        check_layout(run_of(tmp_path, mistral(num_attention_heads=9, num_key_value_heads=3, hidden_size=72), *split))
    with pytest.raises(ValueError, match=r"\(12\), and divide or be a multiple of the key heads \(3\), got 2$"):
        check_layout(run_of(tmp_path, mistral(num_attention_heads=12, num_key_value_heads=3, hidden_size=96), *split))


def test_ranks_of_a_generator_that_cannot_share_the_feed_forward_layers_are_refused(tmp_path: Path) -> None:
    split = ("scale=16gpu", "placement.tensor_parallel=4")
    with pytest.raises(ValueError, match=r"^placement\.tensor_parallel: must divide intermediate_size \(66\), got 4$"):
        check_layout(run_of(tmp_path, mistral(intermediate_size=66), *split))
    check_layout(run_of(tmp_path, mistral(intermediate_size=66), "scale=16gpu", "placement.tensor_parallel=2"))
    # The learner divides no widths, and this model has no layer without experts.
    parallel = ("placement.learners=4", "learner.context_parallel=4")
    check_layout(run_of(tmp_path, mistral(intermediate_size=66, sliding_window=None), *parallel))
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 64}
    sizes = {"hidden_size": 64, "intermediate_size": 66, "shared_expert_intermediate_size": 64, **heads}
    check_layout(run_of(tmp_path, Qwen2MoeConfig(**sizes, moe_intermediate_size=32), *split))
    with pytest.raises(ValueError, match=r"must divide moe_intermediate_size \(34\), got 4$"):
        check_layout(run_of(tmp_path, Qwen2MoeConfig(**sizes, moe_intermediate_size=34), *split))


def test_the_layout_of_gpus_is_resolved_without_a_gpu(tmp_path: Path) -> None:
    on_gpu = ("scale=8gpu", "learner.layout=auto", *LONG)
    check_layout(run_of(tmp_path, mistral(), *on_gpu))
    with pytest.raises(ValueError, match=r"learner\.layout=pad"):
        check_layout(run_of(tmp_path, mistral(), *on_gpu, "policy.dtype=float32"))


def test_long_rows_are_refused_with_the_reason_where_varlen_is_no_way_out(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 64, "head_dim": 16}
    capped = Gemma2Config(**sizes, num_attention_heads=4, num_key_value_heads=2, sliding_window=64)
    with pytest.raises(ValueError, match=r"it cannot be 'varlen' for Gemma2ForCausalLM, w"):
        check_layout(run_of(tmp_path, capped, *LONG))
    with pytest.raises(ValueError, match=r"learner\.layout: must be 'pad' or 'pack' for Gemma2ForCausalLM"):
        check_layout(run_of(tmp_path, capped, "learner.layout=varlen"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 8}, r"must divide the attention heads \(6\)"),
        ({"num_key_value_heads": 8}, r"sliding windows need a mask unless learner\.layout is 'varlen'"),
    ],
)
def test_context_parallelism_that_the_policy_does_not_allow_is_refused(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    words = ("placement.learners=4", "learner.context_parallel=4")
    with pytest.raises(ValueError, match=rf"^learner\.context_parallel: .*{reason}"):
        check_layout(run_of(tmp_path, mistral(**changes), *words))
    check_layout(run_of(tmp_path, mistral(sliding_window=None), *words))


def test_context_parallelism_must_divide_the_heads_of_a_committed_policy() -> None:
    check_layout(load(["placement.learners=3", "learner.context_parallel=3"]))
    with pytest.raises(ValueError, match=r"must divide the attention heads \(3\)"):
        check_layout(load(["placement.learners=2", "learner.context_parallel=2"]))
