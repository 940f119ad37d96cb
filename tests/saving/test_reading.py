"""What cannot be read is refused in one line, and nothing in a folder is run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from saved_models import change, outputs

import vitrim
from vitrim.loading.build import load_model


@pytest.mark.usefixtures("no_network")
def test_a_folder_is_read_and_written_without_network(saved):
    model = vitrim.from_pretrained(str(saved))
    assert torch.equal(outputs(vitrim.from_pretrained(vitrim.save_pretrained(model, saved))), outputs(model))


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "model.safetensors"])
def test_a_pickle_is_refused_and_never_opened(name, tmp_path, saved):
    (saved / "model.safetensors").unlink()
    torch.save({"head.weight": Trap(tmp_path / "sprung")}, saved / name)
    with pytest.raises(ValueError, match=r"a pickle, which can run any code|not a whole safetensors file"):
        vitrim.from_pretrained(saved)
    with pytest.raises(ValueError, match=r"a pickle, which can run any code|not a whole safetensors file"):
        load_model(str(saved))
    assert not (tmp_path / "sprung").exists()


def test_a_folder_that_is_none_is_refused(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match=r"is not a saved model: it has no model\.safetensors"):
        vitrim.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent, and a repository on the hub is owner"):
        vitrim.from_pretrained(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="there is no folder a/b/c"):
        vitrim.from_pretrained("a/b/c")
    with pytest.raises(ValueError, match="is a folder, which has no revision 'v1'"):
        vitrim.from_pretrained(saved, revision="v1")
    (saved / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"it has no config\.json"):
        vitrim.from_pretrained(saved)


def evit(**settings):
    return {"method": {"class": "EViT", "settings": settings}}


ARGUMENTS = {"num_classes": 7, "img_size": [32, 32], "in_chans": 3}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"vitrim_format": 3},
            r"has format 3, and this version of vitrim reads formats 1 and 2: it was written",
        ),
        ({"extra": 1, "more": 2}, "unknown key extra, more; known are architecture"),
        ({"architecture": "vit_tinny_patch16_224"}, "no model is called 'vit_tinny_patch16_224'; close names are"),
        ({"architecture": "hf-hub:owner/name"}, "must be the name of a model in timm"),
        ({"architecture": "local-dir:/tmp"}, "must be the name of a model in timm"),
        ({"architecture": ["vit"]}, r"architecture cannot be \['vit'\]"),
        ({"arguments": {"pretrained": True}}, "the argument pretrained is no business"),
        ({"arguments": {"checkpoint_path": "x.pth"}}, "the argument checkpoint_path is no business"),
        ({"arguments": {"nonsense": 1}}, "vit_tiny_patch16_224 cannot be built as it was saved: .*nonsense"),
        ({"arguments": ARGUMENTS | {"depth": "five"}}, "argument depth is a whole number from 1 to 1024, not 'five'"),
        ({"arguments": ARGUMENTS | {"depth": 0}}, "argument depth is a whole number from 1"),
        ({"arguments": ARGUMENTS | {"depth": 10**9}}, "argument depth is a whole number from 1 to 1024"),
        ({"arguments": ARGUMENTS | {"num_heads": 0}}, "argument num_heads is"),
        ({"arguments": ARGUMENTS | {"num_heads": 5}}, "cannot be built as it was saved|cannot be built for images"),
        ({"arguments": ARGUMENTS | {"patch_size": 0}}, "argument patch_size is a whole number of pixels"),
        ({"arguments": ARGUMENTS | {"img_size": [32, 0]}}, "argument img_size is"),
        ({"arguments": ARGUMENTS | {"init_values": 1e300}}, "argument init_values has numbers"),
        ({"arguments": ARGUMENTS | {"init_values": float("nan")}}, "argument init_values has numbers"),
        ({"data": {"mean": "x"}}, "data entry mean is one number per channel, not 'x'"),
        ({"data": {"std": [0.2, 0, 0.2]}}, "data entry std is one number above 0"),
        ({"data": {"crop_pct": "a"}}, "data entry crop_pct is a number from"),
        ({"data": {"crop_pct": 1e-9}}, "data entry crop_pct is a number from"),
        ({"data": {"interpolation": "evil"}}, "data entry interpolation is one of nearest"),
        ({"data": {"crop_mode": "evil" * 1000}}, "data entry crop_mode is one of center"),
        ({"data": {"input_size": [3, 32]}}, "data entry input_size is channels, height and width"),
        ({"data": {"label_names": 5}}, "data entry label_names is words"),
        ({"pools_patches": "yes"}, "pools_patches cannot be 'yes'"),
        ({"method": {"class": "ToMe", "settings": {"r": [5, 1e308]}}}, "ToMe.r has numbers from"),
        ({"method": {"class": "ToMe", "settings": {"r": 10**400}}}, "ToMe.r has whole numbers of at most 64 bits"),
        ({"method": {"class": "ToMe", "settings": {"r": [5, 1e5]}}}, "tome: r must be|r = .* is too large"),
        ({"arguments": ARGUMENTS}, "is not a checkpoint of the model that its config describes: "),
        ({"data": {"url": "http://x"}}, "unknown data entry url"),
        ({"method": "evit"}, "method cannot be 'evit'"),
        ({"method": {"class": "EViT"}}, "a method is written as its class and settings"),
        ({"method": {"class": "Mine", "settings": {}}}, "there is no method class 'Mine'; there are AttentionMass"),
        ({"method": {"class": "METR", "settings": {}}}, "METR needs its setting method"),
        (evit(speed=3), "EViT has no setting speed; it has keep_rate"),
        (evit(keep_rate={"a": 1}), r"EViT.keep_rate is \{'a': 1\}, which is no setting"),
        (evit(keep_rate=1.5), "a keep rate is a number above 0 and at most 1, not 1.5"),
        (evit(layers=[1, 9]), r"layers \(1, 9\) do not fit a model with blocks 0 to 4"),
        (evit(fuse="yes"), "evit: fuse is True or False, not 'yes'"),
    ],
)
@pytest.mark.usefixtures("no_network")
def test_a_config_that_is_not_as_we_write_it_is_refused_in_one_line(changes, said, saved):
    with pytest.raises(ValueError, match=said) as error:
        vitrim.from_pretrained(change(saved, **changes))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_methods_in_methods_without_end_are_refused(saved):
    method = {"class": "METR", "settings": {"method": None}}
    nested = method
    for _ in range(400):
        nested["settings"]["method"] = {"class": "METR", "settings": {"method": None}}
        nested = nested["settings"]["method"]
    with pytest.raises(ValueError, match=r"config\.json"):
        vitrim.from_pretrained(change(saved, method=method))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model_type": "vit"}', "[" * 100_000])
def test_a_config_that_is_none_is_refused(text, saved):
    (saved / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json (is not|was not written by vitrim)") as error:
        vitrim.from_pretrained(saved)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(saved):
    state = load_file(saved / "model.safetensors")
    for changed in ({"more": torch.ones(1)}, {"head.bias": torch.ones(9)}, {"blocks.1.method.more": torch.ones(1)}):
        save_file(state | changed, saved / "model.safetensors")
        with pytest.raises(ValueError, match="is not a checkpoint of the model that its config describes: 1 "):
            vitrim.from_pretrained(saved)
    (saved / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        vitrim.from_pretrained(saved)
