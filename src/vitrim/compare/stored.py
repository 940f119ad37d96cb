"""Check a results.json: types, ranges, and that pictures belong to the run.

A run folder may come from somebody else, and its content goes into a report. Errors are ValueErrors with the reason.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..kinds import Test, check, is_number, is_per_cent, is_text, is_whole, list_of, named, read_object
from ..measure.turns import Spread, column_names
from ..text import shown

PICTURES = "pictures"
MOST_PICTURE_BYTES = 8 * 2**20
LARGEST = 1e15  # of any number in a row
PNG = b"\x89PNG\r\n\x1a\n"


def _is_whole(value: object) -> bool:
    return is_whole(value, 0, LARGEST)


def _is_number(value: object) -> bool:
    return is_number(value, LARGEST)


def _is_positive(value: object) -> bool:
    return is_number(value, LARGEST) and value > 0


def _is_spread(value: object) -> bool:
    return isinstance(value, Spread) and all(_is_positive(each) for each in (value.low, value.median, value.high))


def _is_named(value: object) -> bool:
    return isinstance(value, dict)


SPREADS = ("speedup", "speedup_1")
OLD_COLUMNS = {"speedup_low": "speedup_p10", "speedup_high": "speedup_p90"}
KINDS: Mapping[str, Test] = {  # by the annotation of a field of Row
    "str": is_text,
    "int": _is_whole,
    "float": _is_number,
    "Spread": _is_spread,
    "Mapping[str, Any]": _is_named,
    "Sequence[int]": list_of(_is_whole),
}
RANGES: Mapping[str, Test] = {
    **dict.fromkeys(("top1", "top5"), is_per_cent),
    **dict.fromkeys(("gmacs", "mac_ratio", "images_per_s"), _is_positive),
    **dict.fromkeys(("latency_1_ms", "num_images", "batch", "rounds", "timings"), _is_positive),
}
RUN: Mapping[str, Test] = {
    "identity": _is_named,
    "environment": _is_named,
    "commands": list_of(is_text),
    "rows": list_of(_is_named),
    "skipped_files": list_of(is_text),
    "pictures": list_of(_is_named),
    "assumption": is_text,
    "refused": list_of(_is_named),
    "classes": named(is_text, r"\d+"),
}
SAMPLE = {"image": is_text, "name": is_text, "label": is_text, "tracks": list_of(_is_named)}
REFUSAL = {"method": is_text, "setting": is_text, "reason": is_text}
TRACK = {"method": is_text, "setting": is_text, "predicted": is_text, "panels": list_of(_is_named)}
PANEL = {"file": is_text, "caption": is_text}


def read_stored(path: Path) -> dict[str, Any]:
    """Read a results.json and check everything but the fields of its rows."""
    content = read_object(path)
    content = {"assumption": "", "refused": [], "classes": {}} | content  # missing in old files
    check("the file", content, RUN, only=True)
    for each in content["refused"]:
        check("a refusal", each, REFUSAL, only=True)
    for sample in content["pictures"]:
        check("a picture", sample, SAMPLE, only=True)
        for track in sample["tracks"]:
            check("a picture's track", track, TRACK, only=True)
            for panel in track["panels"]:
                check("a picture's panel", panel, PANEL, only=True)
    if len({tuple(track["method"] for track in sample["tracks"]) for sample in content["pictures"]}) > 1:
        raise ValueError("its pictures show different methods")
    return content


def with_spreads(row: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the columns of a row into its fields: three columns are a speed-up. Old names still work."""
    values = {OLD_COLUMNS.get(name, name): value for name, value in row.items()}
    if "speedup_1" in values:  # old files have no range of it
        values = dict.fromkeys(column_names("speedup_1")[1:], values["speedup_1"]) | values
    return values | {name: _spread(name, values) for name in SPREADS}


def _spread(name: str, values: dict[str, Any]) -> Spread:
    """Take the three columns of a ratio out of a row."""
    median, low, high = parts = [values.pop(each, None) for each in column_names(name)]
    if not all(is_number(part, LARGEST) for part in parts):
        raise ValueError(f"{name} of a row cannot be {shown(parts, 60)}")
    return Spread(low, median, high)


def check_row(row: Any) -> None:
    """Raise ValueError unless each field of a Row has the annotated type and a valid value."""
    for field in fields(row):
        kind, _, none = str(field.type).partition(" | ")
        value = getattr(row, field.name)
        fits = KINDS[kind](value) and RANGES.get(field.name, KINDS[kind])(value)
        if not fits and not (none and value is None):
            raise ValueError(f"{field.name} of a row cannot be {shown(value, 60)}")


def picture_bytes(folder: Path, name: str) -> bytes:
    """Read a picture of the run. Raises ValueError for any other file, and for links, which may point elsewhere."""
    path = folder / PICTURES / Path(name).name
    own = name == f"{PICTURES}/{path.name}" and path.suffix == ".png" and not (folder / PICTURES).is_symlink()
    if own and path.exists() and stat.S_ISREG(path.lstat().st_mode) and path.stat().st_size <= MOST_PICTURE_BYTES:
        content = path.read_bytes()
        if content.startswith(PNG):
            return content
    raise ValueError(
        f"{folder} has no picture {shown(name)}: a report only includes PNG files of its own folder {PICTURES}. Pass "
        "another output folder."
    )
