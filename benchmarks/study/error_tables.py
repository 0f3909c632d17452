"""The tables of docs/study/gradient_error.md, made of what `exact_gradients` measures."""

import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from exact_gradients import (
    ALPHA,
    DISTANCES,
    NAMES,
    Measured,
    World,
    accepted,
    batch_of,
    differentiated_k1,
    exact_gradient,
    label,
    loss_of,
    measure,
    mixed_kl,
    term_of,
    world,
)
from torch import Tensor
from torch.autograd import grad

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.divergences import DIVERGENCES
from configs.terms import TermConfig
from objectives.wording import describe

ROUNDING = 1e-9
"""Below it a relative error is the rounding of float64."""
BATCHES = (2, 4, 8)
"""Answers of a batch, for terms that are no mean over them."""
PAIRS = {pair: world(nats) for pair, nats in DISTANCES.items()}


@dataclass(frozen=True, kw_only=True)
class Row:
    pair: str
    term: TermConfig
    stale: bool
    measured: Measured

    @property
    def label(self) -> str:
        return label(self.term)

    @property
    def exact(self) -> bool:
        """Whether `breadth show-config` calls the gradient of these answers that of the divergence."""
        return called_exact(self.term, self.stale)


def called_exact(term: TermConfig, stale: bool) -> bool:
    words = describe(term)
    if refused(term) or "exact" not in words:
        return False
    return "also for stale answers" in words if stale else True


def refused(term: TermConfig) -> bool:
    return term.estimator == "naive" and term.normalised


def rows() -> list[Row]:
    """Every accepted setting, and the differentiated k1, of every divergence, at every distance."""
    found = []
    for pair, where in PAIRS.items():
        for name in NAMES:
            telling = [] if not DIVERGENCES[name].is_f_divergence else [differentiated_k1(name)]
            for term in [*accepted(name), *telling]:
                for stale in (False,) if term.rehearses or term.exact else (False, True):
                    found.append(Row(pair=pair, term=term, stale=stale, measured=measure(term, where, stale=stale)))
    return found


def number(value: float) -> str:
    """Two figures; 0 for what is only rounding."""
    if math.isnan(value):
        return "-"
    if abs(value) < ROUNDING:
        return "0"
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def titled(name: str) -> str:
    return (
        f"`{name}` ({ALPHA.get(name, 0.2):g})"
        if DIVERGENCES[name].alpha and DIVERGENCES[name].is_f_divergence
        else f"`{name}`"
    )


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


class Results:
    """The rows, to be asked for."""

    def __init__(self, found: Sequence[Row]) -> None:
        self.rows = found

    def of(self, pair: str, name: str, stale: bool = False) -> list[Row]:
        return [r for r in self.rows if r.pair == pair and r.term.name == name and r.stale == stale]

    def one(self, pair: str, name: str, wanted: str, stale: bool = False) -> Measured | None:
        return next((r.measured for r in self.of(pair, name, stale) if r.label == wanted), None)

    def cell(self, pair: str, name: str, wanted: str, field: str, stale: bool = False) -> str:
        measured = self.one(pair, name, wanted, stale)
        return "-" if measured is None else number(getattr(measured, field))

    def skewed(self, pair: str, name: str, wanted: str, stale: bool = False) -> str:
        """Bias, and the cosine in brackets."""
        measured = self.one(pair, name, wanted, stale)
        if measured is None:
            return "-"
        return f"{number(measured.bias)} ({'-' if math.isnan(measured.cosine) else f'{measured.cosine:.2f}'})"

    def worst(self, pair: str, name: str, keep: Callable[[Row], bool], stale: bool = False) -> str:
        """The largest bias among what `breadth show-config` calls exact, and how many those are."""
        biases = [r.measured.bias for r in self.of(pair, name, stale) if r.exact and keep(r)]
        return f"{number(max(biases))} ({len(biases)})" if biases else "-"


def own(row: Row) -> bool:
    return not row.term.rehearses and not row.term.exact


def bias_table(results: Results, pair: str) -> str:
    head = [
        "divergence", "called exact, fresh", "called exact, stale", "stored, vocabulary",
        "`naive`, fresh", "`k1` differentiated, fresh", "`straight_through`, stale", "reward `k1`, stale",
    ]  # fmt: skip
    body = [
        [
            titled(name),
            results.worst(pair, name, own),
            results.worst(pair, name, own, stale=True),
            results.worst(pair, name, lambda r: not own(r)),
            results.skewed(pair, name, "own, loss naive"),
            results.skewed(pair, name, "own, loss k1 (refused)"),
            results.skewed(pair, name, "own, loss straight_through", stale=True),
            results.skewed(pair, name, "own, reward k1", stale=True),
        ]
        for name in NAMES
    ]
    return table(head, body)


def noise_table(results: Results, pair: str) -> str:
    head = [
        "divergence", "fresh, less the tangent", "fresh, `normalised`", "stale, joint", "stale, joint, `normalised`",
        "`naive`, fresh", "stored `k1`", "stored `k3`", "stored `supervised`",
    ]  # fmt: skip
    columns = (
        ("own, joint k1", False),
        ("own, joint k1, normalised", False),
        ("own, joint k1", True),
        ("own, joint k1, normalised", True),
        ("own, loss naive", False),
        ("stored, loss k1", False),
        ("stored, loss k3", False),
        ("stored, loss supervised", False),
    )
    names = [name for name in NAMES if DIVERGENCES[name].is_f_divergence]
    return table(head, [[titled(n), *(results.cell(pair, n, c, "noise", s) for c, s in columns)] for n in names])


