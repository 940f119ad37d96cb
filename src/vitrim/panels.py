"""A page of pictures: rows of panels under their titles.

Shape letters: Y X pixels, 3 colours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .method_looks import look_of
from .store import replacing
from .text import shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]

SUFFIXES = (".png", ".svg", ".pdf")
SHORT_SIDE = 400  # a picture has at least so many pixels; it is enlarged by whole numbers
PANEL, GAP, METHOD_GAP, HEAD, FOOT, MARGIN = 2.0, 0.06, 0.22, 0.52, 0.32, 0.12  # inches


@contextmanager
def picture_file(path: Path | str) -> Iterator[Path]:
    """A file that replaces `path` at the end. Refuses unknown suffixes and missing folders."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a picture must be a {' or '.join(SUFFIXES)} file, not {path.name!r}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {str(path.parent)!r} to write {path.name} into.")
    with replacing(path) as new:
        yield new


def check_images(images: Sequence[Image.Image]) -> None:
    """ValueError unless there are images, all of one size."""
    if not isinstance(images, Sequence) or not images or not all(isinstance(each, Image.Image) for each in images):
        raise ValueError("a picture needs a list of at least one image of Pillow, as the model sees it.")
    if len({image.size for image in images}) > 1:
        raise ValueError("the images of a picture must have one size, as the model sees them: these differ.")
    if min(images[0].size) < 1:
        raise ValueError("an image without pixels cannot be drawn.")


def enlarged(image: Image.Image, short_side: int) -> Pixels:
    """The image's pixels, repeated until the shorter side has at least that many."""
    times = max(1, -(-short_side // min(image.size)))
    pixels_YX3 = np.asarray(image.convert("RGB"))
    return pixels_YX3.repeat(times, axis=0).repeat(times, axis=1)


def per_pixel(patches: NDArray[Any], pixels_YX3: Pixels) -> NDArray[Any]:
    """Repeat values per patch, [rows, columns, ...], for all pixels of the patch."""
    y, x = (np.arange(size) * num // size for size, num in zip(pixels_YX3.shape[:2], patches.shape[:2], strict=True))
    return patches[np.ix_(y, x)]


def arrange(rows: Sequence[Sequence[Pixels]], first: str, titles: Mapping[str, Sequence[str]], caption: str) -> Figure:
    """Panels with one pixel per dot of the figure, under the methods' names, rules and titles."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    tall = PANEL * rows[0][0].shape[0] / rows[0][0].shape[1]
    lefts = [MARGIN]
    for columns in titles.values():
        lefts += [lefts[-1] + PANEL + METHOD_GAP + i * (PANEL + GAP) for i in range(len(columns))]
    width, height = lefts[-1] + PANEL + MARGIN, HEAD + len(rows) * (tall + GAP) + FOOT
    figure = Figure(figsize=(width, height), dpi=rows[0][0].shape[1] / PANEL, facecolor="white")

    def write(left: float, down: float, text: str, **look: Any) -> None:
        figure.text(left / width, 1 - down / height, text, parse_math=False, **look)

    small: dict[str, Any] = {"fontsize": 8, "color": "#555555"}
    for r, row in enumerate(rows):
        bottom = height - HEAD - r * (tall + GAP) - tall
        for left, pixels_YX3 in zip(lefts, row, strict=True):
            axes = figure.add_axes((left / width, bottom / height, PANEL / width, tall / height))
            axes.imshow(pixels_YX3, interpolation="none", aspect="auto")
            axes.set_axis_off()
    write(lefts[0], HEAD - 0.07, first, **small)
    write(lefts[0], height - 0.12, caption, **small)
    at = 1
    for method, columns in titles.items():
        for left, title in zip(lefts[at:], columns, strict=False):
            write(left, HEAD - 0.07, title, **small)
        left, right, y = lefts[at], lefts[at + len(columns) - 1] + PANEL, 1 - (HEAD - 0.22) / height
        label = shown(method)
        fontsize = min(10.0, 90 * (right - left) / max(1, len(label)))  # so that a long name fits over its columns
        write(left, HEAD - 0.28, label, fontsize=fontsize, fontweight="bold", color="#111111")
        color = look_of(method.partition(" ")[0]).light
        figure.add_artist(Line2D((left / width, right / width), (y, y), linewidth=1.4, color=color))
        at += len(columns)
    return figure
