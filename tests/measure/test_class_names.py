"""Folders are matched with classes by number or by the model's names. An assumed order is reported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import transformers
from PIL import Image

from vitrim.cli import app
from vitrim.measure.class_names import ClassNames, class_names_of
from vitrim.measure.folder import evaluate_folder, labelled_images
from vitrim.measure.images import ImageDataError, LabelledImages, list_images


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(folder / name / "a.png")
    return folder


def by_folder(found: LabelledImages) -> dict[str, int]:
    return {file.parent.name: label for file, label in zip(found.files, found.labels, strict=True)}


def known(*names: str) -> ClassNames:
    return ClassNames(names, "the model has it")


def of_transformers(*names: str) -> transformers.ViTForImageClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=8, id2label=dict(enumerate(names)))
    return transformers.ViTForImageClassification(config).eval()


@pytest.mark.parametrize("width", [0, 4])
def test_folders_named_by_whole_numbers_are_those_classes_and_some_are_enough(tmp_path: Path, width: int) -> None:
    numbers = (0, 2, 10, 11)
    found = list_images(tree(tmp_path, *(f"{i:0{width}}" for i in numbers)), 12)
    assert {int(name): label for name, label in by_folder(found).items()} == {i: i for i in numbers}
    assert found.assumption == ""


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("1", "2", "3"), "folder 3.*0 to 2"),
        (("7", "07"), "07 and 7.*class 7"),
        (("9" * 200,), "200|has 1 class folders"),
    ],
)
def test_numbers_that_are_no_classes_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ImageDataError, match=message):
        list_images(tree(tmp_path, *names), 3 if len(names) == 3 else 12)


def test_folders_are_matched_with_the_names_of_a_model_of_transformers(tmp_path: Path) -> None:
    model = of_transformers("Polar Bear", "ant-eater", "wild_cat", "dog")
    found = labelled_images(model, tree(tmp_path, "polar_bear", "Wild-Cat", "anteater"))
    assert by_folder(found) == {"polar_bear": 0, "Wild-Cat": 2, "anteater": 1}
    assert found.class_names == ("Polar Bear", "ant-eater", "wild_cat", "dog")
    assert "id2label" in found.labels_by


def test_a_model_s_names_that_are_numbers_come_before_their_values(tmp_path: Path) -> None:
    assert by_folder(labelled_images(of_transformers("7", "3"), tree(tmp_path, "3", "07"))) == {"3": 1, "07": 0}


@pytest.mark.parametrize("third", ["cow", "2"])
def test_folders_of_which_only_some_have_a_name_of_the_model_are_refused(tmp_path: Path, third: str) -> None:
    with pytest.raises(ImageDataError, match=f"{third}.*3 classes.*ant"):
        list_images(tree(tmp_path, "ant", "zebra", third), 3, names=known("zebra", "ant", "bee"))


def test_folders_of_which_none_has_a_name_of_the_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageDataError, match=r"ameise.*class.*zebra"):
        list_images(tree(tmp_path, "ameise", "biene"), 2, names=known("zebra", "ant"))


def test_two_folders_of_one_class_and_a_name_of_two_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageDataError, match=r"Ant and ant.*class 1"):
        list_images(tree(tmp_path / "twice", "ant", "Ant"), 2, names=known("bee", "ANT"))
    with pytest.raises(ImageDataError, match=r"'crane'.*classes 0 and 1"):
        list_images(tree(tmp_path / "crane", "crane"), 2, names=known("crane", "crane"))
    exact = list_images(tree(tmp_path / "exact", "us", "US"), 2, names=known("US", "us"))
    assert by_folder(exact) == {"US": 0, "us": 1}


def test_one_of_several_names_will_do_and_so_does_a_wordnet_id_before_it(tmp_path: Path) -> None:
    found = list_images(tree(tmp_path, "tench", "n01443537_goldfish", "n02102040 English springer"), 1000)
    assert by_folder(found) == {"tench": 0, "n01443537_goldfish": 1, "n02102040 English springer": 217}


def test_wordnet_ids_find_imagenet_s_classes_in_whatever_order_a_model_has_them(tmp_path: Path) -> None:
    names = timm.data.ImageNetInfo("imagenet-1k").label_descriptions()
    model = of_transformers(*reversed(names))
    found = labelled_images(model, tree(tmp_path, "n01440764", "n02102040"))
    assert by_folder(found) == {"n01440764": 999, "n02102040": 999 - 217}


def test_names_of_timm_and_of_torchvision_are_known_and_default_ones_are_not() -> None:
    model = timm.create_model("test_vit", num_classes=2)
    assert class_names_of(model, 2) is None
    model.pretrained_cfg |= {"label_names": ("zebra", "ant")}
    assert class_names_of(model, 2).find("Ant") == 1
    assert class_names_of(model, 3) is None  # another head than the names are for
    assert class_names_of(of_transformers("LABEL_0", "LABEL_1"), 2) is None


def test_a_list_of_names_beside_the_folders_gives_their_order_and_must_not_contradict_the_model(tmp_path: Path) -> None:
    tree(tmp_path, "ant", "zebra")
    (tmp_path / "classes.txt").write_text("zebra\nant\n")
    assert by_folder(list_images(tmp_path, 2)) == {"ant": 1, "zebra": 0}
    with pytest.raises(ImageDataError, match=r"classes.txt.*0.*'zebra'.*1"):
        list_images(tmp_path, 2, names=known("ant", "zebra"))


def test_a_table_may_give_the_model_s_names_and_its_list_of_names_must_not_contradict(tmp_path: Path) -> None:
    tree(tmp_path, "x")
    (tmp_path / "labels.csv").write_text("file,label\nx/a.png,Ant\n")
    assert list_images(tmp_path, 2, names=known("zebra", "ant")).labels == (1,)
    (tmp_path / "classes.txt").write_text("ant\nzebra\n")
    with pytest.raises(ImageDataError, match=r"classes.txt.*0.*'ant'.*1"):
        list_images(tmp_path, 2, names=known("zebra", "ant"))


def test_an_assumed_order_is_told_by_evaluate_and_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = of_transformers("LABEL_0", "LABEL_1")
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    data = tree(tmp_path / "data", "cat", "dog")
    with pytest.raises(SystemExit):
        app(["evaluate", "--model", f"transformers:{tmp_path / 'model'}", "--data", str(data)])
    assert re.search(r"note: .*assumed.*\(cat, dog\).*0 to 1", capsys.readouterr().out)

    own = transformers.ViTForImageClassification.from_pretrained(tmp_path / "model")  # as a user loads it
    score = evaluate_folder(own, data)
    assert score.num_images == 2
    assert "assumed" in score.assumption and "(cat, dog)" in score.assumption
