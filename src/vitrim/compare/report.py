"""The report of a comparison: one self-contained HTML file."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..store import replace_file
from .charts import accuracy_chart, method_colors, pareto_front, sampling_error
from .row import UNREDUCED, Row
from .run_folder import REPORT, Run
from .stored import picture_bytes

TEMPLATE = "report.html.jinja"
CONTROL = re.compile(  # characters that a file name may hold, but a page must not
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ud800-\udfff]"
)
SMALL_LOSS = 1.0  # points of top-1
GOOD_SPEEDUP = 1.5


class Finding(NamedTuple):
    """One card at the top of the report."""

    title: str
    value: str
    detail: str
    method: str | None = None  # sets its colour


def write_report(folder: Path, run: Run) -> Path:
    """Write report.html, with the pictures embedded, into the folder of the run. Returns its path."""
    path = folder / REPORT
    replace_file(path, render(run, folder))
    return path


def render(run: Run, folder: Path) -> str:
    """Render the page. folder: contains the pictures of the run."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    if not run.rows or run.rows[0].method != UNREDUCED:
        raise ValueError("the first row of a report must be the unreduced model.")
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters["points"] = points
    jinja.filters["inlined"] = lambda name: _data_uri(picture_bytes(folder, name))
    page = jinja.get_template(TEMPLATE).render(
        run=run,
        rows=run.rows,
        unreduced=run.rows[0],
        findings=findings(run.rows),
        charts=[Markup(accuracy_chart(run.rows, cost)) for cost in ("gmacs", "speedup")],
        colors=method_colors(run.rows),
        front={cost: {row.key for row in pareto_front(run.rows, cost)} for cost in ("gmacs", "speedup")},
        sampling_error=sampling_error(run.rows[0]),
        num_configurations=len({(row.method, row.setting) for row in run.rows}) - 1,
        int8=any(row.int8 for row in run.rows),
    )
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], page)


def findings(rows: Sequence[Row]) -> list[Finding]:
    """Pick the main results. The first row is the unreduced model."""
    unreduced, reduced = rows[0], rows[1:]
    cards = [
        Finding(
            "Unreduced model",
            f"{unreduced.top1:.1f} %",
            f"top-1 · {unreduced.gmacs:.4g} GMACs · {unreduced.images_per_s:.3g} images/s",
        )
    ]
    if not reduced:
        return cards
    close = _fastest(row for row in reduced if row.drop <= SMALL_LOSS)
    if close is not None:
        cards.append(_speed_card(f"Fastest within {SMALL_LOSS:g} point", close))
    else:
        close = min(reduced, key=lambda row: row.drop)
        detail = f"{_name(close)} · {close.speedup:.2f}x"
        cards.append(Finding("Smallest loss", f"{points(close)} points", detail, close.method))
    best = min((row for row in reduced if row.speedup >= GOOD_SPEEDUP), key=lambda row: row.drop, default=close)
    if best is not close:
        detail = f"{_name(best)} · {best.speedup:.2f}x · {points(best)} points"
        title = f"Most accurate at {GOOD_SPEEDUP:g}x or more"
        cards.append(Finding(title, f"{best.top1:.1f} %", detail, best.method))
    fastest = _fastest(reduced)
    if fastest is not None and fastest not in (close, best):
        cards.append(_speed_card("Fastest of all", fastest))
    return cards


def points(row: Row) -> str:
    """Change of top-1 relative to the unreduced model, with a typographic minus: '\u22120.7'."""
    return f"{round(-row.drop, 1) or 0.0:+.1f}".replace("-", "\u2212")


def _fastest(rows: Iterable[Row]) -> Row | None:
    return max(rows, key=lambda row: row.speedup, default=None)


def _speed_card(title: str, row: Row) -> Finding:
    return Finding(title, f"{row.speedup:.2f}x", f"{_name(row)} · {points(row)} points", row.method)


def _name(row: Row) -> str:
    return ", ".join(row.key)


def _data_uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()
