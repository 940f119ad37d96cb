"""An image file becomes upright 8-bit pixels, or is refused. Hidden files are ignored."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrim.measure.images import ImageDataError, list_files, list_images, open_image

RAMP = np.linspace(0, 65535, 64).reshape(8, 8)


def save(path: Path, image: Image.Image | None = None, **settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (4, 4))).save(path, **settings)
    return path


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("16 bits.png", RAMP.astype(np.uint16)),
        ("16 bits.tif", RAMP.astype(np.uint16)),
        ("32 bits.tif", RAMP.astype(np.int32)),
        ("float.tif", (RAMP / 65535).astype(np.float32)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_deeper_pixels_become_8_bits(tmp_path: Path, name: str, values: np.ndarray, channels: int) -> None:
    image = open_image(save(tmp_path / name, Image.fromarray(values)), channels)
    assert np.abs(np.asarray(image.convert("L"), float) - RAMP / 257).max() <= 0.51


def test_16_bits_of_the_other_byte_order_and_of_a_graymap_are_read(tmp_path: Path) -> None:
    words = RAMP.astype(">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 8 8 65535\n" + words.tobytes())
    save(tmp_path / "b.tif", Image.frombytes("I;16B", (8, 8), words.tobytes()))
    for name in ("a.pgm", "b.tif"):
        assert np.abs(np.asarray(open_image(tmp_path / name, 1), float) - RAMP / 257).max() <= 0.51


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 70000]], np.int32), "32 bits.* 0 to 70000"),
        (np.array([[-1, 70]], np.int32), "32 bits.* -1 to 70"),
        (np.array([[0, 200]], np.int32), "32 bits.* 0 to 200"),
        (np.array([[0, 255.0]], np.float32), "float.* 0 to 255"),
        (np.array([[0, np.nan]], np.float32), "float.* nan to nan"),
    ],
)
def test_pixels_of_an_unknown_range_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    with pytest.raises(ImageDataError, match=rf"odd\.tif.*{message}.* 8 bits"):
        open_image(save(tmp_path / "odd.tif", Image.fromarray(values)), 1)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_photo_stands_as_it_was_held(tmp_path: Path, suffix: str) -> None:
    photo = Image.new("L", (40, 20), 0)
    photo.paste(255, (0, 0, 20, 20))  # its left half is white
    exif = photo.getexif()
    exif[0x0112] = 6  # to be turned clockwise
    image = open_image(save(tmp_path / f"phone.{suffix}", photo.convert("RGB"), exif=exif), 1)
    assert image.size == (20, 40)
    assert image.getpixel((10, 5)) > 250 and image.getpixel((10, 35)) < 5


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # as Pillow says
def test_damaged_exif_leaves_an_image_as_it_is(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("RGB", (40, 20)), exif=b"Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff")
    assert open_image(path, 3).size == (40, 20)


def test_a_large_picture_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # Pillow warns above, and refuses above twice as many
    assert open_image(save(tmp_path / "a.png", Image.new("L", (10, 10))), 1).size == (10, 10)
    with pytest.raises(ImageDataError, match=r"b\.png.*120 pixels.*smaller"):
        open_image(save(tmp_path / "b.png", Image.new("L", (20, 10))), 1)


@pytest.mark.parametrize("suffix", ["gif", "webp", "apng", "mpo", "tif"])
def test_the_first_of_several_pictures_counts(tmp_path: Path, suffix: str) -> None:
    first, second = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8), "black")
    kind = {"apng": "PNG", "tif": "TIFF"}.get(suffix, suffix.upper())
    path = save(tmp_path / f"a.{suffix}", first, format=kind, save_all=True, append_images=[second])
    assert open_image(path, 3).getpixel((4, 4)) == (255, 255, 255)
    assert list_files(tmp_path, 9) == (path,)


def test_hidden_folders_and_caches_are_left_out_at_every_depth(tmp_path: Path) -> None:
    for name in ("cat/1.png", "dog/sub/1.png", "cat/.thumbs/1.png", "cat/@eaDir/1.png", "dog/sub/.a/b/1.png"):
        save(tmp_path / name)
    for name in (".cache/2.png", "@eaDir/2.png"):
        save(tmp_path / name)
    images = sorted(file.relative_to(tmp_path).as_posix() for file in list_images(tmp_path, 2).files)
    files = [file.relative_to(tmp_path).as_posix() for file in list_files(tmp_path, 9)]
    assert images == files == ["cat/1.png", "dog/sub/1.png"]


def test_links_count_at_every_depth_and_loops_end(tmp_path: Path) -> None:
    store, data = tmp_path / "store", tmp_path / "data"
    save(store / "far" / "1.png")
    save(data / "cat" / "0.png")
    (data / "dog").symlink_to(store, target_is_directory=True)  # at the top
    (data / "cat" / "more").symlink_to(store / "far", target_is_directory=True)  # below
    (data / "cat" / "file.png").symlink_to(store / "far" / "1.png")
    (data / "cat" / "up").symlink_to(data / "cat", target_is_directory=True)
    (data / "cat" / "root").symlink_to(data, target_is_directory=True)
    found = list_images(data, 2)
    assert [found.name(i) for i in range(len(found))] == [
        *("cat/0.png", "cat/file.png", "cat/more/1.png"),
        "dog/far/1.png",
    ]


def test_a_link_to_nothing_is_named_not_left_out(tmp_path: Path) -> None:
    os.symlink(tmp_path / "gone.png", tmp_path / "a.png")
    (path,) = list_files(tmp_path, 9)
    with pytest.raises(ImageDataError, match=r"no file .*a\.png"):
        open_image(path, 3)
