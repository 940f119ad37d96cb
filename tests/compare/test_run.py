"""A comparison measures each configuration once, and continues where it stopped."""

from __future__ import annotations

import csv
import json
import os
import shutil
from dataclasses import asdict, replace

import pytest
from PIL import Image

from small_job import MODEL, small_job
from vitrim.backbones.reader import find_stack
from vitrim.compare import run as compare_module
from vitrim.compare.bench import UNREDUCED_KEY
from vitrim.compare.configuration import configurations
from vitrim.compare.identity import images_hash
from vitrim.compare.job import Watcher
from vitrim.compare.run import compare
from vitrim.loading.build import load_model
from vitrim.measure.folder import evaluate_folder
from vitrim.measure.images import ImageDataError, list_images
from vitrim.measure.macs import count_macs
from vitrim.measure.turns import Spread
from vitrim.train.class_folders import digest


class Counter(Watcher):
    """Remembers what was measured; stops like Ctrl-C after so many rows."""

    def __init__(self, stop_after=None):
        self.finished, self.steps, self.stop_after = [], set(), stop_after

    def works(self, key, step, done, total):
        assert 0 <= done <= total
        self.steps.add(step)

    def finishes(self, row):
        self.finished.append(row.key)
        if len(self.finished) == self.stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small job that has run."""
    folder = tmp_path_factory.mktemp("finished")
    compare(small_job(folder))
    return folder


def test_a_comparison_writes_rows_report_and_pictures(tmp_path):
    watcher = Counter()
    run = compare(small_job(tmp_path, ["evit", "tome"], [0.7, 0.5]), watcher)
    keys = [UNREDUCED_KEY, *((method, f"keep {rate}") for method in ("evit", "tome") for rate in (0.7, 0.5))]
    assert [row.key for row in run.rows] == watcher.finished == keys
    assert watcher.steps == {"images", "accuracy", "speed at batch 4", "speed at batch 1"}
    out = tmp_path / "out"
    assert [row["method"] for row in csv.DictReader((out / "results.csv").read_text().splitlines())] == [
        key[0] for key in keys
    ]
    assert len(json.loads((out / "results.json").read_text())["rows"]) == 5
    assert "<h1>test_vit with fewer tokens" in (out / "report.html").read_text()
    with Image.open(out / "pictures" / "0-evit-block1.png") as picture:
        assert picture.size == (256, 256)


def test_the_numbers_are_those_of_the_parts(tmp_path):
    job = small_job(tmp_path)
    first, reduced = compare(job).rows
    model = load_model(MODEL, job.checkpoint, img_size=job.img_size)
    assert first.top1 == evaluate_folder(model, job.data).top1
    assert first.gmacs == count_macs(model) / 1e9
    assert (first.drop, first.mac_ratio, first.speedup) == (0, 1, 1)
    assert reduced.drop == first.top1 - reduced.top1
    assert reduced.mac_ratio == pytest.approx(first.gmacs / reduced.gmacs)
    assert reduced.speedup.low <= reduced.speedup <= reduced.speedup.high
    assert reduced.tokens == (17, 10, 7, 5, 5, 5)
    assert reduced.settings["layers"] == (1, 2, 3)


def test_keeping_everything_changes_no_accuracy(tmp_path):
    first, kept = compare(small_job(tmp_path, keep_rates=[1.0])).rows
    assert (kept.top1, kept.top5, kept.gmacs, kept.drop) == (first.top1, first.top5, first.gmacs, 0)


def test_an_interrupted_job_goes_on_without_redoing_rows(tmp_path):
    job = small_job(tmp_path, ["evit", "tome"])
    before = Counter(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        compare(job, before)
    assert "evit" in (tmp_path / "out" / "report.html").read_text()
    after = Counter()
    run = compare(job, after)
    assert before.finished == [UNREDUCED_KEY, ("evit", "keep 0.5")]
    assert after.finished == [("tome", "keep 0.5")]
    assert [row.key for row in run.rows] == [*before.finished, *after.finished]
    assert [track["method"] for track in run.pictures[0]["tracks"]] == ["evit", "tome"]


def test_a_finished_job_loads_no_image_again(tmp_path, monkeypatch):
    job = small_job(tmp_path)
    rows = compare(job).rows
    monkeypatch.setattr(compare_module, "image_batches", lambda *_, **__: pytest.fail("decoded images"))
    (tmp_path / "out" / "report.html").unlink()
    assert [row.key for row in compare(job).rows] == [row.key for row in rows]
    assert (tmp_path / "out" / "report.html").exists()


def test_a_method_that_does_not_fit_gets_a_line_that_says_why_and_the_others_their_rows(tmp_path):
    job = small_job(tmp_path, configurations=configurations(["evit", "tome"], [0.5], r=[9]))
    run = compare(job)
    assert [row.key for row in run.rows] == [UNREDUCED_KEY, ("evit", "keep 0.5"), ("tome", "keep 0.5")]
    (refused,) = run.refused
    assert refused.key == ("tome", "r 9")
    assert "r = 9 in block 0 is too large" in refused.reason
    out = tmp_path / "out"
    assert json.loads((out / "results.json").read_text())["refused"] == [asdict(refused)]
    *_, last = csv.DictReader((out / "results.csv").read_text().splitlines())
    assert (last["method"], last["setting"], last["top1"], last["reason"]) == ("tome", "r 9", "", refused.reason)
    assert refused.not_measured in (out / "report.html").read_text()
    watcher = Counter()
    assert compare(job, watcher).refused == run.refused
    assert watcher.finished == []


def test_a_configuration_that_fails_while_it_is_measured_does_not_stop_the_others(tmp_path, monkeypatch):
    job, evaluate = small_job(tmp_path, ["evit", "tome"]), compare_module.evaluate

    def unfit(model, *args, **options):
        if find_stack(model) is not None and find_stack(model).stack.method.name == "evit":
            raise ValueError("the model's logits are not finite.")
        return evaluate(model, *args, **options)

    with monkeypatch.context() as patches:
        patches.setattr(compare_module, "evaluate", unfit)
        run = compare(job)
        assert [each.key for each in run.refused] == [("evit", "keep 0.5")]
        with pytest.raises(ValueError, match="not finite"):
            compare(small_job(tmp_path, ["evit"], output=tmp_path / "alone"))
    assert [row.key for row in run.rows] == [UNREDUCED_KEY, ("tome", "keep 0.5")]
    again = compare(job)
    assert (len(again.rows), again.refused) == (3, ())


def test_more_methods_and_rates_can_be_added_later(tmp_path):
    compare(small_job(tmp_path, ["evit", "tome"], [0.5]))
    watcher = Counter()
    run = compare(small_job(tmp_path, ["evit", "random"], [0.7, 0.5], command="vitrim compare more"), watcher)
    assert watcher.finished == [("evit", "keep 0.7"), ("random", "keep 0.7"), ("random", "keep 0.5")]
    assert [row.method for row in run.rows] == ["unreduced", "evit", "evit", "tome", "random", "random"]
    assert list(run.commands) == ["vitrim compare", "vitrim compare more"]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"limit": 3}, "number of images.* 6.* 3"),
        ({"batch_size": 2}, "batch size.* 4.* 2"),
        ({"dtype": "bf16"}, "dtype.* fp32.* bf16"),
        ({"img_size": 80}, "weights"),
        ({"seed": 1}, "seed.* 0.* 1"),
    ],
)
def test_another_run_is_refused_in_the_same_folder(finished, tmp_path, changes, difference):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match=f"another run.*{difference}"):
        compare(small_job(tmp_path, **changes))


def test_changed_labels_are_another_run(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    table = tmp_path / "images" / "labels.csv"
    table.write_text(table.read_text().replace("5.png,5", "5.png,7"))
    with pytest.raises(ValueError, match=r"another run.*images"):
        compare(small_job(tmp_path))


def test_the_place_of_the_data_does_not_matter(finished, tmp_path):
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "images", tmp_path / "elsewhere" / "images")
    watcher = Counter()
    compare(small_job(tmp_path, data=tmp_path / "elsewhere" / "images"), watcher)
    assert watcher.finished == []


def test_a_bad_image_stops_the_job_unless_it_may_be_skipped(tmp_path):
    job = small_job(tmp_path)
    (tmp_path / "images" / "3.png").write_bytes(b"no image")
    with pytest.raises(ImageDataError, match=r"3\.png.*image"):
        compare(job)
    run = compare(small_job(tmp_path, skip_bad=True, output=tmp_path / "skipping"))
    assert list(run.skipped_files) == ["3.png"]
    assert {(row.num_images, row.skipped) for row in run.rows} == {(5, 1)}
    assert "3.png" in (tmp_path / "skipping" / "report.html").read_text()


def test_nothing_is_written_before_everything_is_checked(tmp_path):
    job = small_job(tmp_path)
    (tmp_path / "images" / "labels.csv").write_text("file,label\n0.png,1000\n")
    with pytest.raises(ImageDataError, match=r"label.*0\.png.*'1000'"):
        compare(job)
    assert not (tmp_path / "out").exists()


def test_rows_tell_which_images_are_lost_and_won(tmp_path, monkeypatch):
    answers = iter(((0, 1, 2, 9, 9, 9), (0, 1, 9, 9, 9, 5)))
    evaluate = compare_module.evaluate
    monkeypatch.setattr(
        compare_module,
        "evaluate",
        lambda *args, **options: replace(evaluate(*args, **options), predicted=next(answers)),
    )
    run = compare(small_job(tmp_path))
    assert [(row.lost, row.won) for row in run.rows] == [(0, 0), (1, 1)]
    pictures = sorted(path.name for path in (tmp_path / "out" / "pictures").glob("image-*.png"))
    assert pictures == ["image-2.png", "image-5.png"]
    assert run.classes == {"2": "great white shark", "5": "electric ray", "9": "ostrich"}
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        assert [row["evit keep 0.5"] for row in csv.DictReader(file)] == list("019995")


def test_a_speed_is_measured_again_while_the_rounds_differ(tmp_path, monkeypatch):
    benchmark, ranges = compare_module.benchmark, iter((0.9, 0.5, 0.1, 0.0, 0.0, 0.0, 0.9, 0.8, 0.7, 0.0))

    def noisy(*args, **options):
        timings, width = benchmark(*args, **options), next(ranges)
        return {name: replace(each, speedup=Spread(1, 1, 1 + width)) for name, each in timings.items()}

    monkeypatch.setattr(compare_module, "benchmark", noisy)
    rows = compare(small_job(tmp_path, keep_rates=[0.9, 0.5])).rows
    assert [row.timings for row in rows] == [3, 1, 3]
    assert [row.speedup.high for row in rows] == pytest.approx([1.1, 1.0, 1.7])
    assert [row.noisy for row in rows] == [False, False, True]


def test_bf16_is_measured_in_bf16(tmp_path):
    _, row = compare(small_job(tmp_path, dtype="bf16")).rows
    _, exact = compare(small_job(tmp_path, output=tmp_path / "exact")).rows
    assert row.dtype == "bf16"
    assert row.peak_memory_mb < 0.7 * exact.peak_memory_mb


def test_rows_tell_how_diverse_the_last_tokens_are(tmp_path):
    unreduced, reduced = compare(small_job(tmp_path)).rows
    assert unreduced.diversity is None
    assert 0 < reduced.diversity < 1.5
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        assert [row["diversity"] for row in csv.DictReader(file)] == ["", f"{reduced.diversity:.4f}"]


def test_rows_tell_how_images_were_prepared_and_where_labels_come_from(tmp_path):
    rows = compare(small_job(tmp_path)).rows
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    for row in (*map(asdict, rows), *written):
        assert row["labels"] == "labels.csv"
        assert row["preparation"].startswith("timm: ") and "crop_pct 0.95" in row["preparation"]


def test_an_assumed_order_of_classes_is_told_in_every_output(tmp_path):
    job = small_job(tmp_path)
    data = tmp_path / "folders"
    for i in range(1000):
        (data / f"c{i:04}").mkdir(parents=True)
    shutil.copy(job.data / "0.png", data / "c0007")
    run = compare(replace(job, data=data))
    assert "order of the classes" in run.assumption and "(c0000, c0001, c0002, ...)" in run.assumption
    assert run.assumption in (job.output / "report.html").read_text()
    assert json.loads((job.output / "results.json").read_text())["assumption"] == run.assumption
    assert "assumed" in (job.output / "results.csv").read_text()


def test_a_name_that_is_no_utf8_is_a_name_like_any_other(tmp_path):
    for label in "01":
        (tmp_path / label).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / label / "a.png")
    before = list_images(tmp_path, 2)
    hashes = {images_hash(before), digest(before)}
    os.rename(before.files[0], os.path.join(os.fsencode(before.files[0].parent), b"\xff.png"))
    after = list_images(tmp_path, 2)
    assert not {images_hash(after), digest(after)} & hashes
