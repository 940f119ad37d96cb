"""What a run is set up with."""

from __future__ import annotations

import pytest
from small_run import lines, recipe
from timm.optim import create_optimizer_v2

import vitrim
from vitrim.train.learned import scale_learned
from vitrim.train.run_recipe import run_recipe


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_what_a_method_learns_has_a_learning_rate_of_its_own(layer_decay):
    model = vitrim.build_model("test_vit", img_size=32, num_classes=3)
    vitrim.reduce_tokens(model, "metr", keep_rate=0.5)
    names = {id(weight): name for name, weight in model.named_parameters()}
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, layer_decay=layer_decay)
    before = {
        names[id(weight)]: (group.get("lr_scale", 1), group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    scale_learned(optimizer, model, 10)
    found = [
        (names[id(weight)], group.get("lr_scale", 1), group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    ]
    assert len(found) == len(before) == len(names)
    learned = [name for name, *_ in found if ".method." in name]
    assert len(learned) == 18
    for name, scale, decay in found:
        factor = 10 if name in learned else 1
        assert (scale, decay) == (pytest.approx(before[name][0] * factor), before[name][1])


def test_the_learning_rate_told_is_the_one_before_all_factors(images, tmp_path):
    settings = {"method": "metr", "settings": {"keep_rate": 0.5}, "epochs": 1, "method_lr": 10}
    run_recipe(recipe(**settings), images, tmp_path / "scaled", cpu=True)
    run_recipe(recipe(**settings | {"method_lr": 1}), images, tmp_path / "plain", cpu=True)
    scaled, plain = lines(tmp_path / "scaled"), lines(tmp_path / "plain")
    assert [line["lr"] for line in scaled] == pytest.approx([line["lr"] for line in plain])
    assert scaled[-1]["parts"]["exits"] != plain[-1]["parts"]["exits"]
