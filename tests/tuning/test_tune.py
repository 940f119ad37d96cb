"""`vitrim.tune` and its command: from a goal to a folder that every other command takes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import vitrim
from vitrim.cli import app
from vitrim.measure.paired import PairedLoss
from vitrim.measure.turns import Spread
from vitrim.models.embedded import demo_images
from vitrim.tuning.cost import Milliseconds
from vitrim.tuning.families import families
from vitrim.tuning.files import render
from vitrim.tuning.outcome import Row, Tuned
from vitrim.tuning.output import Output
from vitrim.tuning.stored import found_in

MODEL = "vitrim_fashion_tiny"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return demo_images(tmp_path_factory.mktemp("images") / "fashion")


@pytest.fixture(scope="module")
def tuned(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, Path]:
    """A search by multiply-adds, with its folder."""
    folder, model = tmp_path_factory.mktemp("tuned") / "new" / "out", vitrim.load_model(MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitrim.tuning.timing.ROUNDS", 2)
        patch.setattr("vitrim.tuning.bench.families", lambda spec: families(spec)[:4])
        found = vitrim.tune(model, images, gmacs=0.11, limit=40, tries=4, name=MODEL, output=folder)
    return found, folder


def test_what_is_found_meets_the_goal_and_is_held_against_methods_and_rivals(tuned: tuple[Tuned, Path]) -> None:
    found, _ = tuned
    assert found.cost <= 0.11 and found.best.gmacs == pytest.approx(found.cost)
    assert (found.num_searched, found.num_held_out, found.loss) == (20, 20, "accuracy")
    names = [row.name for row in found.rows]
    assert names[:2] == ["unreduced", f"{found.method}, tuned"]
    assert len({each["name"] for each in found.tried}) == 4 and found.num_tried == len(found.tried)
    for wanted in ("tome", "evit", "blocks", "px", "last MLP"):
        assert any(wanted in name for name in names), names
    unreduced, unread = found.rows[0], next(row for row in found.rows if "last MLP" in row.name)
    assert unreduced.divergence == 0 and unread.divergence < 1e-9 and unread.lost == 0


def test_the_folder_is_a_model_for_everything_else(tuned: tuple[Tuned, Path], images: Path, tmp_path: Path) -> None:
    found, folder = tuned
    assert sorted(path.name for path in folder.iterdir() if path.suffix) == [
        "README.md", "config.json", "model.safetensors", "report.html", "tuned.json",
    ]  # fmt: skip
    batch = next(iter(vitrim.load_images(vitrim.load_model(MODEL), images, limit=4))).x_BCHW
    by_name = vitrim.reduce_tokens(vitrim.load_model(MODEL), str(folder))
    with torch.no_grad():
        wanted = by_name(batch)
        assert torch.equal(vitrim.from_pretrained(folder)(batch), wanted)
    assert vitrim.count_macs(by_name) / 1e9 == pytest.approx(found.cost)
    with pytest.warns(UserWarning, match="from_pretrained"):  # all tokens, as of any folder with a reduction
        assert vitrim.method_of(vitrim.load_model(str(folder))) is None
    said = CliRunner().invoke(app, ["evaluate", "--model", str(folder), "--data", str(images), "--limit", "10"])
    assert said.exit_code == 0 and found.method in said.output
    file = tmp_path / "model.pt2"
    command = ["export", "--model", str(folder), "--images", str(images), "--to", "torch-export", "--output", str(file)]
    said = CliRunner().invoke(app, [*command, "--limit", "8", "--rounds", "0", "--batch-sizes", "2"])
    assert said.exit_code == 0, said.output
    assert file.exists()


def test_tuned_json_and_the_report_say_the_same(tuned: tuple[Tuned, Path]) -> None:
    found, folder = tuned
    content = json.loads((folder / "tuned.json").read_text())
    assert content["answer"] == found.answer and content["use"] == found.use
    assert [row["name"] for row in content["rows"]] == [row.name for row in found.rows]
    page = (folder / "report.html").read_text()
    for row in found.rows:
        assert row.name in page and f"{row.gmacs:.4f}" in page
    assert found.answer in page and page.count("<script") == 1
    assert "http" not in page.replace("http://www.w3.org", "")
    assert page.count('<svg class="chart"') == 2 and "use this</span>" in page


def test_the_report_is_made_again_from_the_folder(tuned: tuple[Tuned, Path], tmp_path: Path) -> None:
    found, folder = tuned
    assert render(found_in(folder)) == (folder / "report.html").read_text()
    said = CliRunner().invoke(app, ["report", str(folder), "--format", "markdown"])
    assert [line.split(" | ")[0] for line in said.output.splitlines()[2:4]] == [
        "| unreduced",
        f"| {found.rows[1].name}",
    ]
    content = json.loads((folder / "tuned.json").read_text())
    for change in ({"rows": []}, {"model": 3}, {"block_ms": 5}, {"schedule": [None, 2]}):
        (tmp_path / "tuned.json").write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=r"tuned\.json is not what"):
            found_in(tmp_path)


def test_the_line_to_use_runs(tuned: tuple[Tuned, Path]) -> None:
    found, _ = tuned
    model = vitrim.load_model(MODEL)
    exec(found.use, {"vitrim": vitrim, "model": model})
    assert vitrim.count_macs(model) / 1e9 == pytest.approx(found.cost)


def row(name: str, kind: str, speed: float, lost: int) -> Row:
    paired = PairedLoss(100 - lost, lost, 0, 0)
    return Row(name, kind, 0.5, Spread(speed, speed, speed), 10.0, 0.01, lost, paired.interval, paired)


def test_a_rival_that_is_faster_and_loses_less_is_named(tuned: tuple[Tuned, Path]) -> None:
    rows = [row("unreduced", "unreduced", 1, 0), row("ward, tuned", "tuned", 1.5, 3)]
    rivals = [row("20 px", "rival", 1.6, 2), row("24 px", "rival", 1.4, 1), row("9 blocks", "rival", 1.6, 4)]
    found = replace(tuned[0], rows=rows + rivals)
    assert [each.name for each in found.beaten_by()] == ["20 px"]
    assert "20 px" in render(found)


@pytest.mark.parametrize("goal", [{"speedup": 1.2}, {"max_loss": 20.0}])
def test_goals_of_speed_and_loss_lead_to_a_schedule(
    images: Path, goal: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrim.tuning.timing.ROUNDS", 1)
    monkeypatch.setattr("vitrim.tuning.bench.measure_table", lambda *given: dict.fromkeys(given[2], table))
    monkeypatch.setattr("vitrim.tuning.bench.SPEEDS", (1.1, 1.3))
    said: list[str] = []
    line = {100: 100.0, 1: 1.0}
    table = Milliseconds(line, line, dict.fromkeys(line, 2.0), rest=5.0, unreduced=5.0 + 2 * 12 * 100)
    found = vitrim.tune(vitrim.load_model(MODEL), images, **goal, limit=16, tries=1, progress=said.append)
    assert found.unit == "ms" and found.cost < found.unreduced_cost
    assert set(found.block_ms) == {"attention", "mlp", "reducing"}
    assert "time per block and number of patches" in said
    if "max_loss" in goal:
        assert any("cannot be told from 8 images" in note for note in found.notes)


@pytest.mark.parametrize(("classes", "wanted"), [(10, "answers changed, %"), (0, "similarity lost, %")])
def test_without_labels_or_classes_the_loss_is_of_something_else(
    images: Path, classes: int, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrim.tuning.timing.ROUNDS", 1)
    for file in sorted(images.rglob("*.png"))[:16]:
        shutil.copy(file, tmp_path)
    model = vitrim.load_model(MODEL)
    if classes == 0:
        model.reset_classifier(0)  # type: ignore[operator]
    found = vitrim.tune(model, tmp_path, gmacs=0.1, tries=1)
    assert found.what_is_lost == wanted
    assert (found.best.lost == pytest.approx(100 * found.best.divergence)) is (classes == 0)
    low, high = found.best.interval
    assert low <= found.best.lost <= high


def test_a_truncated_image_is_named_or_left_out(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrim.tuning.timing.ROUNDS", 1)
    for file in sorted(images.rglob("*.png"))[:17]:
        shutil.copy(file, tmp_path)
    (tmp_path / "bad.png").write_bytes(next(tmp_path.glob("*.png")).read_bytes()[:150])
    model = vitrim.load_model(MODEL)
    with pytest.raises(vitrim.ImageDataError, match=r"bad\.png"):
        vitrim.tune(model, tmp_path, gmacs=0.1, tries=0)
    found = vitrim.tune(model, tmp_path, gmacs=0.1, tries=0, skip_bad=True)
    assert found.num_searched + found.num_held_out == 17


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one goal"),
        (["--speedup", "1.5", "--gmacs", "1"], "2 are given"),
        (["--gmacs", "0.01", "--limit", "16"], "cannot be met: 0.0"),
        (["--gmacs", "0.1", "--limit", "3"], "at least 8 images"),
        (["--speedup", "1.5", "--by", "watts"], "time, macs"),
        (["--speedup", "1"], "above 1"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    said = CliRunner().invoke(app, ["tune", "--output", str(tmp_path / "out"), "--tries", "0", *arguments])
    assert said.exit_code == 2
    assert words in said.output.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"holds thesis\.tex"):
        Output(tmp_path).check()
    Output(tmp_path / "new").check()


def test_a_model_that_is_reduced_already_is_refused(images: Path) -> None:
    with pytest.raises(ValueError, match="restore"):
        vitrim.tune(vitrim.reduce_tokens(vitrim.load_model(MODEL), "evit"), images, speedup=1.5)


def test_a_folder_without_a_method_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tuned.json").write_text('{"method": 3}')
    with pytest.raises(ValueError, match="names no method"):
        vitrim.reduce_tokens(vitrim.load_model(MODEL), str(tmp_path))


def test_images_without_labels_have_a_goal_in_answers_that_change(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrim.tuning.timing.ROUNDS", 1)
    monkeypatch.setattr("vitrim.tuning.bench.SPEEDS", (1.1,))
    for file in sorted(images.rglob("*.png"))[:16]:
        shutil.copy(file, tmp_path)
    said: list[str] = []
    found = vitrim.tune(vitrim.load_model(MODEL), tmp_path, max_loss=50.0, by="macs", tries=0, progress=said.append)
    wanted = "The images have no labels, so 50 % of the answers may change"
    assert sum(line.startswith(wanted) for line in said) == 1 and found.notes[0].startswith(wanted)
    monkeypatch.setattr("vitrim.tuning.bench.Bench._measured_loss", lambda *_: 70.0)
    with pytest.raises(ValueError, match=r"loses at most 50 .* the best loses 70"):
        vitrim.tune(vitrim.load_model(MODEL), tmp_path, max_loss=50.0, by="macs", tries=0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"route": "onnx", "dtype": "bf16"}, "fp32 on the CPU"),
        ({"route": "onnx", "compile": True}, "without torch.compile"),
        ({"route": "tensorrt"}, "eager, torch-export, onnx"),
        ({"dtype": "float8"}, "fp32, bf16, fp16"),
        ({"batch_size": 0}, "at least 1"),
        ({"device": "cuda:7"}, "this machine has"),
    ],
)
def test_ways_to_run_that_are_none_are_refused(images: Path, settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        vitrim.tune(vitrim.load_model(MODEL), images, speedup=1.2, **settings)  # type: ignore[arg-type]


def test_an_empty_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    command = ["tune", "--output", str(tmp_path / "out"), "--images", str(tmp_path / "images"), "--speedup", "1.5"]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 2 and "images" in said.output.splitlines()[-1]
    assert not (tmp_path / "out").exists()
