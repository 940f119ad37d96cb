"""Image files of every kind open as gray or colour; what is no whole image is named."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from image_files import save
from PIL import Image

from vitrim.measure.images import ImageDataError, open_image


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
@pytest.mark.parametrize("stored", ["L", "RGB", "RGBA", "CMYK", "P", "1"])
def test_every_kind_of_image_opens_as_gray_or_colour(tmp_path, channels, mode, stored):
    path = tmp_path / ("a.tif" if stored == "CMYK" else "a.png")
    image = open_image(save(path, mode=stored), channels)
    assert (image.mode, image.size) == (mode, (8, 8))


def test_a_palette_with_transparency_opens_without_a_warning(tmp_path):
    image = Image.new("P", (4, 4))
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert open_image(tmp_path / "a.png", 3).mode == "RGB"


def test_another_number_of_channels_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"RGB.* 4"):
        open_image(save(tmp_path / "a.png"), 4)


def huge_png(path: Path, side: int) -> None:
    """A PNG whose header claims side x side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(header) - 4) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


@pytest.mark.parametrize("kind", ["truncated jpeg", "truncated png", "text", "empty", "bomb"])
def test_a_file_that_is_no_whole_image_is_named(tmp_path, kind):
    path = tmp_path / ("bad.jpg" if "jpeg" in kind else "bad.png")
    if kind.startswith("truncated"):
        save(path, size=(64, 64))
        path.write_bytes(path.read_bytes()[: -path.stat().st_size // 4])
    elif kind in ("text", "empty"):
        path.write_text("hello" if kind == "text" else "", encoding="utf-8")
    elif kind == "bomb":
        huge_png(path, 30_000)
    with pytest.raises(ImageDataError, match=r"bad\.(jpg|png).*image") as error:
        open_image(path, 3)
    assert "\n" not in str(error.value)


def test_a_missing_image_or_a_folder_in_its_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageDataError, match=r"no file .*absent\.png"):
        open_image(tmp_path / "absent.png", 3)
    with pytest.raises(ImageDataError, match="is a folder"):
        open_image(tmp_path, 3)


def test_pipes_and_devices_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "device.png"):  # of which nobody would see the end
        with pytest.raises(ImageDataError, match=rf"{name}.*pipe"):
            open_image(tmp_path / name, 3)


def test_a_damaged_exif_is_ignored_without_a_word(tmp_path, recwarn):
    damaged = b"Exif\0\0II*\0\x08\0\0\0\xff\xff"
    Image.new("RGB", (3, 2), 100).save(tmp_path / "a.png", exif=damaged)
    assert open_image(tmp_path / "a.png", 3).size == (3, 2)
    assert not recwarn.list
