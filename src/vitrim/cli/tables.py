"""Results as files."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path


def check_output(path: Path | None, *suffixes: str) -> None:
    """Raise ValueError now if a file of one of these kinds could not be written there later."""
    if path is not None and (path.suffix.lower() not in suffixes or not path.resolve().parent.is_dir()):
        raise ValueError(f"--output must be a {' or '.join(suffixes)} file in an existing folder, not {path}.")


def write_csv(path: Path | None, records: Sequence[Mapping[str, object]]) -> None:
    """Write records with the same fields as a table with a header, if there is a path."""
    from ..store import replace_file

    if path is None:
        return
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    replace_file(path, out.getvalue())
