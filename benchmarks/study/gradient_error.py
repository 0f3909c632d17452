"""Measure bias and noise of every divergence estimator, of value and gradient, by enumeration.

    python benchmarks/study/gradient_error.py

Print every number, and write docs/study/gradient_error.md with its figure. Nothing is sampled at random.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

from error_tables import (
    PAIRS,
    Results,
    bias_table,
    moving_weight_error,
    noise_table,
    number,
    reverse_kl_table,
    right_answers_table,
    rows,
    sampled,
    table,
    two_token_table,
    value_table,
)
from exact_gradients import NAMES, Measured, differentiated_k1, measure, term_of
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from root_errors import BATCHES, root_table
from world import DISTANCES, STALENESS, World, world

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from configs.terms import TermConfig
from orchestrator.report.plots import BASE_COLOUR, COLOURS, DASHES, MARKERS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "study" / "gradient_error.md"
FIGURE = DOCS / "figures" / "gradient-error.png"
SWEEP = [10 ** (-2.5 + k / 8) for k in range(22)]
"""Distances of the figure, in nats: 0.003 to 1.3."""

TEMPLATE = Path(__file__).with_name("gradient_error_page.md")
"""Text of the page, with placeholders for its numbers."""


def pairs_table() -> str:
    """Return the table of distances."""
    body = []
    for pair, where in PAIRS.items():
        u = (where.policy.log_softmax(-1) - where.reference.log_softmax(-1)).exp()
        both = (where.kl(where.policy, where.reference), where.kl(where.reference, where.policy))
        body.append([pair, *(number(float(x)) for x in (*both, u.min(), u.max()))])
    return table(["", "KL(policy, reference)", "KL(reference, policy)", "smallest u", "largest u"], body)


def distances(results: Results) -> str:
    """Return one section per distance, with the tables of all divergences."""
    sections = []
    for pair in PAIRS:
        sections.append(
            f"## {pair.capitalize()}: {DISTANCES[pair]:g} nats\n\n"
            "Error of the expected gradient. The first three columns have the largest error of all settings that\n"
            "`breadth show-config` calls exact, and in parentheses their number. The other columns have the error of\n"
            "one setting, and in parentheses the cosine.\n\n"
            f"{bias_table(results, pair)}\n"
            f"Noise of the gradient of one answer.\n\n{noise_table(results, pair)}\n"
            f"Value estimates.\n\n{value_table(results, pair)}\n"
        )
    return "".join(sections)


def called_exact(results: Results, wanted: bool, stale: bool) -> int:
    """Return the number of settings that show-config calls exact; every setting has one row per distance."""
    kept = [r for r in results.rows if r.exact and r.stale == stale and sampled(r) == wanted]
    return len(kept) // len(PAIRS)


def page(results: Results) -> str:
    """Return the whole page."""

    def three(name: str, wanted: str, field: str, stale: bool = False) -> str:
        near, middle, far = (results.cell(pair, name, wanted, field, stale) for pair in PAIRS)
        return f"{near} near, {middle} at the middle distance and {far} far"

    cell = results.cell
    slope, normalised = "explore, joint k1", "explore, joint k1, normalised"
    naive = {
        pair: [
            r.measured.bias for r in results.rows if r.label == "explore, loss naive" and r.pair == pair and not r.stale
        ]
        for pair in PAIRS
    }
    skewed = results.one("middle", "skew_reverse_kl", "explore, loss k1 (refused)")
    assert skewed is not None
    return TEMPLATE.read_text().format(
        names=fill("It covers " + ", ".join(f"`{name}`" for name in NAMES) + ".", 120),
        staleness=STALENESS,
        middle=DISTANCES["middle"],
        pairs=pairs_table(),
        exact=called_exact(results, True, stale=False),
        exact_stale=called_exact(results, True, stale=True),
        exact_rehearsed=called_exact(results, False, stale=False),
        k1_noise=cell("middle", "reverse_kl", "explore, loss k1 (refused)", "noise"),
        skew_cosine=f"{skewed.cosine:.2f}",
        k3=three("reverse_kl", "explore, loss k3", "bias"),
        k3_noise=cell("far", "reverse_kl", "explore, loss k3", "noise"),
        k2_noise=cell("far", "reverse_kl", "explore, loss k2", "noise"),
        naive_near=f"{number(min(naive['near']))} to {number(max(naive['near']))}",
        naive_far=number(max(naive["far"])),
        st_stale=three("reverse_kl", "explore, loss straight_through", "bias", stale=True),
        reward_stale=three("reverse_kl", "explore, reward k1", "bias", stale=True),
        reported=three("reverse_kl", "explore, reward k1", "value_bias", stale=True),
        rehearsed_near=cell("near", "forward_kl", "rehearse, loss k3", "noise"),
        rehearsed_nll=cell("near", "forward_kl", "rehearse, loss k1", "noise"),
        rehearsed_far=cell("far", "forward_kl", "rehearse, loss k3", "noise"),
        nll_far=cell("far", "forward_kl", "rehearse, loss k1", "noise"),
        explored_far=cell("far", "forward_kl", slope, "noise"),
        regression=three("reverse_kl", "rehearse, loss k2", "bias"),
        normalised_near=cell("near", "reverse_kl", normalised, "noise"),
        tangent_near=cell("near", "reverse_kl", slope, "noise"),
        k1_spread=cell("far", "reverse_kl", "explore, loss ratio_weighted, normalised", "value_spread"),
        k3_spread=cell("far", "reverse_kl", "explore, loss ratio_weighted", "value_spread"),
        chi_explored=cell("far", "chi_squared", slope, "noise"),
        chi_rehearsed=cell("far", "chi_squared", "rehearse, loss k3", "noise"),
        neyman_explored=cell("far", "neyman", slope, "noise"),
        neyman_rehearsed=cell("far", "neyman", "rehearse, loss k3", "noise"),
        moving=", ".join(f"{moving_weight_error(where):.1%}" for where in PAIRS.values()),
        reverse_kl=reverse_kl_table(results),
        right=right_answers_table(),
        distances=distances(results),
        two_tokens=two_token_table(),
        root=root_table(),
    )


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve of the figure."""

    name: str
    term: TermConfig
    stale: bool = False

    def measured(self, where: World) -> Measured:
        """Return the measurement at one distance."""
        return measure(self.term, where, stale=self.stale)


