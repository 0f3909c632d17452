"""Build the tables of docs/study/gradient_error.md from the measurements of `exact_gradients`."""

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from exact_gradients import (
    ALPHA,
    NAMES,
    Measured,
    accepted,
    differentiated_k1,
    exact_gradient,
    gradients,
    label,
    measure,
    mixed_kl,
    term_of,
)
from torch import Tensor
from torch.autograd import grad
from world import DISTANCES, World, world

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.divergences import DIVERGENCES
from configs.terms import TermConfig
from objectives.wording import describe

ROUNDING = 1e-9
"""Relative errors below this are float64 rounding."""
PAIRS = {pair: world(nats) for pair, nats in DISTANCES.items()}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Measurement of one term at one distance, on on-policy or stale answers."""

    pair: str
    term: TermConfig
    stale: bool
    measured: Measured

    @property
    def label(self) -> str:
        """Route, wiring, estimator and options."""
        return label(self.term)

    @property
    def exact(self) -> bool:
        """Whether `breadth show-config` calls the gradient on these answers exact."""
        return called_exact(self.term, self.stale)


def called_exact(term: TermConfig, stale: bool) -> bool:
    """Return whether `breadth show-config` calls the term's gradient exact, for stale answers if `stale`."""
    words = describe(term)
    if refused(term) or "exact" not in words:
        return False
    return "also for stale answers" in words if stale else True


def refused(term: TermConfig) -> bool:
    """Return whether the term is the differentiated k1, which the settings refuse."""
    return term.estimator == "naive" and term.normalised


def rows() -> list[Row]:
    """Measure every accepted term, and the differentiated k1, of every divergence at every distance."""
    found = []
    for pair, where in PAIRS.items():
        for name in NAMES:
            k1 = [differentiated_k1(name)] if DIVERGENCES[name].is_f_divergence else []
            for term in [*accepted(name), *k1]:
                for stale in (False,) if term.rehearses or term.exact else (False, True):
                    found.append(Row(pair=pair, term=term, stale=stale, measured=measure(term, where, stale=stale)))
    return found


def number(value: float) -> str:
    """Format with two significant digits; 0 for a rounding error, "-" for NaN."""
    if math.isnan(value):
        return "-"
    if abs(value) < ROUNDING:
        return "0"
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def titled(name: str) -> str:
    """Return the divergence's name, with its `alpha` in parentheses if it has one."""
    has_alpha = DIVERGENCES[name].alpha and DIVERGENCES[name].is_f_divergence
    return f"`{name}` ({ALPHA.get(name, 0.2):g})" if has_alpha else f"`{name}`"


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


class Results:
    """All measurements, with look-ups by distance, divergence and label."""

    def __init__(self, found: Sequence[Row]) -> None:
        self.rows = found

    def of(self, pair: str, name: str, stale: bool = False) -> list[Row]:
        """Return all rows of a divergence at one distance."""
        return [r for r in self.rows if r.pair == pair and r.term.name == name and r.stale == stale]

    def one(self, pair: str, name: str, wanted: str, stale: bool = False) -> Measured | None:
        """Return the measurement of one label; None if the settings refuse it for this divergence."""
        return next((r.measured for r in self.of(pair, name, stale) if r.label == wanted), None)

    def cell(self, pair: str, name: str, wanted: str, field: str, stale: bool = False) -> str:
        """Return one field of a measurement, formatted; "-" if there is none."""
        measured = self.one(pair, name, wanted, stale)
        return "-" if measured is None else number(getattr(measured, field))

    def bias_and_cosine(self, pair: str, name: str, wanted: str, stale: bool = False) -> str:
        """Return the bias, with the cosine in parentheses."""
        measured = self.one(pair, name, wanted, stale)
        if measured is None:
            return "-"
        return f"{number(measured.bias)} ({'-' if math.isnan(measured.cosine) else f'{measured.cosine:.2f}'})"

    def worst(self, pair: str, name: str, keep: Callable[[Row], bool], stale: bool = False) -> str:
        """Return the largest bias among the rows that `breadth show-config` calls exact, with their number."""
        biases = [r.measured.bias for r in self.of(pair, name, stale) if r.exact and keep(r)]
        return f"{number(max(biases))} ({len(biases)})" if biases else "-"


def sampled(row: Row) -> bool:
    """Return whether the term is estimated from sampled tokens of explored answers."""
    return not row.term.rehearses and not row.term.exact


def bias_table(results: Results, pair: str) -> str:
    """Return the table of gradient errors at one distance."""
    head = [
        "divergence", "called exact, on-policy", "called exact, stale", "rehearse or vocabulary",
        "`naive`, on-policy", "`k1` differentiated, on-policy", "`straight_through`, stale", "reward `k1`, stale",
    ]  # fmt: skip
    body = [
        [
            titled(name),
            results.worst(pair, name, sampled),
            results.worst(pair, name, sampled, stale=True),
            results.worst(pair, name, lambda r: not sampled(r)),
            results.bias_and_cosine(pair, name, "explore, loss naive"),
            results.bias_and_cosine(pair, name, "explore, loss k1 (refused)"),
            results.bias_and_cosine(pair, name, "explore, loss straight_through", stale=True),
            results.bias_and_cosine(pair, name, "explore, reward k1", stale=True),
        ]
        for name in NAMES
    ]
    return table(head, body)


