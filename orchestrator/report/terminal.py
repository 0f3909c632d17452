"""Format an evaluation for the terminal: one row per policy and temperature, reward against KL, and the two answers in
words."""

import math

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.report.divergence import NOTE, Rows, reward_kl_rows
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.verdicts import beyond_sharpening, survival
from orchestrator.watch.bootstrap import UNDEFINED, Interval
from orchestrator.watch.frontier import Placement

WORD_STYLES = {"beyond": "green", "on": "", "below": "red", "not measured": "dim"}


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the table, and what it says if there are policies to compare with the base."""
    console.print(results_table(evaluation))
    of_kl = reward_kl_rows(evaluation)
    if of_kl is not None:
        console.print(_table(of_kl))
    if len(evaluation.names) > 1:
        console.print(f"[bold]Did Pass@k survive?[/bold] {escape(survival(evaluation))}", soft_wrap=True)
        console.print(f"[bold]Beyond sharpening?[/bold] {escape(beyond_sharpening(evaluation))}", soft_wrap=True)


def results_table(evaluation: Evaluation) -> Table:
    """Return the table of Pass@k, its change since the base, and its place against the base sampled colder."""
    base = evaluation.base
    title = (
        f"{len(evaluation.at_base.prompts)} held-out prompts, {evaluation.at_base.answers} answers each, "
        f"{evaluation.conditions}"
    )
    caption = (
        f"Below a value: its change since {base} at temperature {evaluation.temperatures[0]:g}, with its paired 95 % "
        f"bootstrap interval over prompts (of {base}: the interval of the value), and its place against {base} at all "
        "its temperatures."
    )
    voted = [k for k in evaluation.ks if f"maj@{k}" in evaluation.summaries[base][evaluation.temperatures[0]]][-1:]
    columns = ["policy", "T", *(f"Pass@{k}" for k in evaluation.ks), *(f"maj@{k}" for k in voted), "distinct\ncorrect"]
    table = Table(*columns, title=title, caption=escape(caption))
    for name, by_temperature in evaluation.summaries.items():
        for temperature, values in by_temperature.items():
            places = evaluation.placements.get(name, {}).get(temperature, {})
            cells = [_pass_cell(values, k, name == base, places.get(k)) for k in evaluation.ks]
            cells += [Text(_number(values.get(f"maj@{k}", UNDEFINED))) for k in voted]
            table.add_row(escape(name), f"{temperature:g}", *cells, _number(values["distinct_correct"]))
        table.add_section()
    return table


def _table(of_kl: Rows) -> Table:
    table = Table(*of_kl.header, title="Reward against KL", caption=NOTE)
    for row in of_kl.rows:
        table.add_row(*map(escape, row))
    return table


def _pass_cell(values: dict[str, Interval], k: int, is_base: bool, placement: Placement | None) -> Text:
    value, change = values[f"pass@{k}"], values[f"change/pass@{k}"]
    text = Text(_number(value), style="bold")
    if math.isfinite(value.value):
        if is_base or not change.prompts:
            text.append(f"\n{value.low:.2f} to {value.high:.2f}", style="dim")
        else:
            text.append(f"\n{change.value:+.3f}\n{change.low:+.2f} to {change.high:+.2f}", style="dim")
    if placement is not None:
        text.append(f"\n{placement.word}", style=WORD_STYLES[placement.word])
    return text


def _number(interval: Interval) -> str:
    return f"{interval.value:.3f}" if math.isfinite(interval.value) else "-"
