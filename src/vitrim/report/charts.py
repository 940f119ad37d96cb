"""Charts as SVG text for a page: points with their ranges, bars, lines. Text and lines take the colours of the page."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..method_looks import COLORS, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, PAPER, SOFT = "#010203", "#010204", "#010205", "#010206"  # placeholders for the colours of the page
FONT = "DejaVu Sans"  # ships with matplotlib; replaced by the font of the page
PAGE = {INK: "currentColor", FAINT: "var(--line)", PAPER: "var(--card)", SOFT: "var(--soft)"}
ALONE = {
    "currentColor": "#16202c",
    "--line": "#e2e6eb",
    "--card": "#ffffff",
    "--soft": "#5b6775",
    "--accent": "#0b57c2",
}
SIZE, FONT_SIZE = (5.0, 3.9), 10.5  # inches, points
OWN_IDS = re.compile(r' id="[A-Za-z0-9.]+_\d+"')  # of matplotlib, the same in every chart

Pair = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """A point with the 95 % interval or range in both directions, which leads to its row."""

    x: float
    y: float
    look: Look
    line: str  # points of one line are joined; empty for a point alone
    row: str  # id of its row in the page
    told: str  # on hover
    hollow: bool = False
    x_range: Pair | None = None
    y_range: Pair | None = None
    strong: bool = False


@dataclass(frozen=True)
class Axis:
    """What an axis shows. limits: beyond which it cannot go, such as 100 %. turned: large values below."""

    label: str
    unit: str = ""  # after each number
    limits: tuple[float | None, float | None] = (None, None)
    turned: bool = False


def scatter(name: str, points: Sequence[Point], x: Axis, y: Axis, front: Sequence[Pair] = (), level: float = 0) -> str:
    """Points, joined by their lines, over a faint front, and a dashed line at a level of y.

    name: unique in the page; the SVG's ids begin with it.
    """
    told = {f"{name}-{i}": (point.told, point.row) for i, point in enumerate(points)}
    with _drawing(name, x, y) as axes:
        axes.margins(0.07, 0.09)
        axes.axhline(level, color=INK, linewidth=0.9, alpha=0.4, linestyle=(0, (4, 4)), zorder=1)
        if front:
            style: Any = {"solid_capstyle": "round", "solid_joinstyle": "round"}
            axes.plot(*zip(*front, strict=True), color=INK, linewidth=8, alpha=0.09, zorder=1, **style)
        for places in _lines(points):
            _draw_line(axes, name, points, places)
        _limit(axes, x, y)
        if y.turned:
            axes.invert_yaxis()
        return _finished(axes, f"{y.label} against {x.label}", told)


def bars(name: str, heights: Sequence[float], color: str, x: Axis, y: Axis, told: Sequence[str]) -> str:
    """Bars with their numbers above. told: on hover."""
    small = FONT_SIZE if len(heights) <= 14 else 14 * FONT_SIZE / len(heights)
    with _drawing(name, x, y) as axes:
        axes.set_xticks(range(len(heights)))
        axes.set_yticks([])
        axes.grid(visible=False)
        for i, height in enumerate(heights):
            (bar,) = axes.bar([i], [height], width=0.78, color=color)
            bar.set_gid(f"{name}-{i}")
            axes.annotate(f"{height:g}", (i, height), (0, 3), textcoords="offset points", ha="center", fontsize=small)
        axes.tick_params(labelsize=small)
        titles = {f"{name}-{i}": (each, "") for i, each in enumerate(told)}
        return _finished(axes, f"{y.label} by {x.label}", titles)


def lines(name: str, values: Mapping[str, Mapping[int, float]], x: Axis, y: Axis) -> str:
    """A line for each name, labelled at its end."""
    with _drawing(name, x, y) as axes:
        for i, (each, line) in enumerate(values.items()):
            xs, ys = zip(*sorted(line.items()), strict=True)
            color = COLORS[i % len(COLORS)]
            axes.plot(xs, ys, color=color, linewidth=1.8)
            axes.annotate(each, (xs[-1], ys[-1]), (5, -3), textcoords="offset points", color=color)
        axes.set_ylim(bottom=0)
        return _finished(axes, f"{y.label} by {x.label}", {})


def standalone(svg: str) -> str:
    """The chart as a file of its own: light colours instead of the page's, on white, without links."""
    values = ALONE | {f"--m{i}": color for i, color in enumerate(COLORS)}
    svg = re.sub(r"var\((--\w+)\)", lambda found: values.get(found[1], "#16202c"), svg)
    svg = svg.replace("currentColor", values["currentColor"]).replace("inherit", f"'{FONT}', sans-serif")
    svg = re.sub(r"</?a\b[^>]*>", "", svg)
    opened = svg.index(">") + 1
    white = '<rect width="100%" height="100%" fill="white"/>'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:opened]}{white}{svg[opened:]}'


