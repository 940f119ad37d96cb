"""Settings that fit no model, or not this one, are refused in one line and change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import vitrim
from unchanged import IMAGES, Unchanged

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
