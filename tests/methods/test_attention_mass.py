"""Attention mass: as few patches as hold a share of the scores, in each image as many as it needs."""

from __future__ import annotations

import pytest
import torch

import vitrim
from conformance import families
from vitrim.backbones.reader import read_backbone
from vitrim.measure.budget.formula import reduced_macs, token_counts
from vitrim.methods.attention_mass import within_mass
from vitrim.testing import leaving_blocks

EQUAL_BY_CHANCE = ("deit3", "dinov2_swiglu_odd")  # all six images may keep the same number there


@pytest.mark.parametrize(
    ("scores", "mass", "kept"),
    [
        ([0.1, 0.6, 0.3], 0.5, [1]),
        ([0.1, 0.6, 0.3], 0.7, [1, 2]),
        ([2.0, 12.0, 6.0], 0.95, [0, 1, 2]),  # shares of the sum, whatever it is
        ([0.25, 0.25, 0.25, 0.25], 0.5, [0, 1]),  # ties go to the lower index
        ([0.0, 0.0], 0.9, [0]),  # at least one stays
    ],
)
def test_the_fewest_patches_that_reach_the_mass_stay(scores, mass, kept):
    flags = within_mass(torch.tensor([scores]), mass, torch.tensor([len(scores)]))
    assert flags[0].nonzero().flatten().tolist() == kept


def test_no_image_keeps_more_than_equal_scores_would():
    flags = within_mass(torch.full((1, 196), 1 / 196), 0.9, torch.tensor([177]))
    assert int(flags.sum()) <= 177


@pytest.mark.parametrize("family", families.FAMILIES)
@pytest.mark.parametrize("fuse", [True, False])
@torch.inference_mode()
def test_a_packed_batch_is_its_images_one_by_one_to_the_last_digits(family, fuse):
    model = families.small_model(family).double()
    vitrim.reduce_tokens(model, families.method_for("attention_mass", family, mass=0.6, fuse=fuse))
    images = families.small_images(family, 6).double()
    with leaving_blocks(model) as seen:
        together = model(images)
    assert any(tokens.lengths for tokens in seen) or family in (
        "deit3",
        "dinov2_swiglu_odd",
        "dynamic_size",
        "register_gap",
    ), "nothing was packed"
    assert (together - torch.cat([model(image.unsqueeze(0)) for image in images])).abs().max() < 1e-12


@torch.inference_mode()
def test_tracing_a_packed_batch_changes_nothing_and_tells_each_images_tokens():
    model, images = families.reduced("vit", "attention_mass", mass=0.6), families.small_images("vit", 6)
    plain = model(images)
    with vitrim.trace(model, features=True) as traced:
        assert torch.equal(model(images), plain)
    last = traced.layers[-1]
    assert len(set(last.num_tokens_B)) > 1 and last.num_tokens == max(last.num_tokens_B)
    assert (last.size_BN > 0).sum(dim=1).tolist() == [count - last.num_prefix for count in last.num_tokens_B]
    assert last.unmerge(last.features_BNC).shape == (6, 64, 48)


def test_multiply_adds_are_counted_on_images_and_no_formula_tells_them():
    model = families.small_model("vit")
    spec, method = read_backbone(model).spec, vitrim.AttentionMass(mass=0.6)
    for formula in (lambda: token_counts(spec, method), lambda: reduced_macs(10**9, spec, method)):
        with pytest.raises(ValueError, match=r"formula.*multiply-adds"):
            formula()
    with pytest.raises(ValueError, match=r"formula.*mass"):
        vitrim.method_for_macs(model, "attention_mass", 0.005)
    vitrim.reduce_tokens(model, method)
    images = families.small_images("vit", 6)
    each = [vitrim.count_macs(model, images_ICHW=image.unsqueeze(0)) for image in images]
    assert len(set(each)) > 1
    assert vitrim.count_macs(model, images_ICHW=images) == round(sum(each) / 6)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"mass": 0}, "mass .*above 0 and at most 1.* 0"),
        ({"mass": (0.9, 0.8)}, "3 .*3 masses.* 2 "),
        ({"layers": (9,)}, "layers .*9.*blocks"),
        ({"scorer": "best"}, "scorer .*cls, received, norm"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, match):
    with pytest.raises(ValueError, match=match):
        vitrim.reduce_tokens(families.small_model("vit"), vitrim.AttentionMass(**settings))


def test_the_meta_device_has_no_images_to_decide_by():
    model = families.reduced("vit", "attention_mass", mass=0.6).to("meta")
    with pytest.raises(ValueError, match="meta device"):
        model(torch.empty(2, 3, 32, 32, device="meta"))
