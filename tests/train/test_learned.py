"""Methods that learn how much, or what, to reduce: their runs, what they leave, and that they resume to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_run import recipe
from test_resume import assert_same, run_and_stop
from timm.optim import create_optimizer_v2

import vitrim
from vitrim.compare.method_text import read_methods
from vitrim.train.learned import scale_learned
from vitrim.train.recipe import changed_fields, load_recipe
from vitrim.train.run_recipe import run_recipe
from vitrim.train.start import start_model

RUNS: dict[str, dict[str, Any]] = {
    "diffrate": {"method": "diffrate", "gmacs": 0.004},
    "ltmp": {"method": "ltmp", "gmacs": 0.004},
    "dtem": {"method": "dtem", "settings": {"r": 2, "layers": [1, 2, 3], "learns": True}},
}


def learning(name: str, **more: Any) -> Any:
    """A run that trains what the method learns, on a frozen model of 16 patches."""
    return recipe(img_size=64, epochs=1, lr=0.05, frozen=True, weight_decay=0, **RUNS[name], **more)


@pytest.mark.parametrize("name", RUNS)
def test_only_what_the_method_learns_changes_and_a_stopped_run_ends_in_the_same_bits(
    name: str, images: Any, tmp_path: Any, monkeypatch: Any
) -> None:
    wanted = learning(name, checkpoint_every=2, checkpoints_kept=9)
    summary = run_recipe(wanted, images, tmp_path / "straight", cpu=True)
    run_and_stop(monkeypatch, wanted, images, tmp_path / "stopped", 2)
    run_recipe(wanted, images, tmp_path / "stopped", cpu=True)
    assert_same(tmp_path / "straight", tmp_path / "stopped")
    first, last = (load_file(tmp_path / f"straight/checkpoints/step-{step:08d}/model.safetensors") for step in (2, 3))
    changed = [key for key in first if not torch.equal(first[key], last[key])]
    assert changed and all(".method." in key for key in changed)
    model = vitrim.from_pretrained(tmp_path / "straight" / "model")
    method: Any = vitrim.method_of(model)
    assert method.name == name and getattr(method, "target", None) is None and not getattr(method, "learns", False)
    (choice,) = read_methods(summary["method"])
    plain = vitrim.build_model("test_vit", img_size=64, num_classes=2)
    again: Any = vitrim.method_of(vitrim.reduce_tokens(plain, choice.method, **choice.settings))
    assert again == method
    assert json.loads((tmp_path / "straight" / "summary.json").read_text())["method"] == summary["method"]
    assert vitrim.count_macs(model, images_ICHW=torch.randn(1, 3, 64, 64)) <= vitrim.count_macs(plain)


def test_pruning_thresholds_learn_at_a_rate_of_their_own() -> None:
    model = vitrim.reduce_tokens(vitrim.build_model("test_vit", img_size=32), vitrim.LTMP(target=0.5))
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0)
    scale_learned(optimizer, model, 10)
    names = {id(weight): name.rpartition(".")[2] for name, weight in model.named_parameters()}
    scales = {names[id(w)]: each.get("lr_scale", 1) for each in optimizer.param_groups for w in each["params"]}
    assert scales["merge_threshold"] == 10
    assert scales["prune_threshold"] == pytest.approx(0.01)
    assert scales["weight"] == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "tome", "settings": {"r": 1}, "gmacs": 0.004}, "gmacs is for methods that learn.*not tome"),
        ({"method": "ltmp", "gmacs": 90}, "gmacs must lie between .* and .*not 90"),
        ({"method": "tome", "settings": {"r": 1}, "frozen": True}, "frozen trains only what.*tome learns nothing"),
        ({"method": "ltmp", "frozen": True}, "ltmp learns nothing with these settings: set gmacs"),
        ({"frozen": True}, "method is None"),
        ({"method": "ltmp", "gmacs": -1}, "gmacs must be a number above 0"),
    ],
)
def test_a_recipe_that_learns_nothing_or_cannot_meet_its_target_is_refused(
    fields: dict[str, Any], message: str, images: Any, tmp_path: Any
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        run_recipe(recipe(img_size=64, **fields), images, tmp_path / "out", cpu=True)
    assert "\n" not in str(error.value)


def test_a_run_of_before_these_fields_goes_on() -> None:
    now = recipe().as_json()
    before = {name: value for name, value in now.items() if name not in ("gmacs", "frozen")}
    assert changed_fields(before, now) == []
    assert changed_fields(before, now | {"frozen": True}) == ["frozen was False and is True"]


@pytest.mark.parametrize("name", ["diffrate", "ltmp", "dtem"])
def test_the_recipes_that_come_with_the_library_train_what_the_method_learns(name: str) -> None:
    wanted = load_recipe(Path(__file__).resolve().parents[2] / "recipes" / "learned" / f"{name}.py")
    assert wanted.method == name and wanted.frozen
    model, _ = start_model(wanted.override({"checkpoint": "none"}), [f"class {i}" for i in range(10)])
    learning = [key for key, weight in model.named_parameters() if weight.requires_grad]
    assert learning and all(".method." in key for key in learning)
