"""Format an evaluation for the terminal: one row per policy and temperature, reward against KL, and the two answers in
words."""

import math

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from orchestrator.report.divergence import NOTE, Rows, reward_kl_rows
from orchestrator.report.evaluation import Evaluation
from orchestrator.report.verdicts import beyond_sharpening, survival
from orchestrator.watch.bootstrap import UNDEFINED, Interval
from orchestrator.watch.frontier import Placement

NAME_SHOWN = 20
"""Characters of a policy's name in a line; a longer one is broken, not cut."""
K_WIDTH = 10
"""Characters of the column of one k, as `Pass@1024`, with its padding."""
BESIDE = 18
"""Characters of temperature and distinct right answers, and of the padding of the names."""
WORD_STYLES = {"beyond": "green", "on": "", "below": "red", "not measured": "dim"}


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the table, and what it says if there are policies to compare with the base."""
    console.print(results_table(evaluation, console.width))
    of_kl = reward_kl_rows(evaluation)
    if of_kl is not None:
        console.print(_table(of_kl))
    if len(evaluation.names) > 1:
        console.print(f"[bold]Did Pass@k survive?[/bold] {escape(survival(evaluation))}", soft_wrap=True)
        console.print(f"[bold]Beyond sharpening?[/bold] {escape(beyond_sharpening(evaluation))}", soft_wrap=True)


def results_table(evaluation: Evaluation, width: int) -> Table:
    """Return the table of Pass@k, its change since the base, and its place against the base sampled colder.

    Args:
        width: characters of a line. If it has no room for all k, the smallest, the largest and that of the figure come
            first.
    """
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
    named = min(max(map(len, evaluation.names)), NAME_SHOWN)
    ks = _shown(evaluation, (width - named - BESIDE - len(voted) * K_WIDTH) // K_WIDTH)
    caption += "" if len(ks) == len(evaluation.ks) else " The report has every k."
    table = Table(title=title, caption=escape(caption), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    columns = ["policy", "T", *(f"Pass@{k}" for k in ks), *(f"maj@{k}" for k in voted), "distinct\ncorrect"]
    for column in columns:
        table.add_column(column, no_wrap=True)
    for name, by_temperature in evaluation.summaries.items():
        for temperature, values in by_temperature.items():
            places = evaluation.placements.get(name, {}).get(temperature, {})
            cells = [_pass_cell(values, k, name == base, places.get(k)) for k in ks]
            cells += [Text(_number(values.get(f"maj@{k}", UNDEFINED))) for k in voted]
            table.add_row(_broken(name), f"{temperature:g}", *cells, _number(values["distinct_correct"]))
        table.add_section()
    return table


def _broken(name: str) -> str:
    """Return a name in lines of NAME_SHOWN characters."""
    return escape("\n".join(name[i : i + NAME_SHOWN] for i in range(0, len(name), NAME_SHOWN)))


def _shown(evaluation: Evaluation, room: int) -> list[int]:
    """Return the k that are shown, ascending: as many as there is room for, and three at least."""
    first = [evaluation.ks[0], evaluation.ks[-1], evaluation.figure_k]
    return sorted(list(dict.fromkeys([*first, *evaluation.ks]))[: max(room, 3)])


def _table(of_kl: Rows) -> Table:
    table = Table(title="Reward against KL", caption=NOTE, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in of_kl.header:
        table.add_column(column.replace(" ", "\n"), no_wrap=True)
    for name, *cells in of_kl.rows:
        table.add_row(
            _broken(name), *(cell.replace(" to ", " to\n").replace("at most ", "at most\n") for cell in cells)
        )
    return table


def _pass_cell(values: dict[str, Interval], k: int, is_base: bool, placement: Placement | None) -> Text:
    value, change = values[f"pass@{k}"], values[f"change/pass@{k}"]
    text = Text(_number(value), style="bold")
    if math.isfinite(value.value):
        if is_base or not change.prompts:
            text.append(f"\n{value.low:z.2f} to\n{value.high:z.2f}", style="dim")
        else:
            text.append(f"\n{change.value:+z.3f}\n{change.low:+z.2f} to\n{change.high:+z.2f}", style="dim")
    if placement is not None:
        text.append(f"\n{placement.word}", style=WORD_STYLES[placement.word])
    return text


def _number(interval: Interval) -> str:
    return f"{interval.value:z.3f}" if math.isfinite(interval.value) else "-"
