"""The recipes that come with the library: what they say of themselves is so, and each kind of them trains."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import vitrim
from vitrim.backbones.reader import find_stack, read_backbone
from vitrim.loading.build import build_model
from vitrim.measure.budget.formula import reduced_macs
from vitrim.measure.macs import count_macs
from vitrim.measure.model_input import input_size_of
from vitrim.train.recipe import Recipe, load_recipe
from vitrim.train.start import start_model

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
IMAGENET = sorted((RECIPES / "imagenet").glob("*.py"))
ALL = [*IMAGENET, *sorted((RECIPES / "imagenette").glob("*.py"))]

every_recipe = pytest.mark.parametrize("path", ALL, ids=[path.stem for path in ALL])
every_imagenet_recipe = pytest.mark.parametrize("path", IMAGENET, ids=[path.stem for path in IMAGENET])


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def facts(path: Path) -> dict[str, str]:
    """'Paper': '...', 'MACs': '...' of a docstring."""
    return dict(re.findall(r"^(Paper|Expected|MACs|Cost|Run here) +(.+)$", docstring(path), re.MULTILINE))


@cache
def measured(model: str, img_size: int | None) -> tuple[nn.Module, int]:
    """The model without memory, and its multiply-adds."""
    with torch.device("meta"):
        net = build_model(model, img_size=img_size)
    return net, count_macs(net)


def test_there_are_recipes() -> None:
    assert len(IMAGENET) >= 20 and len(ALL) == len(IMAGENET) + 2


@every_recipe
def test_a_recipe_loads_and_says_how_to_run_it(path: Path) -> None:
    assert isinstance(load_recipe(path), Recipe)
    assert f"vitrim train recipes/{path.parent.name}/{path.name} --data" in re.sub(r"\s+", " ", docstring(path))


@every_imagenet_recipe
def test_an_imagenet_recipe_names_paper_expectation_and_cost(path: Path) -> None:
    found = facts(path)
    assert set(found) == {"Paper", "Expected", "MACs", "Cost", "Run here"}
    assert re.match(r"\d\d\.\d % top-1|not stated", found["Expected"])
    assert re.search(r"Table|Figure|official code", found["Paper"])
    assert found["Run here"] == "no."
    assert "torchrun --nproc-per-node" in docstring(path)


@every_imagenet_recipe
def test_the_multiply_adds_are_as_said(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.method is not None
    net, full = measured(recipe.model, recipe.img_size)
    spec = read_backbone(net).spec
    method = vitrim.create_method(recipe.method, **recipe.settings).build(spec)
    said = float(re.match(r"([\d.]+) G", facts(path)["MACs"])[1])
    assert reduced_macs(full, spec, method) / 1e9 == pytest.approx(said, rel=0.01)
    found = re.search(r"\(([\d.]+) in the paper\)", facts(path)["MACs"])
    if found:
        assert said == pytest.approx(float(found[1]), rel=0.05)


def test_the_table_in_the_readme_is_of_these_recipes() -> None:
    rows = re.findall(r"^\| `(\w+)\.py` \|.*\| (.+?) \| ([\d.]+ G) \|$", (RECIPES / "README.md").read_text(), re.M)
    wanted = [(path.stem, facts(path)) for path in IMAGENET]
    shown = {name: (expected, macs) for name, expected, macs in rows}
    assert shown == {
        name: (re.match(r"\d\d\.\d %|not stated", found["Expected"])[0], re.match(r"[\d.]+ G", found["MACs"])[0])
        for name, found in wanted
    }


TINY: dict[str, dict[str, Any]] = {  # 14 x 14 patches, as at 224 pixels, and as many blocks
    "deit": {"img_size": 28, "patch_size": 2, "embed_dim": 12, "depth": 12, "num_heads": 3},
    "mf": {"img_size": 28, "patch_size": 2, "embed_dim": 12, "depth": 12, "num_heads": 3},
    "lvvit": {"img_size": 56, "patch_size": 4, "embed_dim": 12, "depth": 16, "num_heads": 3, "stem_channels": 4},
}
KINDS = (
    *("evit_deit_small_finetune_30", "evit_lvvit_small_300", "tm_mf_deit_small_300", "bat_deit_small_300"),
    "metr_deit_small_2_3g_finetune_30",
)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The folder of a tiny model like the one of that name."""
    place = tmp_path_factory.mktemp("models")

    def folder(name: str) -> str:
        family = name.split("_")[0]
        if not (place / family).exists():
            with torch.random.fork_rng(devices=[]):
                vitrim.save_pretrained(timm.create_model(name, **TINY[family], num_classes=2), place / family)
        return str(place / family)

    return folder


