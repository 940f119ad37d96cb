"""Images of a folder are preprocessed for a model, with labels if there are any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import vitrim
from vitrim.measure.folder import prepared_files, prepared_folder
from vitrim.measure.model_input import eval_transform

Make = Callable[..., VisionTransformer]


def paint(folder: Path, *names: str) -> list[Path]:
    """Images of different shades below a folder."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (20 * i, 200, 100)).save(folder / name)
    return [folder / name for name in names]


def test_images_without_labels_come_as_the_model_takes_them(tiny_vit: Make, tmp_path: Path) -> None:
    model, files = tiny_vit(), paint(tmp_path, "a.png", "b.png", "c.png")
    batches = vitrim.load_images(model, tmp_path, batch_size=2)
    assert [len(batch.x_BCHW) for batch in batches] == [2, 1]
    assert torch.cat([batch.labels_B for batch in batches]).tolist() == [-1, -1, -1]
    assert batches.images.files == tuple(files)
    transform = eval_transform(model)
    wanted = torch.stack([transform(Image.open(file)) for file in files])
    assert torch.equal(torch.cat([batch.x_BCHW for batch in batches]), wanted)
    assert torch.equal(prepared_files(model, files), wanted)
    assert torch.equal(prepared_folder(model, tmp_path, 2), wanted[:2])


def test_labels_are_taken_where_there_are_any_unless_none_are_wanted(tiny_vit: Make, tmp_path: Path) -> None:
    paint(tmp_path, "0/a.png", "1/b.png", "1/c.png")
    (batch,) = vitrim.load_images(tiny_vit(num_classes=2), tmp_path)
    assert batch.labels_B.tolist() == [0, 1, 1]
    (batch,) = vitrim.load_images(tiny_vit(num_classes=2), tmp_path, labels=False, limit=2)
    assert batch.labels_B.tolist() == [-1, -1]
    (batch,) = vitrim.load_images(tiny_vit(num_classes=0), tmp_path)  # a tower tells no classes apart
    assert len(batch.x_BCHW) == 3
    paint(tmp_path / "more", "a.png", "b.png")
    (tmp_path / "more" / "labels.csv").write_text("file,label\nb.png,1\n")
    batches = vitrim.load_images(tiny_vit(num_classes=2), tmp_path / "more")
    assert (len(batches.images), batches.images.labels) == (1, (1,))


def test_an_assumed_order_of_classes_is_told(tiny_vit: Make, tmp_path: Path) -> None:
    paint(tmp_path, "cat/a.png", "dog/b.png")
    assert "order of the classes is assumed" in vitrim.load_images(tiny_vit(num_classes=2), tmp_path).images.assumption


def test_a_transform_of_ones_own_takes_the_place_of_the_models(tiny_vit: Make, tmp_path: Path) -> None:
    paint(tmp_path, "a.png")
    (batch,) = vitrim.load_images(tiny_vit(), tmp_path, transform=lambda _: torch.full((3, 8, 8), 7.0))
    assert batch.x_BCHW.shape == (1, 3, 8, 8)
    assert batch.x_BCHW.eq(7).all()


def test_accuracy_of_images_without_labels_is_refused(tiny_vit: Make, tmp_path: Path) -> None:
    paint(tmp_path, "a.png")
    with pytest.raises(vitrim.ImageDataError, match="no labels"):
        vitrim.evaluate_folder(tiny_vit(), tmp_path)
    with pytest.raises(vitrim.ImageDataError, match="no labels"):
        vitrim.load_images(tiny_vit(), tmp_path, labels=True)
    batches = vitrim.load_images(tiny_vit(), tmp_path)
    with pytest.raises(ValueError, match=r"-1.*labels"):
        vitrim.measure.evaluate.evaluate(tiny_vit(), batches)
    exits = vitrim.reduce_tokens(tiny_vit(depth=4), vitrim.METR(method=vitrim.EViT(layers=(1,)), exits=(1,)))
    with pytest.raises(ValueError, match=r"-1.*labels"):
        vitrim.record_exits(exits, batches)
    assert vitrim.cls_quality(tiny_vit(), batches)[0].num_images == 1  # labels play no part


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"limit": 0}, "limit"), ({"batch_size": 0}, "batch size"), ({"labels": False, "limit": True}, "limit")],
)
def test_numbers_that_make_no_sense_are_refused(
    tiny_vit: Make, tmp_path: Path, settings: dict[str, int], match: str
) -> None:
    paint(tmp_path, "a.png")
    with pytest.raises(ValueError, match=match):
        vitrim.load_images(tiny_vit(), tmp_path, **settings)


def test_a_folder_that_is_missing_or_empty_is_refused(tiny_vit: Make, tmp_path: Path) -> None:
    with pytest.raises(vitrim.ImageDataError, match="no folder"):
        vitrim.load_images(tiny_vit(), tmp_path / "missing")
    with pytest.raises(vitrim.ImageDataError, match="holds no images"):
        vitrim.load_images(tiny_vit(), tmp_path)
    with pytest.raises(TypeError, match="Module"):
        vitrim.load_images(VisionTransformer, tmp_path)
