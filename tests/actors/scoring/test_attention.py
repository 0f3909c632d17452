"""What the attention kernels get in each layout, and that log-probs and gradients are the same in all of them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from actors.scoring import policy as policy_module
from actors.scoring.attention import resolved, varlen_refusal, window
from actors.scoring.policy import Policy
from actors.scoring.varlen import NAME, Spans, spans, varlen_attention
from configs.learner import WIDEST_MASK, LearnerConfig
from tasks.characters import VOCABULARY_SIZE
from tests.actors.random_batch import random_batch, with_common_prompts
from tests.actors.scoring.attention_spy import AttentionSpy, Call, KernelSpy
from trajectories.batch import Batch
from trajectories.shared_prefixes import WIDEST, chain

HEADS, KEY_HEADS, WIDTH, LAYERS = 4, 2, 8, 2
SHAPE = {
    "vocab_size": VOCABULARY_SIZE, "hidden_size": HEADS * WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": KEY_HEADS, "head_dim": WIDTH, "initializer_range": 0.2,
    "pad_token_id": None,
}  # fmt: skip
SLIDING = ["full_attention", "sliding_attention"]
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=5)),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=5, layer_types=SLIDING)
    ),
}


def model_of(kind: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[kind]().eval()


def policy_of(model: Any, layout: str, *, share: bool = False) -> Policy:
    return Policy(
        model, layout=layout, logits_megabytes=0.04, temperature=0.7, share_prefixes=share, entropy_gradient=True
    )


def ragged(seed: int) -> Batch:
    draw = np.random.default_rng(seed)
    shapes = [(int(draw.integers(1, 9)), int(draw.integers(1, 30))) for _ in range(int(draw.integers(3, 8)))]
    return with_common_prompts(random_batch(shapes, seed=seed))


def scored(policy: Policy, batch: Batch) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Log-probs and entropies, and the gradients of a loss that weighs each of them differently."""
    outputs = list(policy(batch)[:2])
    weights = torch.linspace(-1, 1, len(batch.tokens))
    sum((weights.roll(n) * value).sum() for n, value in enumerate(outputs)).backward()
    return [value.detach() for value in outputs], {name: p.grad for name, p in policy.model.named_parameters()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", MODELS)
def test_log_probs_and_gradients_are_the_same_in_all_layouts(kind: str, seed: int) -> None:
    batch = ragged(seed)
    values, slopes = scored(policy_of(model_of(kind), "pad"), batch)
    largest = max(float(slope.abs().max()) for slope in slopes.values())
    for layout, share in (("varlen", False), ("varlen", True), ("pack", False), ("pad", True)):
        others, gradients = scored(policy_of(model_of(kind), layout, share=share), batch)
        for one, other in zip(values, others, strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5, msg=f"{layout} {share}")
        for name, slope in slopes.items():
            torch.testing.assert_close(gradients[name], slope, rtol=0, atol=1e-5 * largest, msg=f"{layout} {name}")


def calls_of(layout: str, batch: Batch, kind: str = "llama", *, share: bool = False) -> list[Call]:
    policy = policy_of(model_of(kind), layout, share=share)
    with AttentionSpy() as spy:
        policy(batch)
    return spy.calls


def test_padded_rows_reach_the_kernel_without_a_mask_and_with_their_own_key_heads() -> None:
    batch = random_batch()
    rows, columns = len(batch.lengths), int(batch.lengths.max())
    query, key = (rows, HEADS, columns, WIDTH), (rows, KEY_HEADS, columns, WIDTH)
    assert calls_of("pad", batch) == [Call(query, key, None, causal=True, gqa=True)] * LAYERS


def test_sequences_end_to_end_need_no_mask_and_are_computed_each_by_itself_where_there_is_no_kernel() -> None:
    batch = random_batch()
    expected = [
        Call((1, HEADS, n, WIDTH), (1, KEY_HEADS, n, WIDTH), None, causal=True, gqa=True)
        for n in batch.lengths.tolist()
    ]
    assert calls_of("varlen", batch) == expected * LAYERS


def test_a_packed_row_has_a_mask_of_row_times_row_tokens() -> None:
    batch = random_batch()
    n = len(batch.tokens)
    assert [call.mask for call in calls_of("pack", batch)] == [(1, 1, n, n)] * LAYERS


def test_tokens_of_a_shared_prefix_are_queries_once_and_keys_of_every_trajectory() -> None:
    prompt, answers = 20, 6
    batch = random_batch([(prompt, 5)] * answers)
    common = torch.where(batch.mask, batch.tokens, 2 + torch.arange(len(batch.tokens)) % (prompt + 5))
    batch.tokens.copy_(common)
    of_layer = calls_of("varlen", batch, share=True)[:answers]
    assert [call.query[2] for call in of_layer] == [prompt + 5] + [5] * (answers - 1)
    assert {call.key for call in of_layer} == {(1, KEY_HEADS, prompt + 5, WIDTH)}
    assert [call.mask for call in of_layer] == [None] + [(5, prompt + 5)] * (answers - 1)


def test_of_a_sliding_window_only_the_keys_in_it_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.scoring.varlen.QUERY_BLOCK", 4)
    calls = calls_of("varlen", random_batch([(2, 10)]), "mistral")
    # Windows of 5: queries 0-3 read keys 0-3; 4-7 keys 0-7; 8-11 keys 4-11.
    assert [(call.query[2], call.key[2], call.mask) for call in calls] == LAYERS * [
        (4, 4, (4, 4)),
        (4, 8, (4, 8)),
        (4, 8, (4, 8)),
    ]


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_on_a_gpu_one_kernel_per_layer_gets_the_whole_row_and_its_spans(kind: str, share: bool) -> None:
    """The kernel's tensors have no data, as the test needs no GPU: what it computes is not tested here."""
    kernel = KernelSpy()

    def on_gpu(*tensors: Tensor | None) -> list[Any]:
        return [t if t is None else torch.empty(t.shape, dtype=_on_gpu(t.dtype), device="meta") for t in tensors]

    def attention(module: Any, *tensors: Tensor, spans: Spans, **settings: Any) -> Any:
        there = Spans(*on_gpu(*spans[:2]), *spans[2:4], *on_gpu(spans.columns))
        with torch.no_grad(), kernel:
            varlen_attention(module, *on_gpu(*tensors), spans=there, **settings)
        return varlen_attention(module, *tensors, spans=spans, **settings)

    batch, policy = with_common_prompts(random_batch()), policy_of(model_of(kind), "varlen", share=share)
    AttentionInterface.register("spy", attention)
    policy.model.set_attn_implementation("spy")
    policy(batch)
    chained, lengths = chain(batch.sequences), batch.lengths
    keys = len(chained.columns) if share else len(batch.tokens)
    queries = len(chained.tokens) if share else len(batch.tokens)
    longest = int(chained.queries.max()) if share else int(lengths.max())
    windows = {"llama": [-1, -1], "mistral": [4, 4], "qwen2": [-1, 4]}[kind]
    assert len(kernel.calls) == LAYERS
    for (query, key, value, at_query, at_key, *settings), left in zip(kernel.calls, windows, strict=True):
        assert query.shape == (queries, HEADS, WIDTH) and key.shape == value.shape == (keys, KEY_HEADS, WIDTH)
        assert query.dtype == key.dtype == value.dtype == torch.bfloat16
        assert at_query.dtype == at_key.dtype == torch.int32 and len(at_query) == len(at_key)
        assert settings[:6] == [longest, int(lengths.max()), left == -1, WIDTH**-0.5, [left, 0], True]
    assert kernel.largest <= keys * HEADS * WIDTH < len(batch.tokens) ** 2 * 2, "nothing of row x row elements was made"


def _on_gpu(dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if dtype == torch.float32 else dtype


def test_spans_are_where_sequences_begin() -> None:
    found = spans(torch.tensor([3, 1]), torch.tensor([3, 4]), torch.tensor([0, 1, 2, 0, 1, 2, 3]))
    assert (found.queries.tolist(), found.keys.tolist()) == ([0, 3, 4], [0, 3, 7])
    assert found.queries.dtype == torch.int32 and (found.longest_query, found.longest_key) == (3, 4)


@pytest.mark.parametrize(
    ("device", "dtype", "head", "layout"),
    [
        ("cuda", "bfloat16", 8, "varlen"),
        ("cuda", "float32", 8, "pad"),  # the kernel has no float32
        ("cpu", "bfloat16", 8, "pad"),
        ("cuda", "bfloat16", 12, "pad"),  # nor heads that are no multiple of 8
        ("cuda", "bfloat16", 264, "pad"),  # or above 256
    ],
)
def test_auto_is_varlen_where_there_is_a_kernel_and_else_pad(device: str, dtype: str, head: int, layout: str) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SHAPE | {"head_dim": head}))
    assert resolved("auto", model, device=device, dtype=dtype) == layout