def svg_style(salt: str, size: float, ink: str) -> Any:
    """Settings of matplotlib for an SVG picture with text as text, in one colour, and the same ids each time."""
    colors = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink)
    return {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": FONT, "font.size": size, **colors}


def svg_text(figure: Figure, **options: Any) -> str:
    """The text of an SVG picture, without a date."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), **options)
    return out.getvalue()


def plain_frame(axes: Axes, faint: str, pad: int) -> None:
    """A faint grid behind the lines, without a border and ticks."""
    axes.grid(color=faint, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, pad=pad)
    for spine in axes.spines.values():
        spine.set_visible(False)


@contextmanager
def _drawing(name: str, x: Axis, y: Axis) -> Iterator[Axes]:
    """Empty axes with their labels. Draw inside, since the style holds there."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(svg_style(name, FONT_SIZE, INK)):
        axes = Figure(figsize=SIZE, layout="tight").subplots()
        plain_frame(axes, FAINT, pad=6)
        axes.set_xlabel(x.label, labelpad=8)
        axes.set_ylabel(y.label, labelpad=8)
        for at, axis in ((axes.xaxis, x), (axes.yaxis, y)):
            if axis.unit:
                at.set_major_formatter(f"{{x:g}}{axis.unit}")
        yield axes


def _lines(points: Sequence[Point]) -> Iterator[list[int]]:
    """The places of the points of each line; alone for points without one."""
    named = dict.fromkeys((point.line, point.hollow) for point in points if point.line)
    yield from ([i for i, p in enumerate(points) if (p.line, p.hollow) == each] for each in named)
    yield from ([i] for i, point in enumerate(points) if not point.line)


def _draw_line(axes: Axes, name: str, points: Sequence[Point], places: Sequence[int]) -> None:
    """A line with its points, dashed with hollow points where they are so."""
    own = sorted((points[i] for i in places), key=lambda point: point.x)
    first, color = own[0], _stand_in(own[0].look)
    dashes = (0, (4, 2)) if first.hollow else "-"
    axes.plot([p.x for p in own], [p.y for p in own], color=color, linewidth=1.3, alpha=0.7, linestyle=dashes, zorder=2)
    face, edge, width = (PAPER, color, 1.5) if first.hollow else (color, PAPER, 0.9)
    for i in places:
        point = points[i]
        for xs, ys in ((point.x_range, (point.y,) * 2), ((point.x,) * 2, point.y_range)):
            if xs and ys:
                axes.plot(xs, ys, color=color, linewidth=1, alpha=0.35, zorder=2)
        style: Any = {"marker": point.look.mark, "facecolor": face, "edgecolor": edge, "linewidth": width}
        drawn = axes.scatter([point.x], [point.y], s=130 if point.strong else 58, zorder=4, clip_on=False, **style)
        drawn.set_gid(f"{name}-{i}")
        drawn.set_urls([f"#{point.row}"])


def _stand_in(look: Look) -> str:
    """The colour that matplotlib draws with, until the page's own replaces it."""
    found = {page: color for color, page in PAGE.items()}.get(look.color)
    return look.light if found is None else found


def _limit(axes: Axes, x: Axis, y: Axis) -> None:
    """Keep the axes within what can be."""
    for axis, low, high, turn in ((x, *axes.get_xlim(), axes.set_xlim), (y, *axes.get_ylim(), axes.set_ylim)):
        least, most = axis.limits
        turn(low if least is None else max(low, least), high if most is None else min(high, most))


def _finished(axes: Axes, label: str, titles: Mapping[str, tuple[str, str]]) -> str:
    """The SVG in the colours and font of the page, with tooltips and the rows that points lead to."""
    svg = svg_text(axes.get_figure(root=True), transparent=True)  # type: ignore[arg-type]
    svg = OWN_IDS.sub("", svg[svg.index("<svg") :])
    for stand_in, color in (PAGE | {color: f"var(--m{i})" for i, color in enumerate(COLORS)}).items():
        svg = svg.replace(stand_in, color)
    svg = svg.replace(f"'{FONT}'", "inherit")
    for gid, (told, row) in titles.items():
        data = f' data-row="{html.escape(row)}" class="point"' if row else ""
        svg = svg.replace(f'<g id="{gid}">', f'<g id="{gid}"{data}><title>{html.escape(told)}</title>', 1)
    return svg.replace("<svg ", f'<svg class="chart" role="img" aria-label="{html.escape(label)}" ', 1)
