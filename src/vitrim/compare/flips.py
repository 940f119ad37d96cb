"""Small pictures of images whose answer a reduced model loses or wins, for the report."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from ..measure.images import ImageDataError, LabelledImages, open_image
from ..store import replacing
from .predictions import Change, Predictions

SIDE = 96  # pixels
COLORS = 64
MOST_LOST, MOST_WON = 5, 3  # pictures for a row
MOST = 60  # pictures of a run; rows share them


def picture_of(index: int) -> str:
    """The name of an image's picture."""
    return f"image-{index}.png"


def chosen(changes: Sequence[Change], drawn: Collection[int]) -> list[Change]:
    """A few images of a row: those that have a picture first, then evenly spread over the others."""
    lost, won = ([each for each in changes if each.lost is kind] for kind in (True, False))
    return _few(lost, drawn, MOST_LOST) + _few(won, drawn, MOST_WON)


def drawn_in(folder: Path) -> set[int]:
    """The images that have a picture."""
    names = (path.stem.removeprefix("image-") for path in folder.glob("image-*.png"))
    return {int(name) for name in names if name.isdecimal()}


def save_flips(changes: Sequence[Change], predictions: Predictions, images: LabelledImages, folder: Path) -> None:
    """Save the pictures of a row that are missing."""
    drawn = drawn_in(folder)
    places = {images.name(i): file for i, file in enumerate(images.files)}
    missing = [each for each in chosen(changes, drawn) if each.index not in drawn]
    for each in missing[: max(0, MOST - len(drawn))]:
        file = places.get(predictions.files[each.index])
        if file is not None:
            _save(file, folder / picture_of(each.index))


def _few(changes: Sequence[Change], drawn: Collection[int], most: int) -> list[Change]:
    known = [each for each in changes if each.index in drawn]
    others = [each for each in changes if each.index not in drawn]
    room = max(0, most - len(known))
    return _spread(known, most) + _spread(others, room)


def _spread(changes: Sequence[Change], most: int) -> list[Change]:
    if len(changes) <= most:
        return list(changes)
    return [changes[i * len(changes) // most] for i in range(most)]


def _save(file: Path, path: Path) -> None:
    try:
        image = open_image(file, 3)
    except ImageDataError:  # evaluation has read it, but it may be gone since
        return
    how = Image.Resampling.NEAREST if min(image.size) < SIDE else Image.Resampling.LANCZOS
    with replacing(path) as new:
        ImageOps.fit(image.convert("RGB"), (SIDE, SIDE), how).quantize(COLORS).save(new, optimize=True)


def common(changes: Iterable[Change], lost: bool) -> list[tuple[int, int]]:
    """Classes with the most images lost or won, and how many."""
    counts: dict[int, int] = {}
    for each in changes:
        if each.lost is lost:
            counts[each.label] = counts.get(each.label, 0) + 1
    return sorted(counts.items(), key=lambda pair: -pair[1])
