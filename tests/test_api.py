"""reduce_tokens, restore, list_methods, create_method: what they take, refuse, and leave alone."""

from __future__ import annotations

import doctest
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vitrim
from unchanged import IMAGES, Unchanged
from vitrim import api
from vitrim.core.stack import TokenStack


@pytest.mark.parametrize("thing", ["deit_tiny_patch16_224", None, 3])
def test_what_is_no_module_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"torch.nn.Module.* (str|NoneType|int)"):
        vitrim.reduce_tokens(thing, "evit")


@pytest.mark.parametrize("thing", ["deit_tiny_patch16_224", None])
def test_restoring_what_is_no_module_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=r"torch.nn.Module"):
        vitrim.restore(thing)


@pytest.mark.parametrize("method", [vitrim.EViT, 5, None])
def test_what_is_no_method_is_refused(tiny_vit: Callable[..., VisionTransformer], method: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"method .*EViT\("):
        vitrim.reduce_tokens(tiny_vit(), method)


def test_a_model_too_shallow_for_the_default_layers_is_refused(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit(depth=3)
    with Unchanged(model), pytest.raises(ValueError, match=r"at least 4 blocks.* 3.*layers"):
        vitrim.reduce_tokens(model, "evit")
    vitrim.reduce_tokens(model, "evit", layers=(1,))


def test_the_same_model_comes_back(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit()
    assert vitrim.reduce_tokens(model, "evit") is model
    assert isinstance(model.blocks, TokenStack)
    assert vitrim.restore(model) is model
    assert type(model) is VisionTransformer


def test_a_name_with_settings_equals_the_method(tiny_vit: Callable[..., VisionTransformer]) -> None:
    by_name = vitrim.reduce_tokens(tiny_vit(), "evit", keep_rate=0.5, fuse=False)(IMAGES)
    by_value = vitrim.reduce_tokens(tiny_vit(), vitrim.EViT(keep_rate=0.5, fuse=False))(IMAGES)
    assert torch.equal(by_name, by_value)


def test_the_method_at_work_has_every_default_resolved(tiny_vit: Callable[..., VisionTransformer]) -> None:
    method = vitrim.EViT()
    model = vitrim.reduce_tokens(tiny_vit(), method)
    assert model.blocks.method == vitrim.EViT(layers=(3, 6, 9), keep_rate=(0.7, 0.7, 0.7))
    assert method.layers is None
    again = vitrim.reduce_tokens(tiny_vit(), model.blocks.method)
    assert again.blocks.method == model.blocks.method


@pytest.mark.parametrize("settings", [{"keep_rate": [0.9, 0.7, 0.5]}, {"layers": [2, 4]}, {"tokens": [60] * 12}])
def test_lists_serve_as_well_as_tuples(tiny_vit: Callable[..., VisionTransformer], settings: dict[str, Any]) -> None:
    as_tuples = {key: tuple(value) for key, value in settings.items()}
    outputs = [vitrim.reduce_tokens(tiny_vit(), "evit", **each)(IMAGES) for each in (settings, as_tuples)]
    assert torch.equal(*outputs)


def test_the_names_are_sorted_and_make_methods() -> None:
    names = vitrim.list_methods()
    assert names == sorted(names)
    assert {"evit", "tome", "token_mergence", "beyond_attentive", "random"} <= set(names)
    assert all(isinstance(vitrim.create_method(name), vitrim.Method) for name in names)


def test_one_method_serves_several_models(tiny_vit: Callable[..., VisionTransformer]) -> None:
    method = vitrim.EViT(keep_rate=0.5)
    shallow, deep = vitrim.reduce_tokens(tiny_vit(depth=4), method), vitrim.reduce_tokens(tiny_vit(), method)
    assert (shallow.blocks.method.layers, deep.blocks.method.layers) == ((1, 2, 3), (3, 6, 9))


def test_restoring_a_plain_model_does_nothing(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit()
    with Unchanged(model):
        vitrim.restore(model)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(api).failed == 0
    from vitrim.methods import evit, tome

    assert doctest.testmod(evit).failed == doctest.testmod(tome).failed == 0


@pytest.mark.parametrize("value", [1, 0, "yes"])
def test_pools_patches_is_true_false_or_none(tiny_vit: Callable[..., VisionTransformer], value: Any) -> None:
    with pytest.raises(ValueError, match=r"pools_patches.*True, False or None"):
        vitrim.reduce_tokens(tiny_vit(), "tome", r=3, pools_patches=value)


@pytest.mark.parametrize("name", [["evit"], None, 7, "x" * 5000])
def test_a_name_of_another_kind_is_refused_shortly(name: Any) -> None:
    with pytest.raises(ValueError, match="no method") as error:
        vitrim.create_method(name)
    assert len(str(error.value)) < 600


def test_model_and_method_in_the_wrong_order_are_told_in_one_line(tiny_vit: Callable[..., VisionTransformer]) -> None:
    with pytest.raises(ValueError, match=r"method .*VisionTransformer"):
        vitrim.reduce_tokens("evit", tiny_vit())  # type: ignore[type-var]


def test_a_model_is_asked_for_its_method_and_shows_it(tiny_vit: Callable[..., VisionTransformer]) -> None:
    model = tiny_vit()
    assert vitrim.method_of(model) is None
    vitrim.reduce_tokens(model, "tm", keep_rate=0.5)
    assert vitrim.method_of(model) == vitrim.TM(keep_rate=(0.5,) * 3, layers=(3, 6, 9))
    assert "TokenMergence(keep_rate=(0.5, 0.5, 0.5)" in repr(model)
    assert vitrim.create_method("bat", inattentive="drop") == vitrim.BAT(inattentive="drop")
    assert not {"tm", "bat"} & set(vitrim.list_methods())


def test_errors_have_a_base_and_stay_what_they_were() -> None:
    for error in (vitrim.UnsupportedModel, vitrim.ImageDataError, vitrim.ExportMismatch):
        assert issubclass(error, vitrim.VitrimError) and issubclass(error, ValueError)
    assert issubclass(vitrim.TrainingError, vitrim.VitrimError)


@pytest.mark.slow
def test_types_reach_a_project_that_is_checked_strictly(tmp_path: Path) -> None:
    code = "import vitrim\nfrom torch import nn\n\ndef shrink(model: nn.Linear) -> nn.Linear:\n"
    code += "    return vitrim.reduce_tokens(model, vitrim.EViT(keep_rate=0.7))\n"
    (tmp_path / "good.py").write_text(code)
    (tmp_path / "bad.py").write_text(code.replace("keep_rate=0.7", "keep_rate=[None]"))
    (tmp_path / "word.py").write_text(code.replace("keep_rate=0.7", "scorer='cosine'"))
    for name, errors in (("good.py", 0), ("bad.py", 1), ("word.py", 1)):
        done = subprocess.run(
            [sys.executable, "-m", "mypy", "--strict", name], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == errors, done.stdout
        assert "missing library stubs or py.typed" not in done.stdout


@pytest.mark.parametrize("name", ["evit", "evit+bat", "token_mergence", "attention_mass", "random", "tome"])
def test_a_method_that_was_built_can_be_made_again(tiny_vit: Callable[..., VisionTransformer], name: str) -> None:
    settings = {"r": (2, -1.0)} if name == "tome" else {}
    method = vitrim.method_of(vitrim.reduce_tokens(tiny_vit(), name, **settings))
    assert method is not None
    assert replace(method) == method


def test_a_method_of_which_no_block_is_left_for_the_keep_rate_can_be_made_again(
    tiny_vit: Callable[..., VisionTransformer],
) -> None:
    method = vitrim.method_of(vitrim.reduce_tokens(tiny_vit(), "evit", tokens=[60] * 12))
    assert isinstance(method, vitrim.EViT)
    assert vitrim.EViT(tokens=method.tokens, layers=[], keep_rate=[]).tokens == method.tokens  # as files have them