def on_meta(architecture: str) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture))


@pytest.mark.parametrize("architecture", ["qwen3", "qwen3_moe", "gemma3_text", "phi3", "olmo2", "smollm3", "gpt_neox"])
def test_models_are_computed_end_to_end_whatever_their_size_and_without_their_weights(architecture: str) -> None:
    assert varlen_refusal(on_meta(architecture)) == ""


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "alibi": (
        lambda: BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY_SIZE, hidden_size=32, n_layer=1, n_head=2)),
        "does not take its attention from transformers' registry",
    ),
    "capped scores": (
        lambda: Gemma2ForCausalLM(Gemma2Config(**SHAPE, attn_logit_softcapping=5.0)),
        "softcap",
    ),
    "sinks": (
        lambda: GptOssForCausalLM(GptOssConfig(**SHAPE, num_local_experts=2, num_experts_per_tok=1)),
        "registry|s_aux",
    ),
    "compressed keys": (lambda: on_meta("deepseek_v3"), "values of another size"),
    "recurrent layers": (
        lambda: Qwen3NextForCausalLM(Qwen3NextConfig(**SHAPE, num_experts=2, num_experts_per_tok=1)),
        "layers of the type linear_attention",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_whose_attention_is_more_than_the_kernel_computes_is_refused_and_gets_pad_by_auto(kind: str) -> None:
    build, reason = REFUSED[kind]
    model = build()
    with pytest.raises(
        ValueError, match=rf"^learner\.layout: must be 'pad' or 'pack' for {type(model).__name__}.*(?:{reason})"
    ):
        resolved("varlen", model, device="cuda", dtype="bfloat16")
    assert resolved("auto", model, device="cuda", dtype="bfloat16") == "pad"


@pytest.fixture
def registry() -> Iterator[None]:
    yield
    AttentionInterface.register(NAME, varlen_attention)


@pytest.mark.parametrize("ignored", ["sliding_window", "spans"])
@pytest.mark.parametrize("tie", [True, False])
def test_a_model_whose_layers_do_not_pass_on_windows_or_sequences_is_refused(
    ignored: str, tie: bool, registry: None
) -> None:
    def attention(module: Any, *tensors: Any, **settings: Any) -> Any:
        whole = torch.tensor([tensors[0].shape[2]])
        others = {"sliding_window": None, "spans": spans(whole, whole)}
        return varlen_attention(module, *tensors, **settings | {ignored: others[ignored]})

    model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=5, tie_word_embeddings=tie))
    assert varlen_refusal(model) == ""
    AttentionInterface.register(NAME, attention)
    assert "more than causal attention" in varlen_refusal(model)


