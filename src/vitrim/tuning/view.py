"""What the report and the text formats show of a search: the table of its rows, and its figures."""

from __future__ import annotations

from collections.abc import Iterator

from ..method_looks import Look, look_of
from ..report.charts import Axis, Point, bars, lines, scatter
from ..report.figure import Figure
from ..report.tables import Badge, Cell, Column, Line, Table, digits, records_csv
from ..rivals import ROWS
from .outcome import RIVAL, TUNED, UNREDUCED, Row, Tuned

MOST = 5.0  # what is lost up to here is drawn at any rate, in points or per cent
SPEED = Axis("speed-up over the unreduced model", "x", (0, None))
PATCHES, BLOCK = Axis("patches"), Axis("block")


def look(found: Tuned, row: Row) -> Look:
    """The look of a row: of its method, or of its kind of rival."""
    if row.kind == RIVAL:
        return look_of("", next((kind for kind, (_, words) in ROWS.items() if _matches(row.name, words)), RIVAL))
    return look_of(UNREDUCED if row.kind == UNREDUCED else found.method if row.kind == TUNED else row.name.split()[0])


def table(found: Tuned) -> Table:
    """Every way to run the model, on the images that the search has not seen."""
    columns = (
        Column("What", words=True),
        Column("Speed-up", down=True, hint="Over the unreduced model; median, and 10th to 90th percentile"),
        Column("ms a batch", hint=f"Of {found.batch_size}"),
        Column("GMACs", hint="Billions of multiply-adds for an image"),
        Column(found.what_is_lost.capitalize(), hint="With its 95 % interval, of the same images on both models"),
        Column("Lost / won", hint="Images that only the unreduced model gets right / only this one does"),
        Column("Divergence", hint=f"{found.divergence_unit}, mean"),
    )
    beaten, rows = found.beaten_by(), []
    for i, row in enumerate(found.rows):
        kind = {UNREDUCED: "first", TUNED: "recommended"}.get(row.kind, "")
        badges = tuple(_badges(row, row in beaten))
        rows.append(Line(f"row-{i}", look(found, row), tuple(_cells(row)), badges, kind))
    return Table(columns, rows)


def figures(found: Tuned) -> list[Figure]:
    """The front, the schedule, and the time of a block where it was measured."""
    counts, most = list(found.schedule[1:]), found.schedule[0]
    told = [f"block {i}: {count} of {most} patches" for i, count in enumerate(counts)]
    color = look_of(found.method).light
    shown = [
        _front(found),
        Figure(
            "schedule",
            "Patches that leave each block",
            f"{most} patches enter the first",
            bars("schedule", counts, color, BLOCK, PATCHES, told),
            records_csv(("block", "patches"), list(enumerate(counts))),
        ),
    ]
    if found.block_ms:
        name, y = "Measured time of one block", Axis("milliseconds")
        note = f"One batch of {found.batch_size}, by the patches that enter. The search decides by these times"
        records = [(part, patches, ms) for part, row in found.block_ms.items() for patches, ms in sorted(row.items())]
        data = records_csv(("part", "patches", "ms"), records)
        shown.append(Figure("block-time", name, note, lines("block-time", found.block_ms, PATCHES, y), data))
    return shown


def legend(found: Tuned) -> list[tuple[str, Look, bool]]:
    """Every look in the charts with its name."""
    return [(name, each, False) for name, each in {row.name: look(found, row) for row in found.rows}.items()]


def _front(found: Tuned) -> Figure:
    limit = max(3 * found.best.interval[1], MOST)
    near = {i: row for i, row in enumerate(found.rows) if row.lost <= limit}
    far = [row.name for i, row in enumerate(found.rows) if i not in near]
    points = [_point(found, i, row) for i, row in near.items()]
    lost = Axis(found.what_is_lost, limits=(-100, 100), turned=True)
    note = "Further up and right is better" + (f". Off the chart: {', '.join(far)}" if far else "")
    header = ("what", "kind", "speedup", "speedup_p10", "speedup_p90", "gmacs", "lost", "lost_low", "lost_high")
    records = [_record(row) for row in found.rows]
    title = "What is lost against the measured speed"
    return Figure("front", title, note, scatter("front", points, SPEED, lost), records_csv(header, records))


def _point(found: Tuned, number: int, row: Row) -> Point:
    low, high = row.interval
    told = (
        f"{row.name}: {row.speedup.median:.2f}x, {row.gmacs:.3g} GMACs, loses {row.lost:.2f} ({low:.2f} to {high:.2f})"
    )
    ranges = {"x_range": (row.speedup.low, row.speedup.high), "y_range": row.interval} if row.kind != UNREDUCED else {}
    return Point(
        row.speedup.median,
        row.lost,
        look(found, row),
        "",
        f"row-{number}",
        told,
        strong=row.kind in (TUNED, UNREDUCED),
        **ranges,  # type: ignore[arg-type]
    )


def _record(row: Row) -> tuple[object, ...]:
    """A row for the data of the front."""
    speedup = (row.speedup.median, row.speedup.low, row.speedup.high)
    return row.name, row.kind, *speedup, row.gmacs, row.lost, *row.interval


def _cells(row: Row) -> Iterator[Cell]:
    yield Cell(f"rival: {row.name}" if row.kind == RIVAL else row.name)
    yield Cell(f"{row.speedup.median:.2f}x", row.speedup.range, row.speedup.median)
    yield Cell(digits(row.latency_ms), value=row.latency_ms)
    yield Cell(f"{row.gmacs:.4f}", value=row.gmacs)
    yield Cell(f"{row.lost:.2f}", "{:.2f} to {:.2f}".format(*row.interval), row.lost)
    yield Cell("") if row.paired is None else Cell(f"{row.paired.lost} / {row.paired.won}", value=row.paired.lost)
    yield Cell(f"{row.divergence:.4f}", value=row.divergence)


def _badges(row: Row, beats: bool) -> Iterator[Badge]:
    if row.kind == TUNED:
        yield Badge("use this", "The answer at the top of the page", "strong")
    if beats:
        yield Badge("beats the tuned setting", "It is as fast, and loses less", "warns")
    if row.speedup.noisy:
        yield Badge("noisy", "The machine was busy: its rounds differ by more than 30 %", "warns")


def _matches(name: str, words: str) -> bool:
    """Whether a rival's name is these words with a value for {}."""
    before, _, after = words.partition("{}")
    return bool(before or after) and name.startswith(before) and name.endswith(after)
