"""The pictures of a report: rows of line panels under one legend, told apart by colour, dash and marker alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

BASE_COLOUR = "#4d4d4d"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette without black and yellow: told apart under every common colour blindness."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
LEVEL_DASH = (0, (4, 3))
MARKERS = "osD^vP"
SMOOTH_FROM = 40
"""Points from which a noisy curve is drawn thin, under its running mean."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a panel. `low` and `high` are the ends of its intervals, empty when it has none."""

    name: str
    style: int
    """0 is the base; every other number is one run, the same in all pictures."""
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    marked: bool = False
    """Draw a marker on every point: few points, each a measurement of its own."""
    noisy: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    level: float | None = None
    """Where the base stands: a horizontal line under the name `level_name`."""
    level_name: str = ""
    doubling: bool = False
    """The x axis is logarithmic to base 2, with a tick on every x that occurs."""


def draw(panels: Sequence[Panel], path: Path) -> Path:
    """Write the panels side by side as a PNG; the legend stands above them, where no data can be."""
    width = 7.2 if len(panels) == 1 else min(4.6 * len(panels), 11.5)
    with matplotlib.rc_context({"font.size": 10, "font.family": "DejaVu Sans", "axes.titlesize": 11}):
        figure = Figure(figsize=(width, 4.3), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.07))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        handles: dict[str, Artist] = {}
        for ax, panel in zip(axes, panels, strict=True):
            _frame(ax, panel)
            if panel.level is not None:
                handles[panel.level_name] = ax.axhline(panel.level, color=BASE_COLOUR, linestyle=LEVEL_DASH, zorder=1)
            for place, curve in enumerate(panel.curves):
                aside = place - (len(panel.curves) - 1) / 2 if panel.doubling else None
                handles[curve.name] = _line(ax, curve, aside)
            _ticks(ax, panel)
        columns = min(len(handles), 2 + 2 * len(panels))
        figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=columns, frameon=False)
        figure.savefig(path, dpi=144)
    return path


def _frame(ax: Axes, panel: Panel) -> None:
    ax.set_title(panel.title, loc="left", fontweight="bold")
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    ax.grid(color="#e3e3e3", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.03, y=0.08)


def _line(ax: Axes, curve: Curve, aside: float | None) -> Artist:
    """Draw one curve with its intervals: as a band, or as bars moved by `aside` so that curves hide none of another."""
    colour = BASE_COLOUR if curve.style == 0 else COLOURS[(curve.style - 1) % len(COLOURS)]
    dashes = DASHES[curve.style % len(DASHES)]
    marker = MARKERS[curve.style % len(MARKERS)] if curve.marked else ""
    x, y = curve.x, curve.y
    if aside is not None:
        x = [value * 2 ** (0.06 * aside) for value in x]
    if len(curve.low) and aside is not None:
        ax.vlines(x, curve.low, curve.high, color=colour, alpha=0.55, linewidth=1.4)
    elif len(curve.low):
        ax.fill_between(x, curve.low, curve.high, color=colour, alpha=0.1, linewidth=0)
        ax.plot(x, curve.low, x, curve.high, color=colour, alpha=0.35, linewidth=0.7)
    if curve.noisy and len(y) >= SMOOTH_FROM:
        ax.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
        y = running_mean(y, max(len(y) // 20, 3))
    (line,) = ax.plot(x, y, color=colour, linestyle=dashes, marker=marker, markersize=4.5, linewidth=1.9)
    return line


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean over a centred window of at most `width` points, narrower at both ends."""
    half = width // 2
    windows = (values[max(i - half, 0) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _ticks(ax: Axes, panel: Panel) -> None:
    if panel.doubling:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(sorted({x for curve in panel.curves for x in curve.x})))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
