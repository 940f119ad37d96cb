"""One image file as 8-bit pixels, upright, in gray or RGB.

Pillow saturates deeper pixels when it converts them, so they are brought to 8 bits here: 16 bits by 257, floats from
0..1. What has another range is refused, for nobody could say which of its values is white.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import VitrimError
from ..text import shown

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".gif", ".webp"))
SUFFIXES |= frozenset((".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2"))
CACHES = frozenset(("@eaDir", "__MACOSX"))  # of thumbnails, which systems put beside the images
MODES = {1: "L", 3: "RGB"}  # Pillow's mode by number of channels
WHITE_16 = 65535
LONGEST = 600  # characters of an error
SIXTEEN_BIT_FILES = ("PNG", "PPM")  # whose gray pixels of mode I are 16 bits wide


class ImageDataError(VitrimError, ValueError):
    """A folder of images, or one image, cannot be used; the message is one line, whatever the files are called."""

    def __init__(self, text: str):
        super().__init__(shown(text, LONGEST))


class Depth(ValueError):
    """Pixels whose range nobody knows."""


def open_image(path: Path, channels: int) -> Image.Image:
    """The image, fully decoded and upright, in gray (1 channel) or RGB (3). ImageDataError names one that cannot be."""
    if not path.exists():
        raise ImageDataError(f"there is no file {path}.")
    if not path.is_file():  # of a pipe or a device nobody sees the end
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise ImageDataError(f"{path} is {what}, and an image file is wanted.")
    if channels not in MODES:
        raise ValueError(f"images are read with 1 channel (gray) or 3 (RGB), and the model takes {channels}.")
    try:
        with warnings.catch_warnings():
            # Of many pixels, which Pillow refuses by itself from 179 million on, and of damaged EXIF, which is ignored.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _in_8_bits(_upright(image)).convert(MODES[channels])
    except Depth as error:
        raise ImageDataError(f"{path} {error}: save it with 8 bits a channel.") from error
    except Exception as error:  # decoders raise whatever the bytes lead them to
        reason = " ".join(str(error).split()) or type(error).__name__
        todo = "make it smaller" if isinstance(error, Image.DecompressionBombError) else "repair or remove it"
        raise ImageDataError(f"{path} is not an image that can be read ({reason}): {todo}.") from error


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is not meant to be looked at."""
    return name.startswith(".") or name in CACHES


def images_below(folder: Path) -> list[Path]:
    """Image files at every depth. Links are followed, but not back up; what is hidden is left out."""
    found = []
    for place, inside, names in os.walk(folder, onerror=_stop, followlinks=True):
        above = {os.path.realpath(each) for each in (Path(place), *Path(place).parents)}
        kept = (name for name in inside if not is_hidden(name))
        inside[:] = [name for name in kept if os.path.realpath(os.path.join(place, name)) not in above]
        found += [Path(place, name) for name in names if Path(name).suffix.lower() in SUFFIXES and not is_hidden(name)]
    return found


def _stop(error: OSError) -> None:
    raise ImageDataError(f"{error.filename} cannot be read ({error.strerror}).") from error


def _upright(image: Image.Image) -> Image.Image:
    """The image as its EXIF says it was held; as it is stored where nothing can be read there."""
    image.load()
    with suppress(Exception):  # a damaged EXIF says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _scaled(np.asarray(image), WHITE_16)
    if image.mode == "I":
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        sixteen = image.format in SIXTEEN_BIT_FILES or high > 255 or low == high == 0
        if low < 0 or high > WHITE_16 or not sixteen:
            raise Depth(f"has integers of 32 bits from {low} to {high}, and which of them is white is not told")
        return _scaled(values, WHITE_16)
    if image.mode == "F":
        values = np.asarray(image)
        darkest, brightest = float(values.min()), float(values.max())
        if not (darkest >= 0 and brightest <= 1):  # NaN too
            raise Depth(f"has floats from {darkest:g} to {brightest:g}, and only 0 to 1 says which of them is white")
        return _scaled(values, 1)
    # Pillow warns about a palette with transparency unless it becomes RGBA first.
    return image.convert("RGBA") if "transparency" in image.info else image


def _scaled(values: Any, white: int) -> Image.Image:
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))
