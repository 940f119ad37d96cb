"""Charts of accuracy against cost, as SVG text for a page. Text and lines take the colours of the page."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from .row import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cost = Literal["gmacs", "speedup"]

AXES: Mapping[Cost, str] = {"gmacs": "GMACs per image", "speedup": "speed-up over the unreduced model"}
PALETTE = ("#4477dd", "#e07b28", "#2a9d68", "#c2519c", "#8b66d6", "#cf4a44", "#1c9fb3", "#a08228", "#6b8e23", "#b56a5a")
INK, FAINT, PAPER = "#010203", "#010204", "#010205"  # placeholders for the colours of the page
FONT = "DejaVu Sans"  # ships with matplotlib; replaced by the font of the page


def method_colors(rows: Sequence[Row]) -> dict[str, str]:
    """Assign a colour to each method, in order of appearance. The unreduced model takes the colour of the text."""
    methods = [method for method in dict.fromkeys(row.method for row in rows) if method != rows[0].method]
    return {rows[0].method: "currentColor"} | {m: PALETTE[i % len(PALETTE)] for i, m in enumerate(methods)}


def pareto_front(rows: Sequence[Row], cost: Cost) -> list[Row]:
    """Return the rows that no other row beats in both accuracy and cost, cheapest first."""
    ordered = sorted(rows, key=lambda row: (_price(row, cost), -row.top1))
    front: list[Row] = []
    for row in ordered:
        if not front or row.top1 > front[-1].top1:
            front.append(row)
    return front


def sampling_error(row: Row) -> float:
    """Half the 95 % interval of top-1 from sampling the images, in points."""
    share = row.top1 / 100
    return 196 * math.sqrt(share * (1 - share) / row.num_images)


def accuracy_chart(rows: Sequence[Row], cost: Cost) -> str:
    """Plot top-1 against cost. The first row is the unreduced model. Each point has a tooltip with its numbers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(svg_style(cost, 10, INK)):
        figure = Figure(figsize=(6.2, 4.5), layout="tight")
        axes = figure.subplots()
        _frame(axes, cost)
        _draw_front(axes, rows, cost)
        _draw_methods(axes, rows, cost)
        _draw_unreduced(axes, rows[0], cost)
        svg = svg_text(figure, transparent=True)
    return _for_page(svg, rows, cost)


def svg_style(salt: str, size: int, ink: str) -> Any:
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


def _price(row: Row, cost: Cost) -> float:
    return row.gmacs if cost == "gmacs" else -row.speedup


def _frame(axes: Axes, cost: Cost) -> None:
    axes.set_xlabel(AXES[cost], labelpad=8)
    axes.set_ylabel("top-1 accuracy, %", labelpad=8)
    plain_frame(axes, FAINT, pad=6)
    axes.margins(0.07, 0.09)
    if cost == "speedup":
        axes.xaxis.set_major_formatter("{x:g}x")


def _draw_front(axes: Axes, rows: Sequence[Row], cost: Cost) -> None:
    front = pareto_front(rows, cost)
    xs, ys = [getattr(row, cost) for row in front], [row.top1 for row in front]
    axes.plot(xs, ys, color=INK, linewidth=7, alpha=0.12, solid_capstyle="round", solid_joinstyle="round", zorder=1)
    axes.scatter(xs, ys, s=120, facecolor="none", edgecolor=INK, linewidth=1, alpha=0.55, zorder=4)


def _draw_methods(axes: Axes, rows: Sequence[Row], cost: Cost) -> None:
    """Draw a line per method, and a dashed one with hollow points for its int8 rows."""
    colors = method_colors(rows) | {rows[0].method: INK}
    for method, int8 in dict.fromkeys((row.method, row.int8) for row in rows[1:]):
        own = sorted((row for row in rows[1:] if (row.method, row.int8) == (method, int8)), key=lambda row: row.gmacs)
        color = colors[method]
        xs, ys = [getattr(row, cost) for row in own], [row.top1 for row in own]
        axes.plot(xs, ys, color=color, linewidth=1.4, alpha=0.75, linestyle=(0, (4, 2)) if int8 else "-", zorder=2)
        face, edge, width = (PAPER, color, 1.5) if int8 else (color, PAPER, 0.8)
        for row in own:
            if cost == "speedup":
                axes.plot((row.speedup.low, row.speedup.high), (row.top1,) * 2, color=color, linewidth=1, alpha=0.5)
            point = axes.scatter(
                [getattr(row, cost)],
                [row.top1],
                s=34,
                marker="D" if method == rows[0].method else "o",
                facecolor=face,
                edgecolor=edge,
                linewidth=width,
                zorder=3,
            )
            point.set_gid(_gid(rows, row, cost))


def _draw_unreduced(axes: Axes, row: Row, cost: Cost) -> None:
    x = getattr(row, cost)
    axes.axhline(row.top1, color=INK, linewidth=0.9, alpha=0.45, linestyle=(0, (4, 4)), zorder=1)
    bar = axes.errorbar(x, row.top1, yerr=sampling_error(row), color=INK, capsize=3, linewidth=1, zorder=3)
    bar[0].set_alpha(0.8)
    point = axes.scatter([x], [row.top1], s=52, marker="D", color=INK, edgecolor=PAPER, linewidth=0.8, zorder=5)
    point.set_gid(_gid([row], row, cost))


def _gid(rows: Sequence[Row], row: Row, cost: Cost) -> str:
    return f"{cost}-{rows.index(row)}"


def _for_page(svg: str, rows: Sequence[Row], cost: Cost) -> str:
    """Remove the XML prologue, use the colours and font of the page, and add tooltips."""
    svg = svg[svg.index("<svg") :]
    for stand_in, color in ((INK, "currentColor"), (FAINT, "var(--line)"), (PAPER, "var(--card)")):
        svg = svg.replace(stand_in, color)
    svg = svg.replace(f"'{FONT}'", "inherit")
    for i, row in enumerate(rows):
        start = f'<g id="{cost}-{i}">'
        tooltip = f"{' '.join(row.key).strip()}: top-1 {row.top1:.2f} %, {row.gmacs:.3g} GMACs, {row.speedup:.2f}x"
        svg = svg.replace(start, f"{start}<title>{html.escape(tooltip)}</title>")
    label = f"Top-1 accuracy against {AXES[cost]}"
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
