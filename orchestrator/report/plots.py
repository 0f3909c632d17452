"""Draw line panels: as SVG in a page, or side by side in a PNG file. Curves differ in colour, dash and marker."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from orchestrator.report.style import escaped, printable

BASE_COLOUR = "#4d4d4d"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's palette without black and yellow: distinct under every common form of colour blindness."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = "osD^vP"
GRID_COLOUR = "#e3e3e3"
PAGE_COLOURS = {
    "#000000": "currentColor",
    GRID_COLOUR: "var(--line)",
    **{colour.lower(): f"var(--series-{number})" for number, colour in enumerate((BASE_COLOUR, *COLOURS))},
}
"""What stands in a page for the colours of a figure: its CSS variables, which are lighter on a dark page."""
SVG_SIZE = (400, 280)
"""Width and height of a panel in a page, in CSS pixels before scaling: about the width of a phone, so that text stays
as large as it is drawn."""
SVG_FONT = 13
POINTS_OF_MEAN = 300
"""About as many points are drawn of a running mean, whatever its length: a panel has not many more pixels."""
LABEL_SHOWN = 20
"""Limit on the characters of a label of a point, for which the axes make room."""
LABEL_FONT = 0.85
"""Size of the labels of points, as a fraction of that of other text."""
SIDES = tuple((x, y) for y in ("bottom", "top") for x in ("left", "right"))
"""Horizontal and vertical alignment of a label at its point, of which the first with room is taken."""
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
    base_line: Curve | None = None
    """A value of the base, its first y, drawn as a horizontal line."""
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
            ax.set_title(panel.title, loc="left", fontweight="bold")
            handles |= _contents(ax, panel)
        _part_labels(figure)
        columns = min(len(handles), 2 + 2 * len(panels))
        names = [printable(name) for name in handles]
        legend = figure.legend(list(handles.values()), names, loc="outside upper center", ncols=columns, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
        figure.savefig(path, dpi=144)
    return path


def _contents(ax: Axes, panel: Panel) -> dict[str, Artist]:
    """Draw everything but the title, and return the line of each name."""
    handles: dict[str, Artist] = {}
    _frame(ax, panel)
    if panel.base_line:
        handles[panel.base_line.name] = ax.axhline(panel.base_line.y[0], zorder=1, **_look(panel.base_line))
    for index, curve in enumerate(panel.curves):
        offset = index - (len(panel.curves) - 1) / 2 if panel.log2_x else None
        handles[curve.name] = _line(ax, curve, offset)
    _ticks(ax, panel)
    return handles


def panel_svg(panel: Panel) -> str:
    """Return the SVG element of a panel, without its title. Text stays text; colours are the page's CSS variables."""
    width, height = SVG_SIZE
    with matplotlib.rc_context({"font.size": SVG_FONT, "svg.fonttype": "none", "svg.hashsalt": "breadth"}):
        figure = Figure(figsize=(width / 72, height / 72), layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02))
        ax = figure.subplots()
        _contents(ax, panel)
        _part_labels(figure)
        return _element(figure, f"{panel.title}: {panel.y_label} against {panel.x_label}")


def _part_labels(figure: Figure) -> None:
    """Move labels of points that lie over others to another side of their point; one without room is left out."""
    if any(ax.texts for ax in figure.axes):
        figure.draw_without_rendering()  # Only then does each point have its place.
    for ax in figure.axes:
        boxes: list[Bbox] = []
        for label in ax.texts:
            for x, y in [(label.get_horizontalalignment(), "bottom"), *SIDES]:
                label.set(ha=x, va=y)
                cast(Annotation, label).xyann = (4 if x == "left" else -4, 2 if y == "bottom" else -2)
                box = label.get_window_extent()
                if not any(box.overlaps(other) for other in boxes):
                    boxes.append(box)
                    break
            else:
                label.set_visible(False)


def key_svg(curve: Curve) -> str:
    """Return the SVG element of a curve's line and marker, for a legend."""
    figure = Figure(figsize=(30 / 72, 14 / 72))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set(xlim=(0, 2), ylim=(-1, 1))
    ax.plot([0, 1, 2], [0, 0, 0], markevery=[1], **_look(curve))
    with matplotlib.rc_context({"svg.hashsalt": "breadth"}):
        return _element(figure, "")


