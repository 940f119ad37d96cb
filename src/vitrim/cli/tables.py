"""Results as a .csv file."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path


def check_output(path: Path | None) -> None:
    """ValueError at once for a file that could not be written in the end."""
    if path is not None and (path.suffix.lower() != ".csv" or not path.resolve().parent.is_dir()):
        raise ValueError(f"--output is a .csv file in a folder that exists, not {path}.")


def write_csv(path: Path, records: Sequence[Mapping[str, object]]) -> None:
    """Records with the same fields as a table, its header first."""
    from ..store import replace_file

    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    replace_file(path, out.getvalue())
