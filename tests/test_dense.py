"""Maps on the full patch grid: exactly the library's own where nothing is reduced, filled by rule where it is."""

from __future__ import annotations

from typing import get_args

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from typer.testing import CliRunner

import vitrim
from every_method import amount
from library_models import DINO, HF, images, of_open_clip, of_transformers, torchvision_vit
from vitrim.cli import app
from vitrim.patch_maps import Fill, Shared


def settings_of(method: str) -> dict:
    return amount(method, per_block=6)


@pytest.fixture
def vit(tiny_vit):
    return tiny_vit(depth=4)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}, {"dynamic_img_size": True}],
    ids=["plain", "registers", "no class token", "other size"],
)
def test_unreduced_maps_are_timms_to_the_last_bit(tiny_vit, settings, norm):
    model = tiny_vit(depth=4, **settings)
    x_BCHW = torch.randn(2, 3, 24, 40) if "dynamic_img_size" in settings else images()
    wanted = model.forward_intermediates(
        x_BCHW, indices=[1, 3], norm=norm, return_prefix_tokens=True, intermediates_only=True
    )
    if "class_token" in settings:
        wanted = [(each, torch.empty(2, 0, 48)) if isinstance(each, torch.Tensor) else each for each in wanted]
    got = vitrim.features(model, x_BCHW, [1, -1], norm=norm)
    assert got.layers == (1, 3)
    for (map_BCHW, prefix_BKC), got_map, got_prefix in zip(wanted, got.maps, got.prefix, strict=True):
        assert got_map.equal(map_BCHW)
        assert prefix_BKC is None or got_prefix.equal(prefix_BKC)


@pytest.mark.parametrize(
    ("name", "config", "settings"),
    [
        ("ViTForImageClassification", "ViTConfig", HF),
        ("DeiTModel", "DeiTConfig", HF),
        ("Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", DINO),
        ("SiglipVisionModel", "SiglipVisionConfig", HF),
    ],
)
def test_unreduced_maps_are_the_hidden_states_of_transformers(name, config, settings):
    model = of_transformers(name, config, **settings)
    got = vitrim.features(model, images(), [0, 2, -1])
    prefix = got.prefix[0].shape[1]
    states = model(images(), output_hidden_states=True).hidden_states
    for layer, map_BCHW in zip(got.layers, got.maps, strict=True):
        assert map_BCHW.flatten(2).transpose(1, 2).equal(states[layer + 1][:, prefix:])


def test_the_final_norm_of_other_libraries_is_found():
    hf = of_transformers("Dinov2Model", "Dinov2Config", **DINO)
    got = vitrim.features(hf, images(), norm=True)
    assert torch.cat([got.prefix[0], got.maps[0].flatten(2).transpose(1, 2)], 1).equal(hf(images()).last_hidden_state)
    tv, seen = torchvision_vit(), []
    tv.encoder.register_forward_hook(lambda _, __, out: seen.append(out))
    tv(images())
    assert vitrim.features(tv, images(), norm=True).maps[0].flatten(2).transpose(1, 2).equal(seen[0][:, 1:])
    clip = of_open_clip()
    raw = vitrim.features(clip, images()).maps[0].permute(0, 2, 3, 1)
    normed = vitrim.features(clip, images(), norm=True).maps[0].permute(0, 2, 3, 1)
    torch.testing.assert_close(clip.visual.ln_post(raw), normed)


@pytest.mark.parametrize("method", vitrim.list_methods())
def test_every_method_gives_whole_finite_maps_and_the_same_logits(vit, method):
    vitrim.reduce_tokens(vit, method, **settings_of(method))
    with torch.no_grad():
        before = vit(images())
        for fill in get_args(Fill):
            got = vitrim.features(vit, images(), range(4), norm=True, fill=fill)
            for map_BCHW, groups_BHW in zip(got.maps, got.groups, strict=True):
                assert map_BCHW.shape == (2, 48, 8, 8)
                assert map_BCHW.isfinite().all()
                assert groups_BHW.shape == (2, 8, 8)
        assert vit(images()).equal(before)
    assert int((got.groups[-1] + 1).amax()) < 64


@pytest.mark.parametrize(
    ("method", "rule"),
    [
        ("evit", "fill"),
        ("beyond_attentive", "offset"),
        ("tome", "offset"),
        ("metr", "fill"),
        ("attention_mass", "fill"),
    ],
)
def test_what_shared_patches_get_depends_on_whether_they_resemble_each_other(vit, method, rule):
    vitrim.reduce_tokens(vit, method, **settings_of(method))
    by_rule = {shared: vitrim.features(vit, images(), shared=shared).maps[0] for shared in ("offset", "fill")}
    assert not by_rule["offset"].equal(by_rule["fill"])
    assert vitrim.features(vit, images()).maps[0].equal(by_rule[rule])