def label_maps(data: Path, folder: Path) -> Path:
    """A map for each training image of the two classes."""
    for image in (data / "train").rglob("*.png"):
        path = folder / image.relative_to(data / "train").with_suffix(".safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        generator = torch.Generator().manual_seed(0)
        scores = torch.rand(1, 2, 6, 6, generator=generator) * 5
        save_file({"map": torch.stack([scores, torch.arange(2.0).view(1, 2, 1, 1).expand_as(scores)])[:, 0]}, path)
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_an_update_of_each_kind_of_recipe_runs(
    name: str, tiny_model: Callable[[str], str], tmp_path: Path, images: Path
) -> None:
    recipe = load_recipe(RECIPES / "imagenet" / f"{name}.py")
    small = tiny_model(recipe.model)
    start = tiny_model("deit_small_patch16_224") if recipe.checkpoint else None
    maps = str(label_maps(images, tmp_path / "maps")) if recipe.label_maps else None
    # Batch, length and machine shrink; all else is the recipe's.
    few = {"epochs": 1, "batch_size": 24, "workers": 0, "precision": "fp32", "tensorboard": False, "log_every": 1}
    begins = {"keep_rate_start": 0.0, "keep_rate_epochs": 0.5} if recipe.keep_rate_epochs else {}
    recipe = replace(recipe, model=small, checkpoint=start, num_classes=2, label_maps=maps, **few, **begins)
    output = tmp_path / "run"
    summary = vitrim.run_recipe(recipe, images, output, cpu=True)
    (line,) = [json.loads(text) for text in (output / "metrics.jsonl").read_text().splitlines()]
    assert summary["updates"] == 1 and 0 < line["loss"] < 100
    wanted = {"class"} | ({"dense"} if recipe.token_labeling else set())
    wanted |= {"exits", "distillation"} if recipe.method == "metr" else set()
    assert set(line["parts"]) == wanted
    _check_saved(output, recipe, summary)


def _check_saved(output: Path, recipe: Recipe, summary: dict[str, Any]) -> None:
    """The run's model is in its folder, with its method at its target, and what it reaches."""
    model = vitrim.from_pretrained(output / "model")
    found = find_stack(model)
    assert found is not None and recipe.method is not None
    settled = vitrim.create_method(recipe.method, **recipe.settings).built_for(found.stack.spec)
    assert found.stack.method == settled
    assert count_macs(model) / 1e9 == pytest.approx(summary["gmacs"], abs=1e-4)
    assert model(torch.rand(1, *input_size_of(model))).shape == (1, 2)
    card = (output / "model" / "README.md").read_text()
    assert str(summary["top1"]) in card and recipe.method in card
    assert "<svg" in (output / "curves.svg").read_text()


def test_the_moving_average_is_saved_and_starts_another_run(
    tmp_path: Path, images: Path, tiny_model: Callable[[str], str]
) -> None:
    small = tiny_model("deit_small_patch16_224")
    recipe = Recipe(model=small, checkpoint=small, epochs=2, batch_size=24, lr=0.01, workers=0, ema_decay=0.5)
    summary = vitrim.run_recipe(replace(recipe, tensorboard=False), images, tmp_path / "run", cpu=True)
    last = max((tmp_path / "run" / "checkpoints").iterdir())
    files = tmp_path / "run" / "model" / "model.safetensors", last / "ema.safetensors", last / "model.safetensors"
    saved, average, plain = (load_file(path) for path in files)
    average, plain = ({key.removeprefix("model."): value for key, value in each.items()} for each in (average, plain))
    assert saved.keys() == average.keys()
    assert all(torch.equal(saved[key], average[key]) for key in saved)
    assert not torch.equal(saved["norm.weight"], plain["norm.weight"])
    assert f"| top1 | {summary['ema_top1']} |" in (tmp_path / "run" / "model" / "README.md").read_text()
    again = replace(recipe, checkpoint=str(tmp_path / "run" / "model"), method="evit", num_classes=2)
    model, said = start_model(again, ("bird", "cat"))
    assert said == f"weights of {tmp_path / 'run' / 'model'}"
    assert torch.equal(model.state_dict()["norm.weight"], saved["norm.weight"])


def test_missing_label_maps_are_said_before_anything_is_trained(
    tmp_path: Path, images: Path, tiny_model: Callable[[str], str]
) -> None:
    recipe = load_recipe(RECIPES / "imagenet" / "evit_lvvit_small_300.py")
    recipe = replace(recipe, model=tiny_model(recipe.model), num_classes=2, batch_size=8, precision="fp32")
    (tmp_path / "maps").mkdir()
    for folder, message in ((tmp_path / "none", "label maps"), (tmp_path / "maps", "label map")):
        with pytest.raises(ValueError, match=message):
            vitrim.run_recipe(replace(recipe, label_maps=str(folder)), images, tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()


def test_fields_that_exclude_or_need_each_other_are_checked() -> None:
    with pytest.raises(ValueError, match=r"token.labeling.*mixup"):
        Recipe(model="lvvit_small", token_labeling=True, mixup=0.8)
    with pytest.raises(ValueError, match=r"token.labeling.*teacher"):
        Recipe(model="lvvit_small", token_labeling=True, teacher="lvvit_medium", distillation="soft")
    with pytest.raises(ValueError, match=r"label_maps.*token_labeling"):
        Recipe(model="lvvit_small", label_maps="maps")
    with pytest.raises(ValueError, match=r"teacher_checkpoint.*teacher"):
        Recipe(model="lvvit_small", teacher_checkpoint="file")
