"""Rows in results/. They are appended, never rewritten. The file name says what was measured, where and when."""

from __future__ import annotations

import csv
import datetime
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from vitrim.measure.turns import columns

Row = dict[str, str]

OLD_COLUMNS = {"ratio": "speedup", "ratio_low": "speedup_p10", "ratio_high": "speedup_p90"}
RESULTS = Path(__file__).resolve().parents[1] / "results"


def written(values: Mapping[str, object], decimals: int = 3) -> dict[str, str]:
    """Write numbers as text. A Spread takes three columns, and None is empty."""
    return {
        name: "" if value is None else f"{value:.{decimals}f}" if isinstance(value, float) else str(value)
        for name, value in columns(values).items()
    }


def append(what: str, rows: Sequence[Mapping[str, object]], folder: Path = RESULTS) -> Path:
    """Append rows to <what>_torch<version>_<today>.csv, where `what` is such as 'speed_cpu2_fp32'."""
    today = datetime.datetime.now(datetime.timezone.utc).date()
    path = folder / f"{what}_torch{version('torch').partition('+')[0]}_{today}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(rows[0])
    if path.exists():
        with path.open(newline="") as file:
            columns = next(csv.reader(file))
        if set(columns) != set(rows[0]):
            raise ValueError(f"{path} has other columns: rename it, because rows are never rewritten.")
        header = False
    else:
        header = True
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if header:
            writer.writeheader()
        writer.writerows(rows)
    print(f"appended {len(rows)} rows to {path}")
    return path


def files_of(what: str, folder: Path = RESULTS) -> list[Path]:
    """List the files of these rows, of any version and date, newest last."""
    return sorted(folder.glob(f"{what}_torch*.csv"), key=lambda path: path.stem[-10:])


def newest(pattern: str) -> tuple[Path, list[Row]]:
    """Return the newest file that matches, by the date in its name, and its rows."""
    path = max(RESULTS.glob(pattern), key=lambda path: path.stem[-10:])
    return path, read(path)


def last_of(rows: list[Row], *cell: str) -> list[Row]:
    """Of rows with equal values in these columns, keep the last, at the position of the first."""
    return list({tuple(row[key] for key in cell): row for row in rows}.values())


def read(path: Path) -> list[Row]:
    """Read the rows of a file. Old column names are replaced."""
    with path.open(newline="") as file:
        return [{OLD_COLUMNS.get(name, name): value for name, value in row.items()} for row in csv.DictReader(file)]