def value_table(results: Results, pair: str) -> str:
    head = [
        "divergence", "D", "`ft(u)/u` fresh: spread", "`f(u)/u` fresh: spread", "`ft(u)/u` stale: bias",
        "`(pi/pi_old) ft(u)/u` stale: bias", "its spread", "`f(u)` stored: spread", "`ft(u)` stored: spread",
    ]  # fmt: skip
    columns = (
        ("own, loss straight_through", "value_spread", False),
        ("own, loss ratio_weighted, normalised", "value_spread", False),
        ("own, loss straight_through", "value_bias", True),
        ("own, loss ratio_weighted", "value_bias", True),
        ("own, loss ratio_weighted", "value_spread", True),
        ("stored, loss k1", "value_spread", False),
        ("stored, loss k3", "value_spread", False),
    )
    body = []
    for name in (name for name in NAMES if DIVERGENCES[name].is_f_divergence):
        exact = number(exact_gradient(PAIRS[pair], name)[0])
        body.append([titled(name), exact, *(results.cell(pair, name, c, field, s) for c, field, s in columns)])
    return table(head, body)


def reverse_kl_table(results: Results) -> str:
    head = ["setting", "against the forward KL"]
    head += [f"{pair}: {what}" for pair in PAIRS for what in ("fresh", "stale", "noise")]
    body = []
    for row in results.of("middle", "reverse_kl"):
        forward = measure(row.term, PAIRS["middle"], target="forward_kl").bias
        cells = [row.label.replace("own, ", ""), number(forward)]
        for pair in PAIRS:
            cells += [
                results.cell(pair, "reverse_kl", row.label, "bias"),
                results.cell(pair, "reverse_kl", row.label, "bias", stale=True),
                results.cell(pair, "reverse_kl", row.label, "noise"),
            ]
        body.append(cells)
    return table(head, body)


def two_token_table() -> str:
    where = world(DISTANCES["middle"], two_tokens=True)
    head = [
        "divergence", "`token`: held", "`token`: through", "`to_go`: through", "`to_go`: whole answers",
        "`sequence`: whole answers", "`to_go`, stale", "`sequence`, stale",
        "noise: `token`", "`to_go`", "`sequence`",
    ]  # fmt: skip
    body = []
    for name in (name for name in NAMES if DIVERGENCES[name].is_f_divergence):
        now, later, whole = (
            term_of(name, wiring="reward", estimator="k1", **choices)
            for choices in ({}, {"horizon": "to_go"}, {"level": "sequence"})
        )
        held, through = measure(now, where), measure(later, where, kind="through")
        answers = measure(whole, where, kind="whole")
        cells = [
            held.bias,
            measure(now, where, kind="through").bias,
            through.bias,
            measure(later, where, kind="whole").bias,
            answers.bias,
            measure(later, where, stale=True, kind="through").bias,
            measure(whole, where, stale=True, kind="whole").bias,
            held.noise,
            through.noise,
            answers.noise,
        ]
        body.append([titled(name), *(number(cell) for cell in cells)])
    return table(head, body)


def rooted(term: TermConfig, where: World, answers: int) -> Tensor:
    """[R * V]: expected gradient of a batch of so many answers of the policy, over all batches there are.

    The slope of a root is taken at the batch's own mean, so what a batch says is not the mean of its answers.
    """
    chance = where.chances(where.policy)
    total = torch.zeros(where.policy.numel(), dtype=torch.float64)
    for chosen in itertools.combinations_with_replacement(range(len(chance)), answers):
        positions = torch.tensor(chosen)
        counts = torch.bincount(positions, minlength=len(chance)).double()
        orders = math.lgamma(answers + 1) - float((counts + 1).lgamma().sum())
        tables = where.policy.expand(answers, -1, -1).clone().requires_grad_()
        logp = tables.log_softmax(-1)[torch.arange(answers), 0, where.answers[positions, 0]][:, None]
        value = loss_of(term, where, logp, tables, batch_of(term.rehearses, where, chosen, where.policy))
        gradient = torch.autograd.grad(value, tables)[0].sum(0).flatten()
        total += math.exp(orders + float(counts @ chance.log())) * gradient
    return total


@cache
def root_errors() -> dict[str, list[float]]:
    """By setting with `root`: error of the expected gradient of batches of BATCHES answers, against the gradient of the
    root, for k3 against what show-config says of it. Over three tokens, whose batches are few enough to be counted."""
    tables = (PAIRS["middle"].policy, PAIRS["middle"].reference, PAIRS["middle"].older)
    where = World(*(logits[:, :3] for logits in tables))
    forward = exact_gradient(where, "forward_kl", "whole")[1]
    found = {}
    for name in ("reverse_kl", "chi_squared"):
        value, gradient = exact_gradient(where, name, "whole")
        differentiated = forward if name == "reverse_kl" else gradient / 2 + forward
        for wiring, estimator, target in (("reward", "k1", gradient), ("loss", "k3", differentiated)):
            term = term_of(name, level="sequence", root=True, wiring=wiring, estimator=estimator)
            target = target / (2 * math.sqrt(value))
            errors = [float((rooted(term, where, count) - target).norm() / target.norm()) for count in BATCHES]
            found[f"{wiring} `{estimator}`, `{name}`"] = errors
    return found


def root_table() -> str:
    body = [[title, *map(number, errors)] for title, errors in root_errors().items()]
    return table(["with `root`", *(f"{count} answers" for count in BATCHES)], body)


def moving_weight_error(where: World) -> float:
    """What mixed_kl leaves out, relative to the gradient of its value: that of its weight."""
    logits = where.policy[0].clone().requires_grad_()
    whole, held = (
        grad(mixed_kl(logits, where.reference[0], ALPHA.get("mixed_kl", 0.2), held=held), logits)[0]
        for held in (False, True)
    )
    return float((whole - held).norm() / whole.norm())
