"""Draw the curves of a run as one SVG file: loss and its parts, accuracy, learning rate and keep rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..method_looks import COLORS
from ..report.charts import FONT, plain_frame, svg_style, svg_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT = "#2b2f36", "#d9dce1"
MARKED = 30  # lines of at most this many points get markers, so that a single point is visible
TITLES = {
    "loss": "loss",
    "accuracy": "accuracy on the validation images, %",
    "lr": "learning rate",
    "keep": "keep rate",
}

Line = tuple[list[float], list[float]]  # updates and values


def curves_svg(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of an SVG file. A panel without values is left out.

    entries: the lines of metrics.jsonl, see `vitrim.train.loop.TrainingProgress`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = {title: lines for title, lines in _panels(entries).items() if lines}
    with mpl.rc_context(svg_style("curves", 9, INK)):
        rows = max(1, math.ceil(len(panels) / 2))
        figure = Figure(figsize=(9, 2.9 * rows))
        grid = figure.subplots(rows, 2, squeeze=False)
        figure.subplots_adjust(0.08, 0.5 / (2.9 * rows), 0.98, 1 - 0.3 / (2.9 * rows), 0.16, 0.4)
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
            _draw(axes, title, lines)
        svg = svg_text(figure, facecolor="white")
    return svg.replace(f"'{FONT}'", f"'{FONT}', sans-serif")


def _panels(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Line]]:
    """Return title of the panel -> name of the line -> line."""
    lines: dict[str, dict[str, Line]] = {title: {} for title in TITLES.values()}
    for entry in entries:
        parts: Mapping[str, float] = entry["parts"] if len(entry["parts"]) > 1 else {}
        rate = entry["keep_rate"]
        rates = rate if isinstance(rate, (list, tuple)) else [] if rate is None else [rate]
        found = {
            "loss": {"loss": entry["loss"], **parts},
            "accuracy": entry["accuracy"],
            "lr": {"learning rate": entry["lr"]},
            "keep": {f"layer {i + 1}": value for i, value in enumerate(rates)},
        }
        for panel, values in found.items():
            for name, value in values.items():
                steps, line = lines[TITLES[panel]].setdefault(name, ([], []))
                steps.append(entry["step"])
                line.append(value)
    keep = list(lines[TITLES["keep"]].values())
    if keep and all(line == keep[0] for line in keep):  # the same in all layers
        lines[TITLES["keep"]] = {"keep rate": keep[0]}
    return lines


def _draw(axes: Axes, title: str, lines: Mapping[str, Line]) -> None:
    for i, (name, (steps, values)) in enumerate(lines.items()):
        marker = "o" if len(steps) <= MARKED else ""
        axes.plot(steps, values, color=COLORS[i % len(COLORS)], linewidth=1.4, marker=marker, markersize=3, label=name)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("updates")
    plain_frame(axes, FAINT, pad=5)
    axes.margins(0.05, 0.1)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=8)
