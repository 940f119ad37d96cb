"""Images become batches, in memory or decoded on each pass, with or without workers. Unreadable ones are named."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from vitrim import failures
from vitrim.measure import batches
from vitrim.measure.batches import image_batches
from vitrim.measure.images import ImageDataError, list_images

# Python 3.12 and 3.13 warn when a process with threads forks, which is how worker processes start there.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def brightness(image: Image.Image) -> Tensor:
    return torch.full((1, 2, 2), float(image.getpixel((0, 0))))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten gray images, 0 to 9 in brightness, of two classes."""
    for i in range(10):
        path = tmp_path / str(i // 5) / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4), i).save(path)
    return tmp_path


def load(folder: Path, **settings):
    return image_batches(list_images(folder, 2), brightness, 1, **({"batch_size": 4} | settings))


@pytest.mark.parametrize("settings", [{}, {"max_bytes": 0}, {"max_bytes": 0, "num_workers": 2}], ids=str)
def test_every_image_comes_once_and_in_order_however_often_it_is_read(folder, settings):
    batches = load(folder, **settings)
    for _ in range(2):
        x = torch.cat([batch.x_BCHW for batch in batches])
        assert x[:, 0, 0, 0].tolist() == list(range(10))
        assert torch.cat([batch.labels_B for batch in batches]).tolist() == [0] * 5 + [1] * 5
    assert [len(batch.labels_B) for batch in batches] == [4, 4, 2]
    assert batches.num_images == 10


def test_images_stay_in_memory_if_they_fit(folder):
    size = 10 * 4 * 4  # ten images of four fp32 pixels
    kept, streamed = load(folder, max_bytes=size), load(folder, max_bytes=size - 1)
    assert kept.in_memory
    assert not streamed.in_memory
    for file in folder.rglob("*.png"):
        file.unlink()
    assert sum(len(batch.labels_B) for batch in kept) == 10
    with pytest.raises(ImageDataError, match=r"0/0\.png"):
        list(streamed)


@pytest.mark.parametrize("settings", [{}, {"max_bytes": 0}, {"max_bytes": 0, "num_workers": 2}], ids=str)
def test_the_first_bad_image_is_an_error_of_one_line(folder, settings):
    (folder / "1" / "7.png").write_bytes(b"no image")
    with pytest.raises(ImageDataError, match=r"7\.png.*image.*--skip-bad") as error:
        list(load(folder, **settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{}, {"max_bytes": 0}, {"max_bytes": 0, "num_workers": 2}], ids=str)
def test_skipped_images_are_named_in_their_batch(folder, settings):
    for name in ("0/0.png", "1/7.png"):
        (folder / name).write_bytes(b"no image")
    batches = list(load(folder, skip_bad=True, **settings))
    assert [batch.skipped for batch in batches] == [("0/0.png",), ("1/7.png",), ()]
    assert torch.cat([batch.x_BCHW[:, 0, 0, 0] for batch in batches]).tolist() == [1, 2, 3, 4, 5, 6, 8, 9]


@pytest.mark.parametrize("given", [None, torch.ones(2, 2), Image.new("L", (4, 4)), [1]])
def test_a_transform_that_makes_no_image_is_told_and_not_taken_for_a_bad_file(folder, given):
    with pytest.raises(ValueError, match=r"transform made .* \[C, H, W\]"):
        list(image_batches(list_images(folder, 2), lambda _: given, 1, skip_bad=True))


def test_a_transform_that_makes_images_of_several_shapes_is_told(folder):
    growing = iter(range(1, 100))
    with pytest.raises(ValueError, match="several shapes"):
        list(image_batches(list_images(folder, 2), lambda _: torch.ones(1, 2, next(growing)), 1, num_workers=0))


def test_an_error_in_a_worker_process_is_told_without_its_traceback(folder):
    def odd(_: Image.Image) -> Tensor:
        raise KeyError("crop_pct")

    for transform, words in ((odd, "KeyError: 'crop_pct'"), (lambda _: None, "the transform made NoneType of 0/0.png")):
        batches = image_batches(list_images(folder, 2), transform, 1, num_workers=1, max_bytes=0)
        with pytest.raises(ValueError, match=words) as error:
            list(batches)
        assert "\n" not in str(error.value)


def test_workers_end_with_a_pass_that_fails_or_is_left(folder):
    """Left to the garbage collector, each would be waited for."""
    before = set(multiprocessing.active_children())
    left = iter(load(folder, max_bytes=0, num_workers=1))
    next(left)
    assert set(multiprocessing.active_children()) > before
    left.close()
    assert set(multiprocessing.active_children()) == before
    (folder / "0" / "0.png").write_bytes(b"")
    with pytest.raises(ImageDataError) as error:
        list(load(folder, max_bytes=0, num_workers=1))
    assert error.traceback and set(multiprocessing.active_children()) == before


def test_a_batch_may_be_skipped_as_a_whole(folder):
    for name in "0123":
        (folder / "0" / f"{name}.png").write_bytes(b"")
    first = next(iter(load(folder, skip_bad=True)))
    assert len(first.labels_B) == 0
    assert len(first.skipped) == 4


def test_progress_counts_images_skipped_ones_too(folder):
    (folder / "0" / "0.png").write_bytes(b"")
    seen = []
    load(folder, skip_bad=True, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_images_are_transformed_by_one_thread_and_the_number_of_threads_comes_back(folder):
    seen = []

    def watch(image):
        seen.append(torch.get_num_threads())
        return brightness(image)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(image_batches(list_images(folder, 2), watch, 1, max_bytes=0))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


def test_a_batch_size_below_one_is_refused(folder):
    with pytest.raises(ValueError, match=r"batch size.*at least 1.*0"):
        load(folder, batch_size=0)


@pytest.mark.parametrize("batch_size", [1.5, "4", True])
def test_a_batch_size_of_another_kind_is_refused(folder, batch_size):
    with pytest.raises(ValueError, match=r"batch size.*whole number"):
        load(folder, batch_size=batch_size)


def test_reading_images_draws_nothing_from_the_callers_generators(folder):
    before = torch.get_rng_state()
    assert sum(len(batch.labels_B) for batch in load(folder, max_bytes=0)) == 10
    assert torch.equal(torch.get_rng_state(), before)


def test_a_worker_that_ends_while_it_sends_is_told_as_a_lost_one():
    def broken():
        raise ConnectionResetError(104, "Connection reset by peer")
        yield

    with pytest.raises(RuntimeError) as error:
        batches._next(broken())
    assert "reads images was killed" in (failures.reason(error.value) or "")
