"""What a report shows of images: the few that a row loses and wins, and where the patches of some samples went.

Pictures are embedded, as many as fit a page of a moderate size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..method_looks import look_of
from ..report.page import data_uri
from .flips import chosen, common, drawn_in, picture_of
from .predictions import Change
from .row import UNREDUCED, Row
from .run_folder import Run
from .stored import PICTURES, picture_bytes

MOST_CLASSES = 8


@dataclass
class Room:
    """Bytes that pictures may still take."""

    left: int
    left_out: int = 0  # pictures that did not fit

    def take(self, content: bytes) -> str | None:
        """The picture as a link, if there is room."""
        link = data_uri(content, "image/png")
        if len(link) > self.left:
            self.left_out += 1
            return None
        self.left -= len(link)
        return link


@dataclass(frozen=True)
class Flip:
    """An image of a row that was lost or won. picture: the id of its picture in the page."""

    picture: str
    lost: bool
    label: str
    before: str
    after: str


@dataclass(frozen=True)
class Changed:
    """What changed in a row. id: of its part of the page."""

    id: str
    row: Row
    lost: Sequence[tuple[str, int]]  # classes that lose most, and how many images
    won: Sequence[tuple[str, int]]
    flips: Sequence[Flip]
    is_open: bool


@dataclass
class Showcase:
    """The pictures of a page. flipped: pictures by id, each embedded once however many rows show it."""

    changed: list[Changed] = field(default_factory=list)
    flipped: dict[str, str] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0


def showcase(run: Run, folders: Sequence[Path], most_bytes: int, recommended: Sequence[Row]) -> Showcase:
    """The pictures of a run that fit. folders: of the run, or of the runs that it joins."""
    found, room = Showcase(), Room(most_bytes)
    places: dict[int, Path] = {}
    for folder in reversed(folders):
        places |= dict.fromkeys(drawn_in(folder / PICTURES), folder)
    for i, row in enumerate(run.rows[1:], 1):
        changes = run.predictions.changes(UNREDUCED, row.name)
        if changes:
            shown = [_flip(run, each) for each in chosen(changes, places) if _embed(found, room, places, each)]
            lost, won = ([(_name(run, n), count) for n, count in common(changes, kind)] for kind in (True, False))
            is_open = row in recommended
            found.changed.append(Changed(f"changed-{i}", row, lost[:MOST_CLASSES], won[:MOST_CLASSES], shown, is_open))
    found.samples = [each for sample in run.pictures for each in _sample(sample, folders, room)]
    found.left_out = room.left_out
    return found


def _embed(found: Showcase, room: Room, places: dict[int, Path], change: Change) -> bool:
    """Whether the page has the picture of an image; embed it if there is one and room for it."""
    name = f"image-{change.index}"
    if name not in found.flipped and change.index in places:
        link = room.take(picture_bytes(places[change.index], f"{PICTURES}/{picture_of(change.index)}"))
        if link is not None:
            found.flipped[name] = link
    return name in found.flipped


def _flip(run: Run, change: Change) -> Flip:
    names = (_name(run, number) for number in (change.label, change.before, change.after))
    return Flip(f"image-{change.index}", change.lost, *names)


def _name(run: Run, number: int) -> str:
    return run.classes.get(str(number), f"class {number}")


def _sample(sample: Any, folders: Sequence[Path], room: Room) -> Iterator[dict[str, Any]]:
    """A sample with its pictures, and the tracks that fit."""
    image = room.take(picture_bytes(folders[sample.get("folder", 0)], sample["image"]))
    if image is None:
        return
    tracks = []
    for track in sample["tracks"]:
        folder = folders[track.get("folder", 0)]
        panels = [(room.take(picture_bytes(folder, panel["file"])), panel["caption"]) for panel in track["panels"]]
        if all(link is not None for link, _ in panels):
            tracks.append({**track, "look": look_of(track["method"]), "panels": panels})
    yield {**sample, "image": image, "tracks": tracks}
