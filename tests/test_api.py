"""reduce_tokens, restore, list_methods, create_method: what they take, refuse, and leave alone."""

from __future__ import annotations

import doctest
import math
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
from vitrim import api
from vitrim.core.stack import TokenStack

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

# settings that say otherwise than the name, and the words of the error
OTHERWISE = [
    ("evit-nofuse", {"fuse": True}, "'evit-nofuse' means fuse=False.*fuse=True.*'evit'"),
    ("feature_norm", {"scorer": "cls"}, "'feature_norm' means scorer='norm'.*'evit'"),
    ("feature_norm", {"fuse": True}, "'feature_norm' means fuse=False"),
    ("evit+bat", {"inattentive": "cluster"}, "'evit\\+bat' means inattentive='fuse'.*'beyond_attentive'"),
    ("metr", {"method": "evit-nofuse", "fuse": True}, "'evit-nofuse' means fuse=False"),
]
# settings of a method for a model with 12 blocks and 64 patches, and the words of the error
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("evit", {"keep_rate": 0}, "evit: .*keep rate.*0"),
    ("evit", {"keep_rate": 1.5}, "evit: .*keep rate.*1.5"),
    ("evit", {"keep_rate": -0.5}, "evit: .*keep rate.*-0.5"),
    ("evit", {"keep_rate": math.nan}, "evit: .*keep rate.*nan"),
    ("token_mergence", {"keep_rate": 0}, "token_mergence: .*keep rate"),
    ("beyond_attentive", {"keep_rate": 1.5}, "beyond_attentive: .*keep rate"),
    ("random", {"keep_rate": 2}, "random: .*keep rate"),
    ("evit", {"keep_rate": (0.9, 0.7)}, "evit: 3 .*3 keep rates.* 2 "),
    ("evit", {"keep_rate": (0.9, 0.7), "layers": (3,)}, "evit: 1 .*1 keep rates.* 2 "),
    ("evit", {"layers": (3, 12)}, r"evit: layers \(3, 12\).*0 to 11"),
    ("evit", {"layers": (-1, 3)}, r"evit: layers \(-1, 3\).*0 to 11"),
    ("evit", {"layers": (6, 3)}, r"evit: layers .*increasing.*\(6, 3\)"),
    ("evit", {"layers": (3, 3)}, r"evit: layers .*increasing.*\(3, 3\)"),
    (
        "evit",
        {"layers": (3.0, 6.0)},
        r"evit: layers .*\(3.0, 6.0\)",
    ),
    ("evit", {"tokens": (60, 50)}, r"evit: tokens .*12 blocks.*\(60, 50\)"),
    ("evit", {"tokens": (65, *[None] * 11)}, "evit: block 0 .*65 patches.* 64 "),
    ("evit", {"tokens": (60, 62, *[None] * 10)}, "evit: block 1 .*62 patches.* 61 "),
    (
        "evit",
        {"tokens": (0, *[None] * 11)},
        r"evit: tokens .*at least 1.*\(0, None",
    ),
    ("evit", {"scorer": "cosine"}, "evit: scorer .*cls, received, norm.*'cosine'"),
    ("token_mergence", {"similarity": "dot"}, "token_mergence: similarity .*cosine, l1, l2"),
    ("beyond_attentive", {"inattentive": "pool"}, "beyond_attentive: inattentive .*cluster"),
    ("beyond_attentive", {"pairs": 64}, "beyond_attentive: block 3 .*64 patches"),
    ("tome", {"r": 33}, "tome: r = 33 in block 0 .*64 patches.*32"),
    ("tome", {"r": 6}, r"tome: r = 6 in block \d+ "),
    ("tome", {"r": -1}, "tome: r .*at least 0"),
    ("tome", {"r": [1] * 13}, r"tome: r .*12 blocks.*\[1, 1"),
]

WRONG_KINDS: list[tuple[str, dict[str, Any]]] = [
    ("evit", {"keep_rate": "0.7"}),
    ("evit", {"keep_rate": None}),
    ("evit", {"keep_rate": True}),
    ("evit", {"layers": 3}),
    ("evit", {"layers": ()}),
    ("evit", {"layers": (False, True)}),
    ("evit", {"tokens": 5}),
    ("evit", {"tokens": [60.5, *[None] * 11]}),
    ("evit", {"tokens": ["60", *[None] * 11]}),
    ("tome", {"r": None}),
    ("tome", {"r": "13"}),
    ("tome", {"r": 2.5}),
    ("random", {"seed": "a"}),
]


