"""Token pictures show the images as the model sees them."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from small_job import IMG_SIZE, MODEL, save_images
from vitrim import reduce_tokens
from vitrim.compare.pictures import choose_samples, class_name, save_samples, save_tracks
from vitrim.measure.images import list_images
from vitrim.measure.model_input import eval_transform, preparation_of
from vitrim.measure.preparation import as_seen


@pytest.fixture
def model():
    return timm.create_model(MODEL, img_size=IMG_SIZE).eval()


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_normalisation_is_undone(mode):
    channels = len(mode) if mode == "RGB" else 1
    model = timm.create_model(MODEL, img_size=IMG_SIZE, in_chans=channels)
    transform = eval_transform(model)
    image = Image.effect_noise((IMG_SIZE, IMG_SIZE), 60).convert(mode)
    seen = as_seen(transform(image), transform)
    assert seen.mode == mode
    crop = next(step for step in transform.transforms if type(step).__name__ == "CenterCrop")
    resize = next(step for step in transform.transforms if type(step).__name__ == "Resize")
    assert np.abs(np.asarray(seen, int) - np.asarray(crop(resize(image)), int)).max() <= 1


def test_samples_are_spread_and_readable(tmp_path, model):
    images = list_images(save_images(tmp_path / "images", 9), 1000)
    prepared = preparation_of(model)
    assert [s.label for s in choose_samples(images, prepared, 3)] == ["goldfish", "hammerhead", "cock"]
    (tmp_path / "images" / "4.png").write_bytes(b"no image")
    assert [s.name for s in choose_samples(images, prepared, 3)] == ["1.png", "7.png"]
    assert len(choose_samples(images, prepared, 99)) == 8


def test_the_first_of_a_classs_names_is_shown():
    assert class_name(("tench, Tinca tinca", "goldfish"), 0) == "tench"
    assert class_name(None, 3) == "class 3"


def test_a_track_has_the_predicted_class_and_a_few_blocks(tmp_path, model):
    images = list_images(save_images(tmp_path / "images", 4), 1000)
    samples = choose_samples(images, preparation_of(model), 2)
    folder = tmp_path / "pictures"
    folder.mkdir()
    entries = save_samples(samples, folder)
    assert [entry["image"] for entry in entries] == ["pictures/0.png", "pictures/1.png"]
    reduce_tokens(model, "tome", r=2)
    tracks = save_tracks(model, samples, None, ("tome", "r 2"), folder)
    x_BCHW = torch.stack([sample.x_CHW for sample in samples])
    assert [track["predicted"] for track in tracks] == [f"class {i}" for i in model(x_BCHW).argmax(1).tolist()]
    captions = [panel["caption"] for panel in tracks[0]["panels"]]
    assert captions == ["block 0: 15 tokens", "block 2: 11 tokens", "block 5: 5 tokens"]
    assert all((tmp_path / panel["file"]).is_file() for track in tracks for panel in track["panels"])


def test_a_method_that_reduces_nothing_has_no_panels(tmp_path, model):
    images = list_images(save_images(tmp_path / "images", 2), 1000)
    samples = choose_samples(images, preparation_of(model), 2)
    reduce_tokens(model, "evit", keep_rate=1.0)
    assert [track["panels"] for track in save_tracks(model, samples, None, ("evit", "keep 1"), tmp_path)] == [[], []]
