"""Whether what a results.json says is what vitrim writes: kinds, ranges, and pictures that are the run's own.

A run folder may come from somebody else, and what it says goes into a report. ValueErrors say what is wrong.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from ..text import shown

PICTURES = "pictures"
MOST_BYTES = 64 * 2**20  # of a results.json
MOST_PICTURE_BYTES = 8 * 2**20
LARGEST = 1e15  # of any number in a row
PNG = b"\x89PNG\r\n\x1a\n"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _is_per_cent(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 100  # type: ignore[operator]


def _is_positive(value: object) -> bool:
    return _is_number(value) and value > 0  # type: ignore[operator]


def _is_named(value: object) -> bool:
    return isinstance(value, dict)


def _is_list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(fits, value))


KINDS: Mapping[str, Callable[[Any], bool]] = {  # by the annotation of a row's field
    "str": _is_text,
    "int": _is_whole,
    "float": _is_number,
    "Mapping[str, Any]": _is_named,
    "Sequence[int]": _is_list_of(_is_whole),
}
RANGES: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("top1", "top5"), _is_per_cent),
    **dict.fromkeys(("gmacs", "mac_ratio", "images_per_s", "speedup", "speedup_low", "speedup_high"), _is_positive),
    **dict.fromkeys(("latency_1_ms", "speedup_1", "num_images", "batch", "rounds"), _is_positive),
}
RUN: Mapping[str, Callable[[Any], bool]] = {
    "identity": _is_named,
    "environment": _is_named,
    "commands": _is_list_of(_is_text),
    "rows": _is_list_of(_is_named),
    "skipped_files": _is_list_of(_is_text),
    "pictures": _is_list_of(_is_named),
    "assumption": _is_text,
    "refused": _is_list_of(_is_named),
}
SAMPLE = {"image": _is_text, "name": _is_text, "label": _is_text, "tracks": _is_list_of(_is_named)}
REFUSAL = {"method": _is_text, "setting": _is_text, "reason": _is_text}
TRACK = {"method": _is_text, "setting": _is_text, "predicted": _is_text, "panels": _is_list_of(_is_named)}
PANEL = {"file": _is_text, "caption": _is_text}


def read_stored(path: Path) -> dict[str, Any]:
    """The content of a results.json, checked but for the fields of its rows."""
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is no file of at most {MOST_BYTES} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is no object")
    content = cast(
        "dict[str, Any]", {"assumption": "", "refused": []} | content
    )  # files of before they were told do not tell
    _check("the file", content, RUN)
    for each in content["refused"]:
        _check("what could not be measured", each, REFUSAL)
    for sample in content["pictures"]:
        _check("a picture", sample, SAMPLE)
        for track in sample["tracks"]:
            _check("a picture's track", track, TRACK)
            for panel in track["panels"]:
                _check("a picture's panel", panel, PANEL)
    if len({tuple(track["method"] for track in sample["tracks"]) for sample in content["pictures"]}) > 1:
        raise ValueError("its pictures show different methods")
    return content


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


def _check(what: str, content: object, kinds: Mapping[str, Callable[[Any], bool]]) -> None:
    if not isinstance(content, dict) or content.keys() != kinds.keys():
        raise ValueError(f"{what} does not hold {', '.join(kinds)}")
    for name, fits in kinds.items():
        if not fits(content[name]):
            raise ValueError(f"{name} cannot be {shown(content[name], 60)}")
