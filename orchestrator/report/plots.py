"""Draw the figures of a report: line panels side by side under one legend. Curves differ in colour, dash and marker."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

BASE_COLOUR = "#4d4d4d"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette without black and yellow: distinct under every common form of colour blindness."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
BASE_DASH = (0, (4, 3))
MARKERS = "osD^vP"
SMOOTH_FROM = 40
"""Number of points from which a noisy curve is drawn as a thin line with its running mean on top."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve of a panel. `low` and `high` are the ends of its intervals, empty if it has none."""

    name: str
    style: int
    """0 is the base. Every other number is one run and is the same in all figures."""
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    x_low: Sequence[float] = ()
    x_high: Sequence[float] = ()
    """Ends of the intervals of `x`, of a curve that is not joined; empty if it has none."""
    marked: bool = False
    """Draw a marker on every point; for curves of few points, each a separate measurement."""
    noisy: bool = False
    """Draw the running mean, too, of a curve with many points."""
    joined: bool = True
    """Draw the line through the points."""
    labels: Sequence[str] = ()
    """Text beside each point; empty: none."""
    labels_left: bool = False
    """Write them on the left, for points of a rising line."""
    dashed: bool = False
    """Draw fine dashes, for a second curve of the same policy."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes and its curves."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    base_value: float | None = None
    """Value of the base, drawn as a horizontal line that the legend calls `base_label`."""
    base_label: str = ""
    log2_x: bool = False
    """Use a logarithmic x axis to base 2, with a tick at every x of a curve."""
    sqrt_x: bool = False
    """Draw x at its square root: near 0 a reward grows with the square root of the KL."""
    equal: bool = False
    """Use the same scale for both axes."""
    whole_x: bool = True
    """Tick whole numbers only, as for steps."""


def draw(panels: Sequence[Panel], path: Path) -> Path:
    """Write the panels side by side to a PNG file, with the legend above them, and return its path."""
    width = 7.2 if len(panels) == 1 else min(4.6 * len(panels), 11.5)
    with matplotlib.rc_context({"font.size": 10, "font.family": "DejaVu Sans", "axes.titlesize": 11}):
        figure = Figure(figsize=(width, 4.3), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.07))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        handles: dict[str, Artist] = {}
        for ax, panel in zip(axes, panels, strict=True):
            _frame(ax, panel)
            if panel.base_value is not None:
                handles[panel.base_label] = ax.axhline(
                    panel.base_value, color=BASE_COLOUR, linestyle=BASE_DASH, zorder=1
                )
            for index, curve in enumerate(panel.curves):
                offset = index - (len(panel.curves) - 1) / 2 if panel.log2_x else None
                handles[curve.name] = _line(ax, curve, offset)
            _ticks(ax, panel)
        columns = min(len(handles), 2 + 2 * len(panels))
        # A dollar sign in a name would begin a formula.
        names = [name.replace("$", r"\$") for name in handles]
        figure.legend(list(handles.values()), names, loc="outside upper center", ncols=columns, frameon=False)
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
    if panel.equal:
        ax.set_aspect("equal", adjustable="datalim")
        ax.margins(0.15)


def _line(ax: Axes, curve: Curve, offset: float | None) -> Artist:
    """Draw one curve and its intervals: as a band, or, given an `offset`, as bars that are shifted sideways by it.

    Bars of several curves at the same x would hide each other without the shift.
    """
    colour = BASE_COLOUR if curve.style == 0 else COLOURS[(curve.style - 1) % len(COLOURS)]
    dashes = "" if not curve.joined else (0, (1, 1.5)) if curve.dashed else DASHES[curve.style % len(DASHES)]
    # Another marker at each turn of the colours: 36 styles differ.
    turned = curve.style + (curve.style - 1) // len(COLOURS)
    marker = MARKERS[turned % len(MARKERS)] if curve.marked else ""
    x, y = curve.x, curve.y
    if offset is not None:
        x = [value * 2 ** (0.06 * offset) for value in x]
    if len(curve.x_low):
        ax.hlines(y, curve.x_low, curve.x_high, color=colour, alpha=0.55, linewidth=1.4)
    if len(curve.low) and (offset is not None or not curve.joined):
        ax.vlines(x, curve.low, curve.high, color=colour, alpha=0.55, linewidth=1.4)
    elif len(curve.low):
        ax.fill_between(x, curve.low, curve.high, color=colour, alpha=0.1, linewidth=0)
        ax.plot(x, curve.low, x, curve.high, color=colour, alpha=0.35, linewidth=0.7)
    if curve.noisy and len(y) >= SMOOTH_FROM:
        ax.plot(x, y, color=colour, alpha=0.25, linewidth=0.8)
        y = running_mean(y, max(len(y) // 20, 3))
    width = 1.2 if curve.dashed else 1.9
    (line,) = ax.plot(x, y, color=colour, linestyle=dashes, marker=marker, markersize=4.5, linewidth=width)
    shift, side = (-4, "right") if curve.labels_left else (4, "left")
    for label, place in zip(curve.labels, zip(x, y, strict=True), strict=False):
        ax.annotate(label, place, (shift, 4), textcoords="offset points", ha=side, fontsize=7.5, color=colour)
    return line


def running_mean(values: Sequence[float], width: int) -> list[float]:
    """Return the mean over a centred window of about `width` points; the window is narrower at both ends."""
    half = width // 2
    windows = (values[max(i - half, 0) : i + half + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0))


def _ticks(ax: Axes, panel: Panel) -> None:
    if panel.log2_x:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(sorted({x for curve in panel.curves for x in curve.x})))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    elif panel.sqrt_x:
        ax.set_xscale("function", functions=(_root, np.square))
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(9))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=panel.whole_x))