def _element(figure: Figure, label: str) -> str:
    """Return a figure as an SVG element that takes its size, font and colours from the page.

    Args:
        label: what the figure shows, for a reader who does not see it; empty: it is decoration.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    text = buffer.getvalue()
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None, "matplotlib writes the size of a figure"
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    # Groups are numbered in every figure alike; ids of markers and clips are digests of their content, and are needed.
    body = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", body)
    body = re.sub(r" font-family: [^;\"]*;", "", body)
    # Coloured text is nearer to the page's ink than lines are, so that it can be read in every colour.
    body = re.sub(r"(<text [^>]*fill: )(#[0-9a-f]{6})", r"\1color-mix(in srgb, \2 55%, currentColor)", body)
    for colour, variable in PAGE_COLOURS.items():
        body = body.replace(colour, variable)
    said = f'role="img" aria-label="{escaped(label)}"' if label else 'aria-hidden="true"'
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+| (?=\n)", r"\1", path.group()), body)
    body = re.sub(r">\s+<", "><", body).strip()
    return f"<svg {view.group()} {said}>{body}"


def _frame(ax: Axes, panel: Panel) -> None:
    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    ax.grid(color=GRID_COLOUR, linewidth=0.8)
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
    look, x, y = _look(curve), curve.x, curve.y
    colour = look["color"]
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
        thinned = slice(None, None, 1 + len(y) // POINTS_OF_MEAN)
        x, y = x[thinned], y[thinned]
    (line,) = ax.plot(x, y, **look)
    shift, side = (-4, "right") if curve.labels_left else (4, "left")
    for label, place in zip(curve.labels, zip(x, y, strict=True), strict=False):
        beside = {
            "textcoords": "offset points",
            "ha": side,
            "fontsize": LABEL_FONT * matplotlib.rcParams["font.size"],
            "color": colour,
        }
        # A dollar sign in a name is no formula.
        ax.annotate(_short(label), place, (shift, 4), parse_math=False, **beside)
    return line


def _short(label: str) -> str:
    return printable(label if len(label) <= LABEL_SHOWN else f"{label[: LABEL_SHOWN - 1]}\N{HORIZONTAL ELLIPSIS}")


def _look(curve: Curve) -> dict[str, Any]:
    """Return colour, dash, marker and width of a curve's line."""
    dashes = "" if not curve.joined else (0, (1, 1.5)) if curve.dashed else DASHES[curve.style % len(DASHES)]
    # Another marker at each turn of the colours: 36 styles differ.
    turned = curve.style + (curve.style - 1) // len(COLOURS)
    return {
        "color": BASE_COLOUR if curve.style == 0 else COLOURS[(curve.style - 1) % len(COLOURS)],
        "linestyle": dashes,
        "marker": MARKERS[turned % len(MARKERS)] if curve.marked else "",
        "markersize": 4.5,
        "linewidth": 1.2 if curve.dashed else 1.9,
    }


def figure(panels: Sequence[Panel], caption: str, heading: str = "") -> str:
    """Return a section of a page with the panels that have curves, under one legend; nothing if none has.

    Panels stand side by side as far as the page is wide enough.

    Args:
        heading: of the section; empty: the title of the first panel, which is then the only one.
    """
    drawn = [panel for panel in panels if panel.curves]
    if not drawn:
        return ""
    lines = [panel.base_line for panel in drawn if panel.base_line]
    curves = {curve.name: curve for curve in [*lines, *(curve for panel in drawn for curve in panel.curves)]}
    keys = "".join(f'<li class="key">{key_svg(curve)}{escaped(name)}</li>\n' for name, curve in curves.items())
    plots = "".join(
        f'<div class="plot">{f"<h3>{escaped(panel.title)}</h3>" if heading else ""}{panel_svg(panel)}</div>\n'
        for panel in drawn
    )
    return (
        f'<h2>{escaped(heading or drawn[0].title)}</h2>\n<figure>\n<ul class="keys">\n{keys}</ul>\n'
        f'<div class="plots">\n{plots}</div>\n<figcaption>{escaped(caption)}</figcaption></figure>\n'
    )


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
        ax.xaxis.set_major_locator(MaxNLocator(6))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=panel.whole_x))
