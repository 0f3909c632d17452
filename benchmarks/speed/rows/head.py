"""The LM head alone: log-probs, entropy and an exact divergence with their backward pass, beside full logits."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from actors.scoring.policy import chunk_sizes
from actors.scoring.token_scores import token_scores
from benchmarks.speed.plan import Plan
from benchmarks.speed.result import Row
from benchmarks.speed.rows.learner import reset_peak, status_bytes

FORMS = {"scores": "log-prob and entropy", "exact": "log-prob, entropy and exact reverse KL"}


class Head:
    """Final hidden states, heads of a policy and a reference, and the two ways to compute a loss of them."""

    def __init__(self, tokens: int, width: int, vocabulary: int, megabytes: float) -> None:
        draw = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(tokens, width, generator=draw).requires_grad_()
        self.weight = (torch.randn(vocabulary, width, generator=draw) / width**0.5).requires_grad_()
        self.reference = torch.randn(vocabulary, width, generator=draw) / width**0.5
        self.targets = torch.randint(vocabulary, (tokens,), generator=draw)
        self.rows = torch.arange(tokens)
        self.sizes = chunk_sizes([tokens], max(1, int(megabytes * 1e6 / 4 / vocabulary)))

    def divergence(self, logits: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        """Return KL(policy || reference) of each token."""
        logp, anchor = logits.log_softmax(-1), linear(self.hidden.detach()[rows], self.reference).log_softmax(-1)
        return (logp.exp() * (logp - anchor)).sum(-1)

    def chunked(self, form: str) -> None:
        """Compute loss and gradients a chunk at a time."""
        functions = [self.divergence] if form == "exact" else []
        columns = token_scores(
            self.hidden,
            self.weight,
            None,
            self.targets,
            temperature=1.0,
            sizes=self.sizes,
            rows=self.rows,
            functions=functions,
        )
        self._backward(columns)

    def full(self, form: str) -> None:
        """Compute the same from full logits, by autograd."""
        logits = linear(self.hidden, self.weight)
        logp = logits.log_softmax(-1)
        columns = [logp.gather(-1, self.targets[:, None]).squeeze(-1), -(logp.exp() * logp).sum(-1)]
        if form == "exact":
            columns.append(self.divergence(logits, self.targets, self.rows))
        self._backward(columns)

    def _backward(self, columns: Sequence[Tensor]) -> None:
        self.hidden.grad = self.weight.grad = None
        sum((n + 1) * column.mean() for n, column in enumerate(columns)).backward()  # type: ignore[union-attr]


def measure(plan: Plan) -> list[Row]:
    """Measure seconds at a vocabulary of 152k, and the growth of the process at one of 33k."""
    torch.set_num_threads(1)
    sizes = (64, 16, 512) if plan.quick else (512, 896, 151_936)
    head = Head(*sizes, megabytes=0.02 if plan.quick else 64)
    shape = "N = {}, D = {}, V = {:,}".format(*sizes)
    rows = [
        _row(f"time/{form}", f"{title}, forward and backward, {shape}", "s", plan, _seconds, form, head, 1.1)
        for form, title in FORMS.items()
    ]
    sizes = (64, 16, 512) if plan.quick else (4096, 64, 32_768)
    head = Head(*sizes, megabytes=0.02 if plan.quick else 12)
    shape = "N = {}, D = {}, V = {:,}".format(*sizes)
    return rows + [
        _row(f"memory/{form}", f"peak memory of {title}, {shape}", "MB", plan, _megabytes, form, head, 0.1)
        for form, title in FORMS.items()
    ]


def _row(
    name: str,
    title: str,
    unit: str,
    plan: Plan,
    measured: Callable[[Callable[[], None]], float],
    form: str,
    head: Head,
    goal: float,
) -> Row:
    """Return a row of values of both ways, measured in turns."""
    ours, other = [], []
    for number in range(plan.rounds + 1):
        values = measured(partial(head.chunked, form)), measured(partial(head.full, form))
        if number:  # the first one fills caches
            ours.append(values[0])
            other.append(values[1])
    return Row(
        name=f"head/{name}",
        title=f"LM head: {title}",
        unit=unit,
        ours=tuple(ours),
        other_name="full logits",
        other=tuple(other),
        higher_is_better=False,
        goal=goal,
        note=f"{len(head.sizes)} chunks, float32, one thread",
    )


def _seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _megabytes(action: Callable[[], None]) -> float:
    before = reset_peak()
    action()
    return max(status_bytes("VmHWM") - before, 1) / 1e6
