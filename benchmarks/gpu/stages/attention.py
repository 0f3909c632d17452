"""The three layouts at the head shapes of Qwen2.5 7B: operators, seconds, memory, equality of log-probs and gradient.

One decoder layer with 28 query heads, 4 key heads of 128, and a narrow MLP. N tokens are four sequences of N/2, N/4,
N/8 and N/8. At 32k the largest, a pass forward and backward is 4 N^2/4 x 3,584 x 1.4 x 3.5 = 18 TFLOP padded: 0.1 s.
With 3 warm and 5 timed passes of each, and the profiler's one: 8 s, and 12 s of imports.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from actors.scoring.policy import Policy
from benchmarks.gpu.inputs import TINY, random_batch, random_model, relative_error
from benchmarks.gpu.record import Record
from trajectories.batch import Batch

QWEN_7B_LAYER: dict[str, Any] = {
    "hidden_size": 3584, "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 1024, "tie_word_embeddings": True, "max_position_embeddings": 65_536,
}  # fmt: skip
LAYOUTS = {"pad": "pad", "varlen": "varlen", "varlen, shared prompts": "varlen", "pack": "pack"}
"""The layout of each row; trajectories share the columns of their prompt in one of them."""
LINEAR = ("flash_attention", "cudnn_attention", "efficient_attention")
"""Parts of the names of operators whose memory is linear in the tokens."""
TOKENS = (4_096, 16_384, 32_768)
LOGP_LIMIT, GRADIENT_LIMIT = 0.02, 0.08
"""Largest mean absolute difference of log-probs in nats, and relative one of a gradient, in bfloat16. Two bfloat16
passes differ by a few times 2^-8; a wrong mask or head changes them by a large part."""
SHARED = 16
"""The prompt that all sequences share is N / SHARED tokens."""
TIMED = 5
CHOOSING = "scaled_dot_product_attention"
"""The operator that dispatches to one of the others."""


def run(record: Record) -> None:
    """Measure every layout at every length."""
    shape = TINY if record.small else QWEN_7B_LAYER
    dtype = torch.bfloat16
    for tokens in (64,) if record.small else TOKENS:
        batch = _batch(tokens).to(record.device)
        expected: dict[str, Tensor] = {}
        if tokens <= 4_096:  # in float32 a GPU has no kernel of linear memory for fewer key heads than query heads
            with record.part(f"{tokens} tokens, float32"):
                policy = _policy(shape, "pad", record.device, torch.float32)
                _, expected = _pass(policy, batch)
                with record.phase(f"{tokens} tokens, pad, float32"):
                    record.value(f"{tokens} tokens, pad, float32: operators", _kernels(policy, batch))
        for title, layout in LAYOUTS.items():
            name = f"{tokens} tokens, {title}"
            with record.part(name):
                try:
                    found = _measured(
                        record, name, _policy(shape, layout, record.device, dtype, share="shared" in title), batch
                    )
                except ValueError as error:  # a mask of row x row tokens
                    record.value(f"{name}: refused", str(error))
                    assert layout == "pack" and tokens > 4_096, "only wide rows with a mask are refused"
                    continue
                expected = expected or found
                difference = (found["logp"] - expected["logp"]).abs().mean()
                record.check(f"{name}: log-probs", float(difference), at_most=LOGP_LIMIT)
                record.check(
                    f"{name}: gradient", relative_error(found["gradient"], expected["gradient"]), at_most=GRADIENT_LIMIT
                )


def _batch(tokens: int) -> Batch:
    lengths = [tokens // 2, tokens // 4, tokens // 8, tokens // 8]
    return random_batch([(tokens // SHARED, length - tokens // SHARED) for length in lengths], group=4)


def _policy(shape: dict[str, Any], layout: str, device: str, dtype: torch.dtype, share: bool = False) -> Policy:
    """Return a policy whose weights are the same numbers in float32 and bfloat16."""
    model = random_model(shape, device=device, dtype=dtype)  # cast later, its rotary frequencies would be rounded
    drawn = random_model(shape, device=device, dtype=torch.float32)
    with torch.no_grad():
        for own, other in zip(model.parameters(), drawn.parameters(), strict=True):
            own.copy_(other.bfloat16())
    name = str(dtype).removeprefix("torch.")
    return Policy(
        model,
        layout=layout,
        logits_megabytes=256,
        temperature=1.0,
        share_prefixes=share,
        device=device,
        dtype=name,
    )


def _pass(policy: Policy, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    """Run forward and backward. Return the loss, and log-probs [N] and gradient of the values' weight on the CPU. That
    of the queries' weight is a small difference of large numbers where attention is nearly uniform."""
    policy.zero_grad()
    logp = policy(batch).logp
    loss = (logp * torch.linspace(-1, 1, len(logp), device=logp.device)).sum() / len(logp)
    loss.backward()
    gradient = policy.model.model.layers[0].self_attn.v_proj.weight.grad
    return loss, {"logp": logp.detach().cpu(), "gradient": gradient.detach().float().cpu()}


def _measured(record: Record, name: str, policy: Policy, batch: Batch) -> dict[str, Tensor]:
    """Note kernels, memory and seconds of a pass, and return its results."""
    _, found = _pass(policy, batch)
    kernels = _kernels(policy, batch)
    record.value(f"{name}: operators", kernels)
    if record.gpu:
        linear = any(part in kernels for part in LINEAR)
        record.check(f"{name}: an operator of linear memory", float(linear), at_most=1.0, at_least=1.0)
    with record.phase(name):
        _pass(policy, batch)
    record.value(f"{name}: milliseconds", round(1e3 * _seconds(record, lambda: _pass(policy, batch)), 3))
    return found


def _kernels(policy: Policy, batch: Batch) -> str:
    """Return the operators of attention that torch dispatches to in a forward pass."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        _pass(policy, batch)
    names = {event.key.removeprefix("aten::") for event in profiled.key_averages()}
    chosen = (name for name in names if "attention" in name or "attn" in name)
    return ", ".join(sorted(name for name in chosen if "backward" not in name.lower() and name != CHOOSING))


def _seconds(record: Record, action: Callable[[], object]) -> float:
    """Return the smallest wall seconds of TIMED passes."""
    found = []
    for _ in range(1 if record.small else TIMED):
        start = time.perf_counter()
        action()  # its results are copied to the CPU, which waits for the GPU
        found.append(time.perf_counter() - start)
    return min(found)
