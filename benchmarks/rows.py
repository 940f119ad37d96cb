"""Rows of results/: appended, never rewritten; the file's name tells what was measured where and when."""

from __future__ import annotations

import csv
import datetime
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).resolve().parents[1] / "results"


def append(what: str, rows: Sequence[Mapping[str, object]], folder: Path = RESULTS) -> Path:
    """Append rows to <what>_torch<version>_<today>.csv; what: 'speed_cpu2_fp32'."""
    version = torch.__version__.partition("+")[0]
    today = datetime.datetime.now(datetime.timezone.utc).date()
    path = folder / f"{what}_torch{version}_{today}.csv"
    folder.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if new:
            writer.writeheader()
        writer.writerows(rows)
    print(f"appended {len(rows)} rows to {path}")
    return path


def cpu_name() -> str:
    """The processor's model name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
