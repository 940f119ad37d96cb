"""Whether what a results.json says is what vitrim writes: kinds, ranges, and pictures that are the run's own.

A run folder may come from somebody else, and what it says goes into a report. ValueErrors say what is wrong.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..kinds import Test, check, is_number, is_per_cent, is_text, is_whole, list_of, read_object
from ..measure.turns import Spread, column_names
from ..text import shown

PICTURES = "pictures"
MOST_BYTES = 64 * 2**20  # of a results.json
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


OLD_COLUMNS = {"speedup_low": "speedup_p10", "speedup_high": "speedup_p90"}
KINDS: Mapping[str, Test] = {  # by the annotation of a row's field
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
    **dict.fromkeys(("latency_1_ms", "speedup_1", "num_images", "batch", "rounds"), _is_positive),
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
}
SAMPLE = {"image": is_text, "name": is_text, "label": is_text, "tracks": list_of(_is_named)}
REFUSAL = {"method": is_text, "setting": is_text, "reason": is_text}
TRACK = {"method": is_text, "setting": is_text, "predicted": is_text, "panels": list_of(_is_named)}
PANEL = {"file": is_text, "caption": is_text}


def read_stored(path: Path) -> dict[str, Any]:
    """The content of a results.json, checked but for the fields of its rows."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is no file of at most {MOST_BYTES} bytes")
    content = read_object(path)
    content = {"assumption": "", "refused": []} | content  # files of before they were told do not tell
    check("the file", content, RUN, only=True)
    for each in content["refused"]:
        check("what could not be measured", each, REFUSAL, only=True)
    for sample in content["pictures"]:
        check("a picture", sample, SAMPLE, only=True)
        for track in sample["tracks"]:
            check("a picture's track", track, TRACK, only=True)
            for panel in track["panels"]:
                check("a picture's panel", panel, PANEL, only=True)
    if len({tuple(track["method"] for track in sample["tracks"]) for sample in content["pictures"]}) > 1:
        raise ValueError("its pictures show different methods")
    return content


def with_spread(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's fields of its columns: the three of its speed-up are one. Rows of before called two of them otherwise."""
    values = {OLD_COLUMNS.get(name, name): value for name, value in row.items()}
    median, low, high = parts = [values.pop(name, None) for name in column_names("speedup")]
    if not all(is_number(part, LARGEST) for part in parts):
        raise ValueError(f"speedup of a row cannot be {shown(parts, 60)}")
    return values | {"speedup": Spread(low, median, high)}


def check_row(row: Any) -> None:
    """ValueError unless each field of a Row holds what its annotation says, in its range."""
    for field in fields(row):
        kind, _, none = str(field.type).partition(" | ")
        value = getattr(row, field.name)
        fits = KINDS[kind](value) and RANGES.get(field.name, KINDS[kind])(value)
        if not fits and not (none and value is None):
            raise ValueError(f"{field.name} of a row cannot be {shown(value, 60)}")


def picture_bytes(folder: Path, name: str) -> bytes:
    """A picture of the run in that folder; ValueError for any other file, and for links, which may lead elsewhere."""
    path = folder / PICTURES / Path(name).name
    own = name == f"{PICTURES}/{path.name}" and path.suffix == ".png" and not (folder / PICTURES).is_symlink()
    if own and path.exists() and stat.S_ISREG(path.lstat().st_mode) and path.stat().st_size <= MOST_PICTURE_BYTES:
        content = path.read_bytes()
        if content.startswith(PNG):
            return content
    raise ValueError(
        f"{folder} has no picture {shown(name)}: a report takes in PNG files of its own folder {PICTURES} alone; name "
        "another output folder."
    )
