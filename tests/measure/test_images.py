"""Labelled images are found, sampled and opened. Errors take one line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from image_files import save

from vitrim.measure.images import ImageDataError, list_files, list_images


def tree(folder: Path, classes: dict[str, int]) -> Path:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            save(folder / name / f"{i}.png")
    return folder


def table(folder: Path, text: str, files: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    for name in files:
        save(folder / name)
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return folder


def refused(folder: Path, match: str, num_classes: int = 2, **settings) -> None:
    with pytest.raises(ImageDataError, match=match) as error:
        list_images(folder, num_classes, **settings)
    assert "\n" not in str(error.value)


def test_a_table_gives_files_and_labels(tmp_path):
    found = list_images(table(tmp_path, "file,label\na.png,1\nb.png,0\n"), 2)
    assert found.files == (tmp_path / "b.png", tmp_path / "a.png")
    assert found.labels == (0, 1)
    assert found.class_names is None
    assert len(found) == 2


def test_files_of_a_table_may_lie_in_a_folder_called_images(tmp_path):
    found = list_images(table(tmp_path, "file,label\na.png,1\nsub/b.png,0\n", ("images/a.png", "images/sub/b.png")), 2)
    assert [found.name(i) for i in range(2)] == ["images/sub/b.png", "images/a.png"]


def test_a_table_with_byte_order_mark_spaces_and_empty_lines_is_read(tmp_path):
    found = list_images(table(tmp_path, "\ufefffile, label\r\na.png , 1\r\n\r\n,\r\nb.png,0\r\n"), 2)
    assert found.labels == (0, 1)


@pytest.mark.parametrize("name_file", ["classes.txt", "synset_words.txt"])
def test_class_names_are_read_without_wordnet_ids(tmp_path, name_file):
    table(tmp_path, "file,label\na.png,1\n")
    (tmp_path / name_file).write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\n", encoding="utf-8")
    assert list_images(tmp_path, 2).class_names == ("tench, Tinca tinca", "goldfish")


def test_sub_folders_are_classes_in_sorted_order(tmp_path):
    found = list_images(tree(tmp_path, {"dog": 2, "cat": 1}), 2)
    assert found.labels == (0, 1, 1)
    assert found.class_names == ("cat", "dog")
    assert found.files[0] == tmp_path / "cat" / "0.png"


def test_nested_and_upper_case_images_count_and_other_files_do_not(tmp_path):
    tree(tmp_path, {"cat": 0, "dog": 1})
    save(tmp_path / "cat" / "deep" / "A.JPEG")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    save(tmp_path / "cat" / "._A.png")
    (tmp_path / ".cache").mkdir()
    assert list_images(tmp_path, 2).labels == (0, 1)


def test_an_empty_class_folder_keeps_its_index(tmp_path):
    assert list_images(tree(tmp_path, {"a": 1, "b": 0, "c": 1}), 3).labels == (0, 2)


def test_some_wordnet_folders_are_enough_for_the_imagenet_classes(tmp_path):
    found = list_images(tree(tmp_path, {"n02102040": 1, "n01440764": 1}), 1000)
    assert found.labels == (0, 217)  # tench, English springer
    assert found.class_names is not None
    assert len(found.class_names) == 1000
    assert "tench" in found.class_names[0]


def test_as_many_wordnet_folders_as_classes_are_taken_in_sorted_order(tmp_path):
    assert list_images(tree(tmp_path, {"n02102040": 1, "n01440764": 1}), 2).labels == (0, 1)


def test_the_larger_imagenet_label_sets_are_known(tmp_path):
    found = list_images(tree(tmp_path, {"n01440764": 1}), 11821)
    assert "tench" in found.class_names[found.labels[0]]


def test_a_limit_takes_an_even_sample_of_all_classes(tmp_path):
    tree(tmp_path, {"a": 10, "b": 10, "c": 10})
    found = list_images(tmp_path, 3, limit=6)
    assert Counter(found.labels) == {0: 2, 1: 2, 2: 2}
    assert found == list_images(tmp_path, 3, limit=6)
    assert list_images(tmp_path, 3, limit=1000).files == list_images(tmp_path, 3).files


def test_a_limit_spreads_over_classes_in_whatever_order_the_table_lists_them(tmp_path):
    names = tuple(f"{i}.png" for i in range(12))
    rows = "".join(f"{name},{i % 3}\n" for i, name in enumerate(names))
    assert list_images(table(tmp_path, "file,label\n" + rows, names), 3, limit=3).labels == (0, 1, 2)


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(tmp_path, limit):
    with pytest.raises(ValueError, match=f"at least 1.* {limit}"):
        list_images(tree(tmp_path, {"a": 1}), 1, limit=limit)


def test_a_missing_folder_is_named(tmp_path):
    refused(tmp_path / "nowhere", "no folder .*nowhere")


def test_a_file_is_not_a_folder(tmp_path):
    refused(save(tmp_path / "a.png"), "a.png is a file")


def test_an_empty_folder_is_refused(tmp_path):
    refused(tmp_path, "no images.*labels.csv")


def test_class_folders_without_images_are_refused(tmp_path):
    refused(tree(tmp_path, {"a": 0, "b": 0}), "no images")


def test_images_without_labels_are_refused(tmp_path):
    save(tmp_path / "a.png")
    refused(tmp_path, "no labels")


def test_train_and_val_folders_are_pointed_to(tmp_path):
    tree(tmp_path, {"train": 1, "val": 1})
    refused(tmp_path, "train and val.*pass .*val")


def test_another_number_of_class_folders_is_refused(tmp_path):
    tree(tmp_path, dict.fromkeys("abcde", 1))
    refused(tmp_path, r"5 class folders \(a, b, c, .*1000 classes", num_classes=1000)


def test_a_wordnet_folder_outside_the_label_set_is_named(tmp_path):
    tree(tmp_path, {"n01440764": 1, "n99999999": 1})
    refused(tmp_path, "n99999999.*1000 ImageNet classes", num_classes=1000)


@pytest.mark.parametrize("text", ["", "name,class\na.png,1\n", "a.png,1\n", "file,label,extra\na.png,1,2\n"])
def test_a_table_needs_its_header(tmp_path, text):
    refused(table(tmp_path, text), "begin.*file,label")


def test_a_table_without_rows_is_refused(tmp_path):
    refused(table(tmp_path, "file,label\n"), "no images")


@pytest.mark.parametrize("label", ["2", "-1", "cat", "1.0", ""])
def test_a_label_that_is_no_class_is_named_with_its_line(tmp_path, label):
    text = f"file,label\na.png,1\nb.png,{label}\n"
    refused(table(tmp_path, text), f"labels.csv, line 3.*b.png.*'{label}'.*0 to 1")


def test_a_row_with_too_many_entries_is_named(tmp_path):
    refused(table(tmp_path, "file,label\na.png,1,2\n"), "line 2.* 3 entries")


def test_a_listed_file_that_is_missing_is_named(tmp_path):
    refused(table(tmp_path, "file,label\na.png,1\nc.png,0\n"), "line 3.*no file c.png")


def test_a_file_listed_twice_is_named(tmp_path):
    refused(table(tmp_path, "file,label\na.png,1\nb.png,1\na.png,0\n"), "line 4.*a.png.* line 2")


def test_a_file_listed_by_another_way_to_it_is_named(tmp_path):
    refused(table(tmp_path, "file,label\nsub/b.png,1\nsub/../sub/b.png,0\n", ("sub/b.png",)), "line 3: .*line 2")


@pytest.mark.parametrize("name", ["labels.csv", "classes.txt"])
def test_a_list_that_is_no_file_is_refused_and_not_overlooked(tmp_path, name):
    folder = tree(tmp_path / "data", {"0": 1, "1": 1})
    (folder / name).symlink_to(tmp_path / "moved")
    refused(folder, f"{name} is a broken link")
    (tmp_path / "moved").mkdir()
    refused(folder, f"{name} is a folder")


def test_a_table_that_is_not_text_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00file,label")
    refused(tmp_path, "UTF-8")


def test_class_names_must_be_as_many_as_the_classes(tmp_path):
    table(tmp_path, "file,label\na.png,1\n")
    (tmp_path / "classes.txt").write_text("only\n", encoding="utf-8")
    refused(tmp_path, "classes.txt.* 1 classes.* 2")


def test_the_shared_validation_images_are_found(imagenet_val):
    found = list_images(imagenet_val, 1000)
    assert len(found) == 1300
    assert len(set(found.labels)) == 725
    assert found.class_names[0].startswith("tench")
    few = list_images(imagenet_val, 1000, limit=300)
    assert len(set(few.labels)) > 200


def test_files_without_labels_are_listed_evenly(tmp_path: Path) -> None:
    folder = tree(tmp_path, {"a": 3, "b": 3})
    (folder / "notes.txt").write_text("no image")
    assert [path.relative_to(folder).as_posix() for path in list_files(folder, 3)] == ["a/0.png", "a/2.png", "b/1.png"]
    assert len(list_files(folder, 100)) == 6
    (tmp_path / "c").mkdir()
    with pytest.raises(ImageDataError, match="holds no images"):
        list_files(tmp_path / "c", 3)


def test_names_out_of_a_table_are_shown_on_one_line_and_short(tmp_path):
    refused(table(tmp_path, 'file,label\n"a\x1b[31m\n.png",1\n'), r"no file a\\x1b\[31m \.png in")
    (tmp_path / "labels.csv").write_text(f"file,label\na.png,{'9' * 5000}\n")
    with pytest.raises(ImageDataError, match=r"label.*a\.png") as error:
        list_images(tmp_path, 2)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("limit", [1.5, float("nan"), True, "9"])
def test_a_limit_of_another_kind_is_refused(tmp_path, limit):
    with pytest.raises(ValueError, match=r"limit.*whole number"):
        list_images(tree(tmp_path, {"0": 1, "1": 1}), 2, limit)