@pytest.mark.parametrize("name", ["torchvision", "transformers", "open_clip"])
def test_reduced_models_of_other_libraries_give_maps(name):
    model = {
        "torchvision": torchvision_vit,
        "transformers": lambda: of_transformers("CLIPVisionModel", "CLIPVisionConfig", **HF),
        "open_clip": of_open_clip,
    }[name]()
    whole = vitrim.features(model, images(), [0, -1])
    reduced = vitrim.features(vitrim.reduce_tokens(model, "tome", r=4), images(), [0, -1])
    assert [map_BCHW.shape for map_BCHW in reduced.maps] == [map_BCHW.shape for map_BCHW in whole.maps]
    assert (reduced.groups[-1].flatten(1).amax(dim=1) < 63).all()


def test_keeping_everything_gives_the_maps_of_the_unreduced_model(vit):
    whole = vitrim.features(vit, images(), [0, 3], norm=True)
    kept = vitrim.features(vitrim.reduce_tokens(vit, "evit", keep_rate=1.0), images(), [0, 3], norm=True)
    assert all(a.equal(b) for a, b in zip((*whole.maps, *whole.groups), (*kept.maps, *kept.groups), strict=True))


def test_a_patch_with_a_token_of_its_own_has_its_features_whatever_the_rules(vit):
    vitrim.reduce_tokens(vit, "evit", keep_rate=0.5)
    with vitrim.trace(vit, features=True) as trace:
        vit(images())
    last = trace.layers[-1]
    wanted_BPC = last.unmerge(last.features_BNC)
    alone_BP = last.size_BN.gather(1, last.source_BP.clamp(min=0)) == 1
    for shared in get_args(Shared):
        got_BPC = vitrim.features(vit, images(), shared=shared).maps[0].flatten(2).transpose(1, 2)
        assert got_BPC[alone_BP].equal(wanted_BPC[alone_BP])
        assert got_BPC.equal(wanted_BPC) == (shared == "token")


def test_a_dropped_patch_keeps_the_output_of_the_last_block_that_it_left(vit):
    vitrim.reduce_tokens(vit, "evit-nofuse", keep_rate=0.5, layers=(2,))
    before, after = vitrim.features(vit, images(), [1, 3], fill="last").maps
    dropped_BHW = vitrim.features(vit, images()).groups[0] < 0
    assert 0 < dropped_BHW.sum() < dropped_BHW.numel()
    same_BHW = (before == after).all(dim=1)
    assert same_BHW.equal(dropped_BHW)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("method", ["evit", "token_mergence", "beyond_attentive", "tome"])
def test_gradients_flow_and_are_the_same_under_checkpointing(vit, method, checkpointed):
    settings = settings_of(method) or {"layers": (0, 2)}  # block 0 runs again in backward without being followed
    vitrim.reduce_tokens(vit.train(), method, **settings)
    vitrim.features(vit, images()).maps[0].square().mean().backward()
    plain = vit.blocks[0].attn.qkv.weight.grad.clone()
    vit.zero_grad()
    vit.set_grad_checkpointing(checkpointed)
    vitrim.features(vit, images()).maps[0].square().mean().backward()
    assert plain.abs().sum() > 0
    torch.testing.assert_close(vit.blocks[0].attn.qkv.weight.grad, plain)
    assert vit.training


def test_a_model_that_lost_blocks_is_read_again(vit):
    vitrim.features(vit, images())
    del vit.blocks[2:]
    assert vitrim.features(vit, images()).layers == (1,)


def test_a_compiled_model_runs_uncompiled_and_gives_the_same_maps(vit):
    wanted = vitrim.features(vit, images()).maps[0]

    def refuse(*_):
        raise AssertionError("it was compiled")

    assert vitrim.features(torch.compile(vit, backend=refuse), images()).maps[0].equal(wanted)


def test_no_images_give_no_maps(vit):
    assert vitrim.features(vit, images()[:0]).maps[0].shape == (0, 48, 8, 8)


def test_autocast_is_the_callers(vit):
    wanted = vitrim.features(vitrim.reduce_tokens(vit, "tome", r=4), images()).maps[0]
    with torch.autocast("cpu", torch.bfloat16):
        got = vitrim.features(vit, images()).maps[0]
    assert not got.equal(wanted)
    assert torch.nn.functional.cosine_similarity(got.float(), wanted).mean() > 0.98


