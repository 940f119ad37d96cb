"""The report of a comparison: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..report.page import MOST_BYTES
from ..report.page import render as render_page
from ..store import replace_file
from . import view
from .answer import Answer, answers
from .row import UNREDUCED, Row, sampling_error
from .run_folder import REPORT, Run
from .showcase import showcase
from .usage import use_lines
from .verdict import verdicts

TEMPLATE = Path(__file__).parent / "compared.html.jinja"
PICTURE_BYTES = (2_200_000, 1_000_000, 300_000, 0)  # of all pictures: as many as leave the page below its limit
DRIFT = 1.5  # times that the unreduced model's own speed may differ between rows


def write_report(folder: Path, run: Run, missing: int = 0) -> Path:
    """Write report.html, with the pictures embedded, into the folder of the run. Returns its path.

    missing: rows that are still to be measured.
    """
    path = folder / REPORT
    replace_file(path, render(run, [folder], missing=missing))
    return path


def render(run: Run, folders: Sequence[Path], notes: Sequence[str] = (), missing: int = 0) -> str:
    """Render the page. folders: contain the pictures of the run, or of the runs that it joins."""
    if not run.rows or run.rows[0].method != UNREDUCED:
        raise ValueError("the first row of a report must be the unreduced model.")
    found = answers(run.rows)
    recommended = [each.row for each in found if each.row is not None]
    values = {
        "run": run,
        "unreduced": run.rows[0],
        "answers": [(each, view.look(each.row).color if each.row else "") for each in found],
        "uses": list(_uses(run, found)),
        "warnings": [*notes, *_warnings(run, missing)],
        "verdicts": [each.sentence for each in verdicts(run.rows, run.predictions)],
        "figures": view.figures(run.rows),
        "legend": view.legend(run.rows),
        "table": view.table(run, recommended, linked=bool(run.predictions.rows)),
        "look": view.look,
        "paired": any(row.paired for row in run.rows[1:]),
        "sampling_error": sampling_error(run.rows[0]),
        "num_configurations": len({(row.method, row.setting) for row in run.rows if not row.rival}) - 1,
        "num_rivals": sum(bool(row.rival) for row in run.rows),
        "int8": any(row.int8 for row in run.rows),
    }
    for most in PICTURE_BYTES:
        page = render_page(TEMPLATE, shown=showcase(run, folders, most, recommended), **values)
        if len(page.encode()) <= MOST_BYTES:
            break
    return page


def _uses(run: Run, found: Sequence[Answer]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """A title and lines for each row that is recommended."""
    rows = {each.row.key: each.row for each in found if each.row is not None}
    for row in rows.values():
        own = [each for each in found if each.row is row]
        batches = " and ".join(str(each.batch) for each in own)
        title = "Use this" if all(each.sure for each in own) else "The best guess"
        yield f"{title} for batch {batches}: {row.name}", use_lines(run, row)


def _warnings(run: Run, missing: int) -> Iterator[str]:
    """What a reader of the figures must know first."""
    if missing:
        rows = "row is" if missing == 1 else "rows are"
        yield f"This run is not finished: {missing} {rows} still to be measured. The answer may change."
    noisy = [row for row in run.rows if row.noisy]
    if noisy:
        yield (
            f"The machine was too busy for {_listed(noisy)}: rounds differ by more than 30 %, in each of "
            f"{max(row.timings for row in noisy)} measurements. The same command with a new --output measures again."
        )
    drifted = [row for row in run.rows[1:] if not row.noisy and _drifted(row, run.rows[0])]
    if drifted:
        yield (
            f"While {_listed(drifted)} was measured, the unreduced model ran at another speed than in its own row. "
            "Compare the speed-ups, not milliseconds or images/s."
        )
    if any(row.paired is None for row in run.rows):
        yield "Some rows are of an older version, which kept no predictions, so their intervals are wide."
    if run.assumption:
        yield f"Note: {run.assumption}"


def _drifted(row: Row, first: Row) -> bool:
    """Whether the machine was faster or slower than in the first row, by the unreduced model's speed in between."""
    paces = row.latency_1_ms * row.speedup_1 / first.latency_1_ms, first.images_per_s * row.speedup / row.images_per_s
    same = row.batch == first.batch and row.device == first.device
    return same and any(not 1 / DRIFT < pace < DRIFT for pace in paces)


def _listed(rows: Sequence[Row], most: int = 4) -> str:
    more = f" and {len(rows) - most} more" if len(rows) > most else ""
    return ", ".join(row.name for row in rows[:most]) + more
