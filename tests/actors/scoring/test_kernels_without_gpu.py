"""The operators that only a GPU computes, on the meta device, which has shapes and dtypes but no numbers."""

import pytest
import torch

from actors.scoring.token_scores import SLICE_BYTES, head_logits, token_scores
from actors.scoring.varlen import spans, varlen_attention

HEADS, KEY_HEADS, SIZE = 4, 2, 64


def meta(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta", dtype=torch.bfloat16).requires_grad_()


def test_the_product_of_a_bfloat16_head_has_float32_results() -> None:
    logits = head_logits(meta(10, 16), meta(50, 16))
    assert (logits.shape, logits.dtype) == ((10, 50), torch.float32)


@pytest.mark.parametrize("sizes", [[10], [4, 6]])
def test_the_gradients_of_a_bfloat16_head_have_its_dtype(sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SLICE_BYTES, "meta", SLICE_BYTES["cuda"])
    hidden, weight, targets = meta(10, 16), meta(50, 16), torch.zeros(10, dtype=torch.long, device="meta")
    scores = token_scores(
        hidden,
        weight,
        None,
        targets,
        temperature=0.7,
        sizes=sizes,
        rows=targets,
        functions=[lambda logits, targets, rows: logits.logsumexp(-1)],
    )
    assert [(column.shape, column.dtype) for column in scores] == [((10,), torch.float32)] * 3
    torch.stack(scores).sum().backward()
    assert hidden.grad is not None and (hidden.grad.shape, hidden.grad.dtype) == (hidden.shape, torch.bfloat16)
    assert weight.grad is not None and (weight.grad.shape, weight.grad.dtype) == (weight.shape, torch.bfloat16)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("shared", [False, True])
def test_the_varlen_kernel_takes_fewer_key_heads_shared_columns_and_windows(shared: bool, window: int | None) -> None:
    query, key, value = meta(1, HEADS, 30, SIZE), meta(1, KEY_HEADS, 30, SIZE), meta(1, KEY_HEADS, 30, SIZE)
    queries, keys = torch.tensor([20, 10]), torch.tensor([20, 18] if shared else [20, 10])
    columns = torch.cat([torch.arange(20), torch.arange(8), torch.arange(20, 30)]).to("meta") if shared else None
    laid = spans(queries, keys, columns)
    on_device = laid._replace(queries=laid.queries.to("meta"), keys=laid.keys.to("meta"))
    out, _ = varlen_attention(None, query, key, value, None, spans=on_device, sliding_window=window)
    assert (out.shape, out.dtype) == ((1, 30, HEADS, SIZE), torch.bfloat16)
    out.sum().backward()
    for tensor in (query, key, value):
        assert tensor.grad is not None and tensor.grad.shape == tensor.shape
