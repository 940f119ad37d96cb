"""The views of a run follow from its seed alone, however many processes and workers make them."""

import random
import shutil

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from small_run import make_images

from vitrim.measure.class_names import class_names_of
from vitrim.measure.folder import labelled_images
from vitrim.measure.images import ImageDataError, list_images
from vitrim.train.class_folders import classes_of, labelled_views
from vitrim.train.data import TrainingImages, ViewSampler, mix, seed_all, seeded, view_loader


def numbers(sampler):
    return [[view.number for view in part] for part in sampler]


def noisy(image: Image.Image) -> torch.Tensor:
    """A transform that draws from all three generators."""
    drawn = random.random() + float(np.random.rand()) + float(torch.rand(()))
    return torch.tensor(np.asarray(image), dtype=torch.float32).permute(2, 0, 1) + drawn


@pytest.fixture
def dataset(images):
    return TrainingImages(list_images(images / "train", 2), noisy, 3, seed=0)


def test_an_epoch_shows_every_image_once_and_the_next_in_another_order():
    sampler = ViewSampler(24, batch_size=8, num_steps=6)
    shown = [view.image for part in sampler for view in part]
    assert sorted(shown[:24]) == sorted(shown[24:]) == list(range(24))
    assert shown[:24] != shown[24:]
    assert len(sampler) == 6


def test_what_does_not_fill_a_batch_is_left_for_another_epoch():
    shown = [view.image for part in ViewSampler(10, batch_size=4, num_steps=20) for view in part]
    assert all(len(set(shown[i : i + 8])) == 8 for i in range(0, 80, 8))
    assert set(shown) == set(range(10))


def test_another_seed_is_another_order():
    orders = [[v.image for part in ViewSampler(24, batch_size=8, num_steps=3, seed=s) for v in part] for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_processes_and_parts_share_the_views_of_one():
    alone = list(ViewSampler(24, batch_size=8, num_steps=4))
    shared = [list(ViewSampler(24, batch_size=8, num_steps=4, rank=r, world_size=2, accumulate=2)) for r in (0, 1)]
    assert all(len(part) == 2 for parts in shared for part in parts)
    for step in range(4):
        together = [view for parts in shared for part in parts[2 * step : 2 * step + 2] for view in part]
        assert sorted(together) == sorted(alone[step])


def test_a_resumed_sampler_goes_on_where_the_other_was():
    whole = list(ViewSampler(24, batch_size=8, num_steps=7))
    assert list(ViewSampler(24, batch_size=8, num_steps=7, first_step=4)) == whole[4:]


def test_repeats_show_fewer_images_more_often_and_each_time_as_another_view():
    views = [view for part in ViewSampler(24, batch_size=8, num_steps=3, repeats=3) for view in part]
    counts = {image: sum(view.image == image for view in views) for image in {view.image for view in views}}
    assert len(views) == 24
    assert sorted(counts.values()) == [3] * 8
    assert len({view.number for view in views}) == 24


def test_batches_that_do_not_split_or_fill_are_refused():
    with pytest.raises(ValueError, match=r"9 images.*2 processes"):
        ViewSampler(24, batch_size=9, num_steps=1, world_size=2)
    with pytest.raises(ValueError, match=r"7 training images.*batch of 8"):
        ViewSampler(7, batch_size=8, num_steps=1)


def test_workers_make_the_same_views(dataset):
    sampler = ViewSampler(24, batch_size=8, num_steps=3)
    alone, others = list(view_loader(dataset, sampler, 0)), list(view_loader(dataset, sampler, 2))
    assert len(alone) == len(others) == 3
    for one, other in zip(alone, others, strict=True):
        assert torch.equal(one.x_BCHW, other.x_BCHW)
        assert torch.equal(one.labels_B, other.labels_B)
    assert not torch.equal(alone[0].x_BCHW[0], alone[0].x_BCHW[1])


def test_two_views_of_one_image_differ_and_the_same_view_does_not(dataset):
    sampler = ViewSampler(24, batch_size=8, num_steps=6)
    views = [view for part in sampler for view in part]
    again = [view for view in views if view.image == views[0].image]
    first, second = (dataset[view].x_CHW for view in again[:2])
    assert not torch.equal(first, second)
    assert torch.equal(first, dataset[again[0]].x_CHW)


def test_drawing_inside_leaves_the_generators_outside_as_they_were():
    seed_all(1)
    before = random.random(), float(np.random.rand()), float(torch.rand(()))
    seed_all(1)
    with seeded(5, 6):
        drawn = random.random(), float(np.random.rand()), float(torch.rand(()))
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == before != drawn


def test_seeds_that_are_near_each_other_mix_to_numbers_that_are_not():
    found = {mix(seed, step) for seed in range(20) for step in range(20)}
    assert len(found) == 400
    assert mix(1, 2) != mix(2, 1)
    assert all(0 <= number < 2**63 for number in found)


def test_what_the_classes_are_called_is_noted_in_the_model_where_sorted_folders_are_the_classes(tmp_path):
    model = timm.create_model("test_vit", num_classes=2)
    train, _ = labelled_views(make_images(tmp_path), model, 2, keeps_head=False)
    assert train.labels == (0,) * 12 + (1,) * 12
    assert class_names_of(model, 2).find("cat") == 1
    only_cats = shutil.copytree(tmp_path / "val" / "cat", tmp_path / "other" / "Cat").parent
    assert set(labelled_images(model, only_cats).labels) == {1}


def test_a_head_that_is_kept_keeps_its_classes_and_a_new_one_forgets_them(tmp_path):
    model = timm.create_model("test_vit", num_classes=2)
    model.pretrained_cfg |= {"label_names": ("cat", "bird")}
    data = make_images(tmp_path)
    kept, _ = labelled_views(data, model, 2, keeps_head=True)
    assert {file.parent.name: label for file, label in zip(kept.files, kept.labels, strict=True)} == {
        "cat": 0,
        "bird": 1,
    }
    labelled_views(data, model, 2, keeps_head=False)
    assert model.pretrained_cfg["label_names"] == ("bird", "cat")


def test_numbered_folders_train_as_their_classes(tmp_path):
    model = timm.create_model("test_vit", num_classes=12)
    data = make_images(tmp_path, train=1, val=1, classes=tuple(map(str, range(12))))
    for images in labelled_views(data, model, 12, keeps_head=False):
        assert [int(file.parent.name) for file in images.files] == list(images.labels)


def test_hidden_folders_and_links_count_in_training_as_elsewhere(tmp_path):
    make_images(tmp_path)
    (tmp_path / "train" / "cat" / ".thumbs").mkdir()
    for file in (tmp_path / "train" / "cat").glob("*.png"):
        file.rename(tmp_path / "train" / "cat" / ".thumbs" / file.name)
    with pytest.raises(ImageDataError, match=r"cat .*no images"):
        classes_of(tmp_path)
    (tmp_path / "train" / "cat" / "linked").symlink_to(tmp_path / "val" / "cat", target_is_directory=True)
    assert classes_of(tmp_path) == ["bird", "cat"]
