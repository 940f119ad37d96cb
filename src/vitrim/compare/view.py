"""What the report and the text formats show of a run: the table of its rows, and the points of its charts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from ..method_looks import Look, look_of
from ..report.charts import Axis, Point, scatter
from ..report.figure import Figure
from ..report.tables import Badge, Cell, Column, Line, Table, digits, records_csv
from .answer import interval, signed
from .row import Row
from .run_folder import Run
from .verdict import verdicts

Cost = Literal["gmacs", "speedup"]
COSTS: tuple[Cost, ...] = ("gmacs", "speedup")
AXES: Mapping[Cost, Axis] = {
    "gmacs": Axis("GMACs per image", limits=(0, None)),
    "speedup": Axis("speed-up over the unreduced model", "x", (0, None)),
}
ACCURACY = Axis("top-1 accuracy, %", limits=(0, 100))
CAPTIONS: Mapping[Cost, str] = {"gmacs": "Accuracy and multiply-adds", "speedup": "Accuracy and measured speed"}
NOTES: Mapping[Cost, str] = {"gmacs": "Further left is cheaper", "speedup": "Further right is faster"}
COLUMNS = (
    Column("Method", words=True),
    Column("Setting", words=True),
    Column("Top-1 %", down=True, hint="Accuracy of the best answer"),
    Column("Points lost", hint="Top-1 of the unreduced model less that of the row, with its 95 % interval"),
    Column("Lost / won", hint="Images that only the unreduced model gets right / only the row does"),
    Column("Speed-up", down=True, hint="Over the unreduced model; median, and 10th to 90th percentile of the rounds"),
    Column("Batch 1", down=True, hint="Speed-up at batch 1, and milliseconds of one image"),
    Column("Images/s", down=True),
    Column("GMACs", hint="Billions of multiply-adds for an image, and how many times fewer than the unreduced model's"),
)
EMPTY = Cell("")
MEMORY = Column("Peak MB", hint="Memory of weights, input and activations in a forward")


def look(row: Row) -> Look:
    """The look of a row."""
    return look_of(row.method, row.rival)


def pareto_front(rows: Sequence[Row], cost: Cost) -> list[Row]:
    """Return the rows that no other row beats in both accuracy and cost, cheapest first."""
    ordered = sorted(rows, key=lambda row: (_price(row, cost), -row.top1))
    front: list[Row] = []
    for row in ordered:
        if not front or row.top1 > front[-1].top1:
            front.append(row)
    return front


def table(run: Run, recommended: Sequence[Row] = (), *, linked: bool = False) -> Table:
    """The table of a run. linked: to the parts of the page that show what changed."""
    rows, first = run.rows, run.rows[0]
    beaten = {each.row.key: each.rival.name for each in verdicts(rows, run.predictions)}
    fronts = {cost: {row.key for row in pareto_front(rows, cost)} for cost in COSTS}
    memory = first.peak_memory_mb is not None
    lines = []
    for i, row in enumerate(rows):
        on = [cost for cost in COSTS if row.key in fronts[cost]]
        badges = tuple(_badges(row, on, row in recommended, beaten.get(row.key)))
        cells = tuple(_cells(row, i, linked)) + ((_memory(row),) if memory else ())
        kind = "first" if i == 0 else "recommended" if row in recommended else ""
        lines.append(Line(f"row-{i}", look(row), cells, badges, kind, hollow=row.int8, best=bool(on)))
    reasons = tuple((" ".join(each.key), each.not_measured) for each in run.refused)
    return Table((*COLUMNS, MEMORY) if memory else COLUMNS, lines, reasons)


def figures(rows: Sequence[Row]) -> list[Figure]:
    """Accuracy against multiply-adds and against measured speed."""
    return [
        Figure(f"accuracy-{cost}", CAPTIONS[cost], NOTES[cost], _chart(rows, cost), _data(rows, cost)) for cost in COSTS
    ]


def legend(rows: Sequence[Row]) -> list[tuple[str, Look, bool]]:
    """Every look in the charts with its name. Hollow: int8."""
    found = {row.name if row.rival else row.method: (look(row), False) for row in rows}
    int8 = [("hollow: int8", look(row), True) for row in rows if row.int8 and not row.rival]
    return [(name, *each) for name, each in found.items()] + int8[:1]


def told(row: Row) -> str:
    """A row in a line, for its point."""
    low, high = interval(row)
    lost = "" if row.key[1] == "" else f", {signed(row.drop)} points lost ({signed(low)} to {signed(high)})"
    return f"{row.name}: top-1 {row.top1:.2f} %{lost}, {row.gmacs:.3g} GMACs, {row.speedup:.2f}x ({row.speedup.range})"


def _chart(rows: Sequence[Row], cost: Cost) -> str:
    first = rows[0]
    points = []
    for i, row in enumerate(rows):
        low, high = (max(0.0, min(100.0, first.top1 - each)) for each in interval(row)[::-1])
        points.append(
            Point(
                float(getattr(row, cost)),
                row.top1,
                look(row),
                "" if row.rival or i == 0 else row.method,
                f"row-{i}",
                told(row),
                hollow=row.int8 and not row.rival,
                x_range=(row.speedup.low, row.speedup.high) if cost == "speedup" and i else None,
                y_range=(low, high) if i else None,
                strong=i == 0,
            )
        )
    front = [(float(getattr(row, cost)), row.top1) for row in pareto_front(rows, cost)]
    return scatter(cost, points, AXES[cost], ACCURACY, front, level=first.top1)


def _data(rows: Sequence[Row], cost: Cost) -> str:
    header = ("method", "setting", "top1", "top1_low", "top1_high", cost, f"{cost}_p10", f"{cost}_p90")
    first, records = rows[0], []
    for row in rows:
        low, high = interval(row)
        spread = (row.speedup.low, row.speedup.high) if cost == "speedup" else ("", "")
        bounds = (first.top1 - high, first.top1 - low) if row is not first else ("", "")
        records.append((*row.key, row.top1, *bounds, float(getattr(row, cost)), *spread))
    return records_csv(header, records)


def _cells(row: Row, number: int, linked: bool) -> Iterator[Cell]:
    """The cells of a row, in the order of COLUMNS. The first row is what the others are compared with."""
    first, (low, high) = number == 0, interval(row)
    yield Cell(f"rival: {row.method}" if row.rival else row.method)
    yield Cell(row.key[1] or "all tokens")
    yield Cell(f"{row.top1:.2f}", value=row.top1)
    yield EMPTY if first else Cell(signed(row.drop, 2), f"{signed(low)} to {signed(high)}", row.drop)
    yield EMPTY if first else _changed(row, f"changed-{number}" if linked else "")
    yield EMPTY if first else Cell(f"{row.speedup:.2f}x", row.speedup.range, float(row.speedup))
    ratio = "" if first else f"{row.speedup_1:.2f}x"
    yield Cell(ratio, f"{digits(row.latency_1_ms)} ms", float(row.speedup_1))
    yield Cell(digits(row.images_per_s), value=row.images_per_s)
    yield Cell(f"{row.gmacs:.4g}", "" if first else f"{row.mac_ratio:.2f}x fewer", row.gmacs)


def _changed(row: Row, link: str) -> Cell:
    """Images lost and won, and where they are shown."""
    if row.lost is None or row.won is None:
        return EMPTY
    return Cell(f"{row.lost} / {row.won}", value=row.lost, link=link if row.lost + row.won else "")


def _memory(row: Row) -> Cell:
    return EMPTY if row.peak_memory_mb is None else Cell(f"{row.peak_memory_mb:.0f}", value=row.peak_memory_mb)


def _badges(row: Row, on: Sequence[Cost], recommended: bool, beaten_by: str | None) -> Iterator[Badge]:
    if recommended:
        yield Badge("use this", "The answer at the top of the page", "strong")
    if len(on) == 2:
        yield Badge("Pareto", "No other row is both cheaper and more accurate, in multiply-adds and in measured speed")
    elif on:
        yield Badge(
            "Pareto, MACs" if on == ["gmacs"] else "Pareto, speed", "No other row is both cheaper and more accurate"
        )
    if beaten_by:
        yield Badge(f"loses to {beaten_by}", "This rival takes as long at most, and loses less", "warns")
    if row.noisy:
        yield Badge("noisy", f"Its rounds differ by more than 30 %, in {row.timings} measurements", "warns")


def _price(row: Row, cost: Cost) -> float:
    return row.gmacs if cost == "gmacs" else -row.speedup