@pytest.mark.parametrize(("name", "settings", "told"), OTHERWISE)
def test_a_setting_that_says_otherwise_than_the_name_is_refused(name, settings, told):
    with pytest.raises(ValueError, match=told):
        vitrim.create_method(name, **settings)
    assert vitrim.create_method("evit-nofuse", fuse=False) == vitrim.EViT(fuse=False)


@pytest.fixture(params=["plain", "reduced"])
def model(request: pytest.FixtureRequest, tiny_vit: Callable[..., VisionTransformer]) -> VisionTransformer:
    """A model that is not reduced, or is already."""
    built = tiny_vit()
    return built if request.param == "plain" else vitrim.reduce_tokens(built, "evit", keep_rate=0.5)


class Unchanged:
    """Fails unless the model computes the same with the same modules at the end of the block."""

    def __init__(self, model: VisionTransformer):
        self.model = model

    def __enter__(self) -> None:
        self.logits = self.model(IMAGES)
        self.modules, self.state = list(self.model.modules()), dict(self.model.__dict__)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        assert all(mine is other for mine, other in zip(self.modules, self.model.modules(), strict=True))
        assert set(self.model.__dict__) == set(self.state)
        assert torch.equal(self.model(IMAGES), self.logits)


@pytest.mark.parametrize(("name", "settings", "message"), REFUSED)
def test_wrong_settings_are_refused_in_one_line_and_change_nothing(
    model: VisionTransformer, name: str, settings: dict[str, Any], message: str
) -> None:
    with Unchanged(model), pytest.raises(ValueError, match=message) as error:
        vitrim.reduce_tokens(model, name, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "settings"), WRONG_KINDS)
def test_settings_of_another_kind_are_refused_in_one_line(
    tiny_vit: Callable[..., VisionTransformer], name: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=f"^{name}: "):
        vitrim.reduce_tokens(tiny_vit(), name, **settings)


@pytest.mark.parametrize(("name", "settings"), WRONG_KINDS)
def test_settings_of_another_kind_change_nothing_when_refused(
    model: VisionTransformer, name: str, settings: dict[str, Any]
) -> None:
    before = model(IMAGES)
    try:
        vitrim.reduce_tokens(model, name, **settings)
    except Exception:
        assert torch.equal(model(IMAGES), before)


def test_an_unknown_method_is_refused_with_the_names(model: VisionTransformer) -> None:
    with Unchanged(model), pytest.raises(ValueError, match=r"'evt'.*evit, .*tome"):
        vitrim.reduce_tokens(model, "evt")
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        vitrim.create_method("")
    assert all(name in str(error.value) for name in vitrim.list_methods())


def test_an_unknown_setting_is_refused_with_its_name(model: VisionTransformer) -> None:
    with pytest.raises(ValueError, match=r"'tome'.*r, .*prop_attn.*keep_rate"):
        vitrim.create_method("metr", method="tome", keep_rate=0.5)
    with Unchanged(model), pytest.raises(ValueError, match=r"'evit'.*keep_rate, .*keeprate"):
        vitrim.reduce_tokens(model, "evit", keeprate=0.5)


def test_settings_beside_a_ready_made_method_are_refused(model: VisionTransformer) -> None:
    message = r"keep_rate.*already made: EViT"
    with Unchanged(model), pytest.raises(ValueError, match=message):
        vitrim.reduce_tokens(model, vitrim.EViT(), keep_rate=0.5)


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
    assert len(str(error.value)) < 400


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


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("evit", {"keep_rate": 1.5}),
        ("evit", {"keep_rate": (0.7, 0.0)}),
        ("evit", {"layers": (6, 3)}),
        ("evit", {"scorer": "cosine"}),
        ("evit", {"tokens": (0, None)}),
        ("token_mergence", {"similarity": "x"}),
        ("token_mergence", {"similarity": ["l1"]}),
        ("token_mergence", {"seed": -1}),
        ("beyond_attentive", {"inattentive": "x"}),
        ("beyond_attentive", {"match": False, "pairs": 3}),
        ("beyond_attentive", {"neighbours": 0}),
        ("attention_mass", {"mass": 1.01}),
        ("attention_mass", {"scorer": "x"}),
        ("random", {"seed": 0.5}),
        ("tome", {"r": -1}),
        ("tome", {"r": (-3, 0.5)}),
        ("tome", {"r": [4, 2.5]}),
        ("tome", {"r": "13"}),
    ],
)
def test_what_no_model_could_take_is_refused_before_there_is_one(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: .*{[*settings][-1].replace('_', '.')}") as error:
        vitrim.create_method(name, **settings)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"^{name}: "):
        replace(vitrim.create_method(name), **settings)


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