def test_the_multiscale_model_has_maps_from_its_fusion_on():
    import vitrim.models.multiscale  # registers it

    model = timm.create_model("mf_deit_tiny_patch16_224", img_size=64, num_classes=5).eval()
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5)
    assert vitrim.features(model, torch.randn(1, 3, 64, 64), [2, -1]).maps[1].shape == (1, 192, 4, 4)
    with pytest.raises(ValueError, match="two scales"):
        vitrim.features(model, torch.randn(1, 3, 64, 64), 1)


def test_lvvit_gives_maps_in_its_own_training_mode_unmixed():
    from vitrim.models.lvvit import LVViT

    torch.manual_seed(0)
    model = LVViT(img_size=32, embed_dim=24, depth=4, num_heads=2, num_classes=5, return_dense=True).train()
    x_BCHW = torch.randn(2, 3, 32, 32)
    first, second = (vitrim.features(model, x_BCHW).maps[0] for _ in range(2))
    assert first.equal(second)
    assert vitrim.features(vitrim.reduce_tokens(model, "evit", layers=(1,)), x_BCHW).maps[0].shape == first.shape


def hooks_of(model):
    return [(list(part._forward_hooks), list(part._forward_pre_hooks)) for part in model.modules()]


def test_hooks_and_recorders_are_gone_afterwards_even_after_an_error(vit):
    def give_up(*_):
        raise RuntimeError("stop")

    for make in (lambda: vit, lambda: vitrim.reduce_tokens(vit, "evit")):
        model = make()
        before = hooks_of(model)
        failing = model.norm.register_forward_hook(give_up)
        with pytest.raises(RuntimeError, match="stop"):
            vitrim.features(model, images())
        failing.remove()
        assert hooks_of(model) == before
    with vitrim.trace(vit):  # refused if a recorder were left
        pass


def test_bad_input_is_told_in_one_line(vit):
    wrong = {
        r"vision transformer|0 to 3": {"layers": 4},
        r"-1 to -4": {"layers": (0, -5)},
        r"layers": {"layers": ()},
        r"fill .*drift, last": {"fill": "mean"},
        r"shared .*offset": {"shared": "last"},
        r"5 x 5.*64 patches": {"grid": (5, 5)},
    }
    for message, settings in wrong.items():
        with pytest.raises(ValueError, match=message):
            vitrim.features(vit, images(), **settings)
    with pytest.raises(ValueError, match=r"floats \[B, C, H, W\], not \[3, 32, 32\]"):
        vitrim.features(vit, images()[0])
    with pytest.raises(ValueError, match=r"not list"):
        vitrim.features(vit, [images()])
    with pytest.raises(vitrim.UnsupportedModel, match="not a model"):
        vitrim.features(nn.Sequential(nn.Conv2d(3, 3, 1)), images())


def test_tracing_and_features_at_once_are_refused(vit):
    vitrim.reduce_tokens(vit, "evit")
    with vitrim.trace(vit) as trace:
        with pytest.raises(ValueError, match="traced"):
            vitrim.features(vit, images())
        vit(images())
    assert trace.layers


def test_patches_dropped_at_random_in_training_leave_no_grid():
    model = VisionTransformer(
        img_size=32, patch_size=4, embed_dim=48, depth=2, num_heads=3, patch_drop_rate=0.44, num_classes=5
    ).train()
    with pytest.raises(ValueError, match="patch_drop_rate"):
        vitrim.features(model, images())


def test_a_norm_that_is_not_known_is_told(vit, monkeypatch):
    monkeypatch.setattr("vitrim.dense.FINAL_NORMS", ("nothing",))
    with pytest.raises(ValueError, match="norm=False"):
        vitrim.features(vit, images(), norm=True)


def test_the_command_writes_a_picture_or_the_maps(tmp_path):
    from PIL import Image
    from safetensors.torch import load_file

    photos = []
    for i in range(2):
        noise = (torch.rand(28, 28, generator=torch.Generator().manual_seed(i)) * 255).byte()
        Image.fromarray(noise.numpy()).save(tmp_path / f"{i}.png")
        photos.append(str(tmp_path / f"{i}.png"))
    command = ["features", *photos, "--methods", "evit,tome", "--keep-rate", "0.5", "--output"]
    for output in ("maps.safetensors", "maps.png"):
        done = CliRunner().invoke(app, [*command, str(tmp_path / output)])
        assert done.exit_code == 0, done.output
    maps = load_file(tmp_path / "maps.safetensors")
    assert {name: tuple(each.shape) for name, each in maps.items()} == dict.fromkeys(
        ("all tokens", "evit keep 0.5", "tome keep 0.5"), (2, 96, 10, 10)
    )
    assert not maps["evit keep 0.5"].equal(maps["all tokens"])
    with Image.open(tmp_path / "maps.png") as picture:
        assert picture.width > picture.height > 400
