"""Read an image file as 8-bit pixels, upright, in gray or RGB.

Pillow saturates deeper pixels in a conversion, so they are scaled here: 16 bits by 1/257, floats from 0..1. Other
ranges are refused, because it is unknown which value is white.
"""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..core.notice import VitrimError
from ..text import shown

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".gif", ".webp"))
SUFFIXES |= frozenset((".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2"))
CACHES = frozenset(("@eaDir", "__MACOSX"))  # thumbnails that some systems store beside the images
MODES = {1: "L", 3: "RGB"}  # Pillow's mode by number of channels
WHITE_16 = 65535
LONGEST = 600  # characters of an error
SIXTEEN_BIT_FILES = ("PNG", "PPM")  # formats whose pixels of mode I have 16 bits


class ImageDataError(VitrimError, ValueError):
    """A folder of images, or one image, cannot be used. The message is one line, whatever the file names contain."""

    def __init__(self, text: str):
        super().__init__(shown(text, LONGEST))


class Depth(ValueError):
    """The range of the pixels is unknown."""


def open_image(path: Path, channels: int) -> Image.Image:
    """Decode an image, upright, in gray (1 channel) or RGB (3). Raises ImageDataError if it cannot be read."""
    if not path.exists():
        raise ImageDataError(f"there is no file {path}.")
    if not path.is_file():  # a pipe or a device may never end
        kind = "a folder" if path.is_dir() else "a pipe or a device"
        raise ImageDataError(f"{path} is {kind}, not an image file.")
    if channels not in MODES:
        raise ValueError(f"images have 1 channel (gray) or 3 (RGB), but the model takes {channels}.")
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, which it refuses from 179 million pixels on, and of damaged EXIF.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return _in_8_bits(_upright(image)).convert(MODES[channels])
    except Depth as error:
        raise ImageDataError(f"{path} {error}: save it with 8 bits a channel.") from error
    except Exception as error:  # decoders raise various errors
        reason = " ".join(str(error).split()) or type(error).__name__
        todo = "make it smaller" if isinstance(error, Image.DecompressionBombError) else "repair or remove it"
        raise ImageDataError(f"{path} is not an image that can be read ({reason}): {todo}.") from error


def is_hidden(name: str) -> bool:
    """Whether a file or folder with this name is to be ignored."""
    return name.startswith(".") or name in CACHES


def images_below(folder: Path) -> list[Path]:
    """Find image files at every depth, except hidden ones. Follows links, unless they lead back up."""
    found = []
    for parent, inside, names in os.walk(folder, onerror=_stop, followlinks=True):
        above = {os.path.realpath(each) for each in (Path(parent), *Path(parent).parents)}
        kept = (name for name in inside if not is_hidden(name))
        inside[:] = [name for name in kept if os.path.realpath(os.path.join(parent, name)) not in above]
        found += [Path(parent, name) for name in names if Path(name).suffix.lower() in SUFFIXES and not is_hidden(name)]
    return found


def _stop(error: OSError) -> None:
    raise ImageDataError(f"{error.filename} cannot be read ({error.strerror}).") from error


def _upright(image: Image.Image) -> Image.Image:
    """Rotate the image as its EXIF says. Leave it as stored if the EXIF is unreadable."""
    image.load()
    with suppress(Exception):  # the pixels of an image with damaged EXIF are fine
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
            raise Depth(f"has integers of 32 bits from {low} to {high}, so it is unknown which value is white")
        return _scaled(values, WHITE_16)
    if image.mode == "F":
        values = np.asarray(image)
        darkest, brightest = float(values.min()), float(values.max())
        if not (darkest >= 0 and brightest <= 1):  # NaN too
            raise Depth(
                f"has floats from {darkest:g} to {brightest:g}, not from 0 to 1, so it is unknown which value is white"
            )
        return _scaled(values, 1)
    # Pillow warns of a palette with transparency unless it is converted to RGBA first.
    return image.convert("RGBA") if "transparency" in image.info else image


def _scaled(values: Any, white: int) -> Image.Image:
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))
