"""The fused LM head at the vocabulary of Qwen: chunk sizes, memory beside logits [N, V], and errors in bfloat16.

N = 8,192, D = 3,584, V = 152,064: forward, recomputation and two products of the backward pass are 4 x 8.9 TFLOP,
about 0.1 s. Five chunk sizes, 4 passes each: 3 s, and 10 s of imports. Full logits in float32 are 4.98 GB.
"""

import time

import torch
from torch import Tensor

from actors.scoring.policy import chunk_sizes
from actors.scoring.token_scores import token_scores
from benchmarks.gpu.inputs import relative_error
from benchmarks.gpu.record import Record

SIZES = (8_192, 3_584, 152_064)
"""N, D, V."""
SMALL = (64, 16, 512)
MEGABYTES = (64, 128, 256, 512, 1024)
COMPARED = 512
"""Tokens whose scores are compared with float64."""
LOGP_LIMIT, GRADIENT_LIMIT = 1e-3, 1e-2
"""Largest absolute error of a log-prob in nats, and relative one of the gradients, which are rounded to bfloat16."""
SHARE_LIMIT = 0.2
"""Largest peak besides the head's gradient, as a share of full logits, with the default chunk."""
TIMED = 3


def run(record: Record) -> None:
    """Measure every chunk size, and the errors of one."""
    tokens, width, vocabulary = SMALL if record.small else SIZES
    torch.manual_seed(0)
    hidden = torch.randn(tokens, width, device=record.device).bfloat16().requires_grad_()
    weight = (torch.randn(vocabulary, width, device=record.device) / width**0.5).bfloat16().requires_grad_()
    targets = torch.randint(vocabulary, (tokens,), device=record.device)
    with record.part("errors"):
        _errors(record, hidden, weight, targets)
    for megabytes in (0.02, 0.1) if record.small else MEGABYTES:
        with record.part(f"{megabytes} MB"):
            _measured(record, megabytes, hidden, weight, targets)


def _errors(record: Record, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Compare log-probs, entropies and gradients of some tokens with float64, or float32 for the gradients."""
    count = min(COMPARED, len(hidden))
    states = hidden.detach()[:count].requires_grad_()
    scores = _scores(states, weight, targets[:count], max(1, count // 3))
    logp, entropy = (column.detach().double() for column in scores)
    logits = _float64_logits(states.detach(), weight.detach())
    expected = logits.log_softmax(-1)
    at = targets[:count, None]
    exact = expected.gather(-1, at)[:, 0]
    record.check("log-prob, float32 logits", float((logp - exact).abs().max()), at_most=LOGP_LIMIT)
    own_entropy = -(expected.exp() * expected).sum(-1)
    record.check("entropy, float32 logits", float((entropy - own_entropy).abs().max()), at_most=LOGP_LIMIT)
    rounded = torch.mm(states.detach(), weight.detach().T).double().log_softmax(-1).gather(-1, at)[:, 0]
    record.value("log-prob error with bfloat16 logits", float((rounded - exact).abs().max()))

    weight.grad = None
    (scores[0].sum() - 0.5 * scores[1].sum()).backward()
    assert states.grad is not None and weight.grad is not None
    probabilities = expected.exp()
    slope = -probabilities  # of the sum of log-probs, and of -0.5 entropies, with respect to the logits
    slope.scatter_add_(-1, at, torch.ones_like(at, dtype=slope.dtype))
    slope += 0.5 * probabilities * (expected + own_entropy[:, None])
    slope32 = slope.float()
    to_hidden = slope32 @ weight.detach().float()
    to_weight = slope32.T @ states.detach().float()
    record.check("gradient of hidden states", relative_error(states.grad, to_hidden), at_most=GRADIENT_LIMIT)
    record.check("gradient of the head", relative_error(weight.grad, to_weight), at_most=GRADIENT_LIMIT)


def _float64_logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """Return logits [tokens, V] computed in float64, a part of the vocabulary at a time."""
    states = hidden.double()
    return torch.cat([states @ part.double().T for part in weight.split(16_384)], dim=1)


def _scores(hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> list[Tensor]:
    sizes = chunk_sizes([len(hidden)], chunk)
    return token_scores(hidden, weight, None, targets, temperature=1.0, sizes=sizes)


def _measured(record: Record, megabytes: float, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """Note seconds and memory of a pass forward and backward with chunks of so many megabytes of logits."""
    chunk = max(1, int(megabytes * 1e6) // (4 * len(weight)))

    def action() -> None:
        hidden.grad = weight.grad = None
        logp, entropy = _scores(hidden, weight, targets, chunk)
        (logp.sum() + 0.1 * entropy.sum()).backward()

    action()
    seconds = []
    for _ in range(TIMED):
        start = time.perf_counter()
        action()
        if record.gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    hidden.grad = weight.grad = None
    name = f"chunks of {megabytes} MB"
    record.value(f"{name}: milliseconds", round(1e3 * min(seconds), 3))
    with record.phase(name) as measured:
        action()
    if record.gpu:
        full = 4 * len(hidden) * len(weight) / 1e9
        of_head = weight.numel() * (4 + weight.element_size()) / 1e9
        share = (measured["gb_peak"] - measured["gb_before"] - of_head) / full
        record.value(f"{name}: peak besides the head's gradient, of full logits", share)
        if megabytes == 256:
            record.check("peak of the default chunk, of full logits", share, at_most=SHARE_LIMIT)