def test_windows_are_those_of_the_layers() -> None:
    assert {kind: window(model_of(kind)) for kind in MODELS} == {"llama": None, "mistral": 5, "qwen2": 5}
    unused = Qwen2ForCausalLM(Qwen2Config(**SHAPE, use_sliding_window=False, sliding_window=5))
    assert window(unused) is None


@pytest.mark.parametrize(
    ("kind", "layout", "share", "refused"),
    [
        ("llama", "pack", False, True),
        ("mistral", "pack", False, True),
        ("mistral", "pad", False, True),
        ("llama", "pad", False, False),
        ("mistral", "varlen", True, False),
    ],
)
def test_a_mask_above_the_limit_is_refused_with_the_reason(
    kind: str, layout: str, share: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = random_batch([(2, 20), (2, 20)])
    monkeypatch.setattr(policy_module, "WIDEST", 21)
    policy = policy_of(model_of(kind), layout, share=share)
    if not refused:
        policy(batch)
        return
    with pytest.raises(
        ValueError, match=r"^learner\.layout: must be 'varlen' where .* more than 21 tokens.*got a row of"
    ):
        policy(batch)


def test_packed_microbatches_above_the_limit_are_refused_before_the_run() -> None:
    assert WIDEST_MASK == WIDEST
    LearnerConfig(layout="pack", token_budget=WIDEST)
    with pytest.raises(ValueError, match=r"token_budget: must be at most 4096 with layout pack.*got 4097"):
        LearnerConfig(layout="pack", token_budget=WIDEST + 1)


@pytest.mark.parametrize("layout", ["pad", "pack"])
def test_in_float32_a_gpu_gets_as_many_key_heads_as_query_heads_and_the_numbers_stay(layout: str) -> None:
    batch = ragged(3)
    plain, plain_slopes = scored(policy_of(model_of("llama"), layout), batch)
    on_gpu = Policy(
        model_of("llama"),
        layout=layout,
        logits_megabytes=0.04,
        temperature=0.7,
        entropy_gradient=True,
        device="cuda",
        dtype="float32",
    )
    with AttentionSpy() as spy:
        found, slopes = scored(on_gpu, batch)
    assert len(spy.calls) == LAYERS
    assert all(call.query[1] == call.key[1] == HEADS for call in spy.calls)
    assert all((call.mask is None) == call.causal == (layout == "pad") for call in spy.calls)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)
    for name, slope in plain_slopes.items():
        torch.testing.assert_close(slopes[name], slope, rtol=1e-5, atol=1e-5)
    assert not varlen_refusal(on_gpu.model), "context parallelism asks this of a policy that was made"