def noise_table(results: Results, pair: str) -> str:
    """Return the table of gradient noise at one distance."""
    head = [
        "divergence", "joint, on-policy", "joint `normalised`, on-policy", "joint, stale", "joint `normalised`, stale",
        "`naive`, on-policy", "rehearse `k1`", "rehearse `k3`", "rehearse `supervised`",
    ]  # fmt: skip
    columns = (
        ("explore, joint k1", False),
        ("explore, joint k1, normalised", False),
        ("explore, joint k1", True),
        ("explore, joint k1, normalised", True),
        ("explore, loss naive", False),
        ("rehearse, loss k1", False),
        ("rehearse, loss k3", False),
        ("rehearse, loss supervised", False),
    )
    names = [name for name in NAMES if DIVERGENCES[name].is_f_divergence]
    return table(head, [[titled(n), *(results.cell(pair, n, c, "noise", s) for c, s in columns)] for n in names])


def value_table(results: Results, pair: str) -> str:
    """Return the table of value estimates at one distance."""
    head = [
        "divergence", "D", "`ft(u)/u` on-policy: spread", "`f(u)/u` on-policy: spread", "`ft(u)/u` stale: bias",
        "`(pi/pi_old) ft(u)/u` stale: bias", "its spread", "`f(u)` rehearsed: spread", "`ft(u)` rehearsed: spread",
    ]  # fmt: skip
    columns = (
        ("explore, loss straight_through", "value_spread", False),
        ("explore, loss ratio_weighted, normalised", "value_spread", False),
        ("explore, loss straight_through", "value_bias", True),
        ("explore, loss ratio_weighted", "value_bias", True),
        ("explore, loss ratio_weighted", "value_spread", True),
        ("rehearse, loss k1", "value_spread", False),
        ("rehearse, loss k3", "value_spread", False),
    )
    body = []
    for name in (name for name in NAMES if DIVERGENCES[name].is_f_divergence):
        exact = number(exact_gradient(PAIRS[pair], name)[0])
        body.append([titled(name), exact, *(results.cell(pair, name, c, field, s) for c, field, s in columns)])
    return table(head, body)


def reverse_kl_table(results: Results) -> str:
    """Return the table of every setting of the reverse KL."""
    head = ["setting", "against the forward KL"]
    head += [f"{pair}: {what}" for pair in PAIRS for what in ("on-policy", "stale", "noise")]
    body = []
    for row in results.of("middle", "reverse_kl"):
        forward = measure(row.term, PAIRS["middle"], target="forward_kl").bias
        cells = [row.label.replace("explore, ", ""), number(forward)]
        for pair in PAIRS:
            cells += [
                results.cell(pair, "reverse_kl", row.label, "bias"),
                results.cell(pair, "reverse_kl", row.label, "bias", stale=True),
                results.cell(pair, "reverse_kl", row.label, "noise"),
            ]
        body.append(cells)
    return table(head, body)


def two_token_table() -> str:
    """Return the table of reward terms on answers of two tokens, by level and horizon."""
    where = world(DISTANCES["middle"], two_tokens=True)
    head = [
        "divergence", "`token`: fixed prefixes", "`token`: all prefixes", "`to_go`: all prefixes",
        "`to_go`: whole answers",
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


def moving_weight_error(where: World) -> float:
    """Return the norm of the gradient through mixed_kl's weight, which the term omits, over the full gradient's."""
    logits = where.policy[0].clone().requires_grad_()
    whole, held = (
        grad(mixed_kl(logits, where.reference[0], ALPHA.get("mixed_kl", 0.2), held=held), logits)[0]
        for held in (False, True)
    )
    return float((whole - held).norm() / whole.norm())


RIGHT = (0,)
"""The right answers of `right_answers`."""


def right_answers() -> tuple[World, dict[str, tuple[Tensor, Tensor]], Tensor]:
    """Return a policy, its forward KL terms on stored answers, and the exact gradient of the forward KL [V].

    The policy has probabilities .7, .2 and .1, the reference .5, .3 and .2, and the first of three answers is right. Of
    each term: its expected gradient [V] on all answers of the reference, and on right answers alone.
    """
    policy, reference = (torch.tensor([row], dtype=torch.float64).log() for row in ((0.7, 0.2, 0.1), (0.5, 0.3, 0.2)))
    where = World(policy, reference, reference)
    everything = where.probabilities(reference)
    right = torch.zeros_like(everything)
    right[list(RIGHT)] = everything[list(RIGHT)]
    found = {}
    for estimator in ("k1", "supervised", "k3"):
        term = term_of("forward_kl", route="rehearse", estimator=estimator)
        each = gradients(term, where, reference)
        found[label(term)] = everything @ each, right @ each / right.sum()
    return where, found, exact_gradient(where, "forward_kl")[1]


def right_answers_table() -> str:
    """Return the table of gradients on all answers of the reference, and on right answers alone."""
    _, found, exact = right_answers()

    def vector(gradient: Tensor) -> str:
        return ", ".join(number(float(x)) for x in gradient)

    body = [[name, vector(all_answers), vector(right)] for name, (all_answers, right) in found.items()]
    return table(["", "all answers", "right answers alone"], [*body, ["exact", vector(exact), ""]])