def lines() -> tuple[list[Line], list[Line]]:
    """Return the curves of the error and of the noise; the first curve of each panel has the colour of a baseline."""
    slope = term_of("reverse_kl", wiring="joint", estimator="k1")
    errors = [
        Line(name="joint, ratio_weighted (also stale)", term=slope, stale=True),
        Line(name="k1 differentiated", term=differentiated_k1("reverse_kl")),
        Line(name="k3", term=term_of("reverse_kl", estimator="k3")),
        Line(name="Jensen-Shannon, naive", term=term_of("jensen_shannon", estimator="naive")),
        Line(name="straight_through, k2 (stale)", term=term_of("reverse_kl", estimator="straight_through"), stale=True),
        Line(name="reward k1 (stale)", term=term_of("reverse_kl", wiring="reward", estimator="k1"), stale=True),
    ]
    normalised = term_of("reverse_kl", wiring="joint", estimator="k1", normalised=True)
    noises = [
        Line(name="reverse KL, explore, exact forms", term=slope),
        Line(name="reverse KL, explore, normalised", term=normalised),
        Line(name="reverse KL, explore, k3", term=term_of("reverse_kl", estimator="k3")),
        Line(name="forward KL, explore, exact forms", term=term_of("forward_kl", wiring="joint", estimator="k1")),
        Line(name="forward KL, rehearse, k1", term=term_of("forward_kl", route="rehearse", estimator="k1")),
        Line(name="forward KL, rehearse, k3", term=term_of("forward_kl", route="rehearse", estimator="k3")),
    ]
    return errors, noises


def draw(path: Path) -> None:
    """Draw the figure into a file."""
    worlds = [world(nats) for nats in SWEEP]
    errors, noises = lines()
    with rc_context({"font.size": 10, "font.family": "DejaVu Sans", "axes.titlesize": 11}):
        figure = Figure(figsize=(11.5, 5.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        panel(left, "Error of the expected gradient", errors, [[x.measured(w).bias for w in worlds] for x in errors])
        panel(
            right,
            "Noise of the gradient of one answer",
            noises,
            [[x.measured(w).noise for w in worlds] for x in noises],
        )
        left.set_ylim(-0.05, 2)
        right.set_yscale("log")
        figure.savefig(path, dpi=110)


def panel(ax: Axes, title: str, curves: Sequence[Line], heights: Sequence[Sequence[float]]) -> None:
    """Draw one panel: one line per curve over the distances of SWEEP."""
    ax.set_title(title, loc="left", fontweight="bold")
    ax.set_xscale("log")
    ax.set_xlabel("KL(policy, reference), nats")
    ax.set_ylabel("relative to the exact gradient")
    ax.grid(color="#e3e3e3", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    for k, (curve, y) in enumerate(zip(curves, heights, strict=True)):
        colour = COLOURS[(k - 1) % len(COLOURS)] if k else BASE_COLOUR
        style = {"linestyle": DASHES[k % len(DASHES)], "marker": MARKERS[k % len(MARKERS)], "markevery": (k % 4, 4)}
        ax.plot(SWEEP, y, color=colour, label=curve.name, markersize=4.5, linewidth=1.8, **style)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)


def show(results: Results) -> None:
    """Print every measurement."""
    shown = Table(title="Every setting, relative to the exact value and gradient")
    for column in ("distance", "divergence", "setting", "answers", "value bias", "spread", "error", "cosine", "noise"):
        shown.add_column(column, justify="left" if column in ("distance", "divergence", "setting") else "right")
    for row in results.rows:
        answers = "rehearsed" if row.term.rehearses else "stale" if row.stale else "on-policy"
        m = row.measured
        numbers = (m.value_bias, m.value_spread, m.bias, m.cosine, m.noise)
        shown.add_row(row.pair, row.term.name, row.label, answers, *(number(x) for x in numbers))
    Console(width=140).print(shown)


def main() -> None:
    """Measure, print, and write the page and its figure."""
    results = Results(rows())
    show(results)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(results))
    draw(FIGURE)
    print(f"{len(results.rows)} rows; batches of {BATCHES}; wrote {PAGE} and {FIGURE}")


if __name__ == "__main__":
    main()
