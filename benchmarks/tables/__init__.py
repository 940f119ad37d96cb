"""The tables of the README and of docs/, made of the newest rows in results/.

python -m benchmarks tables          # rewrites what stands between the <!-- results:... --> marks
python -m benchmarks tables --check  # exits with 1 if a document is not what the rows say
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from . import export, league, speed, training
from .table import Table

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS: dict[str, Mapping[str, Table]] = {
    "README.md": league.README,
    "docs/league.md": league.TABLES,
    "docs/speed.md": speed.TABLES,
    "docs/training.md": training.TABLES,
    "docs/export.md": export.TABLES,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args(arguments).check
    stale = []
    for name, tables in DOCUMENTS.items():
        before = (ROOT / name).read_text()
        after = with_tables(before, tables)
        if name.startswith("docs/"):
            after = after.replace("](results/", "](../results/")
        if before != after:
            stale.append(name)
            if not check:
                (ROOT / name).write_text(after)
    if check and stale:
        print(f"{' and '.join(stale)}: not what results/ says; run python -m benchmarks tables.")
    return 1 if check and stale else 0


def with_tables(text: str, tables: Mapping[str, Table]) -> str:
    """The text with its tables made afresh."""
    for name, table in tables.items():
        pattern = rf"(<!-- results:{name} -->\n).*?(<!-- results:end -->)"
        text, found = re.subn(pattern, partial(_between, table.text()), text, flags=re.S)
        if found != 1:
            raise ValueError(f"<!-- results:{name} --> stands {found} times in its document, not once.")
    return text


def _between(made: str, match: re.Match[str]) -> str:
    return f"{match[1]}{made}{match[2]}"
