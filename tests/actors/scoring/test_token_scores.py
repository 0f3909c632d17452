"""Log-probs and entropies from hidden states: values and gradients against float64, and the memory of the logits."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from actors.scoring.policy import chunk_sizes
from actors.scoring.token_scores import token_scores
from objectives.divergence.truncation import truncated
from tests.actors.logits_records import LogitsRecords

M, D, V = 21, 16, 400
GRADIENTS = ("hidden", "weight", "bias")


def inputs(seed: int = 0, tokens: int = M, vocabulary: int = V) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "hidden": torch.randn(tokens, D, generator=draw),
        "weight": torch.randn(vocabulary, D, generator=draw),
        "bias": torch.randn(vocabulary, generator=draw),
        "targets": torch.randint(vocabulary, (tokens,), generator=draw),
        "logp_slopes": torch.randn(tokens, generator=draw),
        "entropy_slopes": torch.randn(tokens, generator=draw),
    }


def leaves(given: dict[str, Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [given[name].to(dtype, copy=True).requires_grad_() for name in GRADIENTS]


def chunks(tokens: int, limit: int) -> list[int]:
    return chunk_sizes([tokens], limit)


def plain(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    logps = torch.log_softmax(logits, dim=-1)
    return logps.gather(-1, targets[:, None]).squeeze(-1), -(logps.exp() * logps).sum(-1)


def outcome(given: dict[str, Tensor], scores: Sequence[Tensor], tensors: list[Tensor], of: str) -> list[Tensor]:
    """Log-probs, entropies, and gradients of a loss of one of them, or of both."""
    loss = sum(
        (value * given[f"{name}_slopes"]).sum()
        for name, value in zip(("logp", "entropy"), scores, strict=True)
        if of in (name, "both")
    )
    assert isinstance(loss, Tensor)
    return [value.detach() for value in scores] + list(torch.autograd.grad(loss, tensors))


def assert_near(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for name, value, wanted in zip(("logp", "entropy", *GRADIENTS), found, expected, strict=True):
        bound = tolerance * float(wanted.abs().max())
        assert (value.double() - wanted.double()).abs().max() <= bound, name


@pytest.mark.parametrize("chunk", [1, 5, 7, M, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("of", ["logp", "entropy", "both"])
def test_values_and_gradients_are_those_of_the_whole_logits_in_float64(chunk: int, temperature: float, of: str) -> None:
    given = inputs()
    exact = leaves(given, torch.float64)
    expected = outcome(given, plain(linear(*exact) / temperature, given["targets"]), exact, of)
    own = leaves(given, torch.float32)
    scores = token_scores(*own, given["targets"], temperature=temperature, sizes=chunks(len(given["targets"]), chunk))
    found = outcome(given, scores, own, of)
    assert {value.dtype for value in found} == {torch.float32}
    assert_near(found, expected, 2e-6)


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_nearly_uniform_and_nearly_certain_distributions_keep_their_precision(scale: float) -> None:
    given = inputs()
    given["weight"] *= scale
    given["bias"] *= scale
    exact, own = leaves(given, torch.float64), leaves(given, torch.float32)
    expected = outcome(given, plain(linear(*exact), given["targets"]), exact, "both")
    scores = token_scores(*own, given["targets"], temperature=1.0, sizes=chunks(M, 7))
    single = outcome(given, plain(linear(*own), given["targets"]), own, "both")
    found = outcome(given, scores, own, "both")
    for value, other, wanted in zip(found, single, expected, strict=True):
        # As near to the exact value as plain float32.
        assert (value - wanted).abs().max() <= 2 * (other - wanted).abs().max() + 1e-6 * wanted.abs().max()


@pytest.mark.parametrize("chunk", [5, 1000])
def test_of_a_bfloat16_head_log_probs_are_as_exact_as_float32_and_gradients_as_rounded_as_bfloat16(chunk: int) -> None:
    given = inputs()
    own = leaves(given, torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in own]
    rounded = [tensor.detach().clone().requires_grad_() for tensor in own]
    expected = outcome(given, plain(linear(*exact), given["targets"]), exact, "both")
    plain_bfloat16 = outcome(given, plain(linear(*rounded).float(), given["targets"]), rounded, "both")
    sizes = chunks(len(given["targets"]), chunk)
    found = outcome(given, token_scores(*own, given["targets"], temperature=1.0, sizes=sizes), own, "both")
    assert [value.dtype for value in found] == [torch.float32] * 2 + [torch.bfloat16] * 3

    def error(values: list[Tensor], n: int) -> float:
        return float((values[n].double() - expected[n]).norm() / expected[n].norm())

    for n in range(2):  # bfloat16 has 8 significant bits, float32 24
        assert error(found, n) < 1e-6 < 1e-4 < error(plain_bfloat16, n)
    for n in range(2, 5):
        assert error(found, n) < 2**-8
        assert error(found, n) <= error(plain_bfloat16, n)


def test_the_heads_gradient_over_many_bfloat16_chunks_is_summed_in_float32() -> None:
    # Every token has the same hidden state and target: 2,000 equal addends, which a sum in bfloat16 stops to take in
    # when it is 256 times as large as they are.
    hidden = torch.ones(2000, D, dtype=torch.bfloat16)
    weight = torch.zeros(4, D, dtype=torch.bfloat16, requires_grad=True)
    logp, _ = token_scores(hidden, weight, None, torch.zeros(2000, dtype=torch.long), temperature=1.0, sizes=[1] * 2000)
    (gradient,) = torch.autograd.grad(logp.sum(), weight)
    # 1 - 1/4 at the target and -1/4 elsewhere, 2,000 times.
    torch.testing.assert_close(gradient[:, 0].float(), torch.tensor([1500.0, -500, -500, -500]), rtol=2**-8, atol=0)


@pytest.mark.parametrize("chunk", [3, 1000])
def test_no_tokens_have_zero_gradients_of_every_tensor(chunk: int) -> None:
    given = inputs(tokens=0)
    own = leaves(given, torch.float32)
    scores = token_scores(*own, given["targets"], temperature=0.7, sizes=chunks(len(given["targets"]), chunk))
    found = outcome(given, scores, own, "both")
    assert [tuple(value.shape) for value in found] == [(0,), (0,), (0, D), (V, D), (V,)]
    assert not any(value.any() for value in found)


@pytest.mark.parametrize("trained", GRADIENTS)
def test_a_gradient_is_computed_only_where_one_is_needed(trained: str) -> None:
    given = inputs()
    own = dict(zip(GRADIENTS, leaves(given, torch.float32), strict=True))
    whole = token_scores(*own.values(), given["targets"], temperature=1.0, sizes=chunks(M, 7))[0].sum()
    expected = dict(zip(GRADIENTS, torch.autograd.grad(whole, list(own.values())), strict=True))
    for name, tensor in own.items():
        tensor.requires_grad_(name == trained)
    value = token_scores(*own.values(), given["targets"], temperature=1.0, sizes=chunks(M, 7))[0].sum()
    with LogitsRecords(D, V) as products:
        value.backward()
    for name, tensor in own.items():
        assert tensor.grad is None if name != trained else torch.equal(tensor.grad, expected[name])
    assert bool(products.products) == (trained == "hidden")


def test_kept_logits_serve_one_backward_pass_and_a_second_one_raises() -> None:
    given = inputs()
    logp, _ = token_scores(*leaves(given, torch.float32), given["targets"], temperature=1.0, sizes=[M])
    logp.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        logp.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of", ["logp", "both"])
def test_one_chunk_of_logits_exists_at_a_time(dtype: torch.dtype, of: str) -> None:
    # One row of this vocabulary fills a slice, whose float32 tensors are the only other ones of width V.
    chunk, vocabulary = 32, 2**18
    given: dict[str, Any] = inputs(tokens=3 * chunk + 5, vocabulary=vocabulary)
    own = leaves(given, dtype)
    with LogitsRecords(vocabulary, D) as logits:
        outcome(
            given,
            token_scores(*own, given["targets"], temperature=0.7, sizes=chunks(len(given["targets"]), chunk)),
            own,
            of,
        )
    # Of a bfloat16 head, the gradient is rounded before it is multiplied: another 2 bytes per float32 logit.
    of_chunk, of_slice = chunk * vocabulary * (4 if dtype == torch.float32 else 6), vocabulary * 4
    assert of_chunk <= logits.peak <= of_chunk + 4 * of_slice
    assert logits.products == 2 * [chunk, chunk, chunk, 5]


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reverse_kl": lambda p, q: (p.exp() * (p - q)).sum(-1),
    "forward_kl": lambda p, q: (q.exp() * (q - p)).sum(-1),
    "top": lambda p, q: truncated(p, q.topk(5).indices).square().sum(-1),
    "neighbours": lambda p, q: (p - p.roll(1, 0)).square().sum(-1) + 0 * q.sum(-1),
}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("sizes", [[M], [8, 8, 5]])
@pytest.mark.parametrize("names", [["reverse_kl"], ["forward_kl", "top"], ["neighbours"]])
@pytest.mark.parametrize("alone", [False, True])
def test_functions_of_the_logits_have_the_values_and_gradients_of_whole_logits(
    names: list[str], sizes: list[int], temperature: float, alone: bool
) -> None:
    given = inputs()
    given["weight"] *= 0.3
    anchor = torch.randn(M, V, generator=torch.Generator().manual_seed(1)).log_softmax(-1)

    def columns(logits: Tensor, rows: Tensor) -> list[Tensor]:
        return [FUNCTIONS[name](logits.log_softmax(-1), anchor.to(logits.dtype)[rows]) for name in names]

    def loss(logp: Tensor, entropy: Tensor, values: Sequence[Tensor]) -> Tensor:
        total = sum(((n + 1) * given["entropy_slopes"].roll(n) * value).sum() for n, value in enumerate(values))
        return total if alone else total + (given["logp_slopes"] * (logp + 0.3 * entropy)).sum()  # type: ignore[return-value]

    exact, own = leaves(given, torch.float64), leaves(given, torch.float32)
    logits = linear(*exact) / temperature
    # Functions see a chunk at a time, so one that compares tokens compares those of a chunk.
    parts = [columns(logits[rows], rows) for rows in torch.arange(M).split(sizes)]
    wanted = [torch.cat(part) for part in zip(*parts, strict=True)]
    expected = [*wanted, *torch.autograd.grad(loss(*plain(logits, given["targets"]), wanted), exact)]
    functions = [lambda x, _, rows, n=n: columns(x, rows)[n] for n in range(len(names))]
    logp, entropy, *values = token_scores(
        *own, given["targets"], temperature=temperature, sizes=sizes, rows=torch.arange(M), functions=functions
    )
    found = [*values, *torch.autograd.grad(loss(logp, entropy, values), own)]
    for value, other in zip(found, expected, strict=True):
        assert (value.double() - other).abs().max() <= 1e-6 * max(1.0, float(other.abs().max()))


def test_the_slopes_of_functions_exist_for_one_chunk_at_a_time() -> None:
    chunk, vocabulary = 32, 2**16
    given = inputs(tokens=3 * chunk, vocabulary=vocabulary)
    own, rows = leaves(given, torch.float32), torch.arange(3 * chunk)
    with LogitsRecords(vocabulary, D) as logits:
        *_, value = token_scores(
            *own,
            given["targets"],
            temperature=0.7,
            sizes=[chunk] * 3,
            rows=rows,
            functions=[lambda x, *_: x.square().sum(-1)],
        )
        value.sum().backward()
    assert logits.peak <= 4.5 * chunk * vocabulary * 4, "logits, squares, their slope, and the sum"
    assert logits.products == 2 * [chunk] * 3
