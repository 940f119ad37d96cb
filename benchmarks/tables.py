"""Write the tables of the README and of docs/ from the newest rows in results/.

python benchmarks/tables.py          # rewrites what stands between the <!-- results:... --> marks
python benchmarks/tables.py --check  # exits with 1 if a document is not what the rows say

The table of docs/export.md is made by export_table.py.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import accuracy_tables
import speed_tables

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "docs/speed.md", "docs/training.md")
TABLES = {
    "accuracy": accuracy_tables.accuracy_table,
    "speed": speed_tables.speed_table,
    "speed_short": speed_tables.short_speed_table,
    "suite": speed_tables.suite_table,
    "training": accuracy_tables.training_table,
    "training_speed": speed_tables.training_speed_table,
    "anytime": accuracy_tables.anytime_table,
    "packed": speed_tables.packed_table,
    "export_speed": speed_tables.export_speed_table,
    "int8": accuracy_tables.int8_table,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name in DOCUMENTS:
        before = (ROOT / name).read_text()
        after = with_tables(before)
        if name.startswith("docs/"):
            after = after.replace("](results/", "](../results/")
        if before != after:
            stale.append(name)
            if not check:
                (ROOT / name).write_text(after)
    if check and stale:
        sys.exit(f"{' and '.join(stale)}: not what results/ says; run python benchmarks/tables.py.")


def with_tables(text: str) -> str:
    """The text with all tables made afresh."""
    for name, table in TABLES.items():
        if f"<!-- results:{name} -->" not in text:
            continue
        pattern = rf"(<!-- results:{name} -->\n).*?(<!-- results:end -->)"
        made = table()
        text = re.sub(pattern, lambda match, made=made: f"{match[1]}{made}{match[2]}", text, flags=re.S)
    return text


if __name__ == "__main__":
    main()
