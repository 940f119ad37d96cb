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
    with pytest.raises(ValueError, match=r"pickle|safetensors file"):
        vitrim.from_pretrained(saved)
    with pytest.raises(ValueError, match=r"pickle|safetensors file"):
        load_model(str(saved))
    assert not (tmp_path / "sprung").exists()


def test_a_folder_that_is_none_is_refused(tmp_path, saved):
    with pytest.raises(FileNotFoundError, match=r"not a saved model.*model\.safetensors"):
        vitrim.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder .*absent.*owner/name"):
        vitrim.from_pretrained(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="no folder a/b/c"):
        vitrim.from_pretrained("a/b/c")
    with pytest.raises(ValueError, match=r"folder.*revision 'v1'"):
        vitrim.from_pretrained(saved, revision="v1")
    (saved / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        vitrim.from_pretrained(saved)


def evit(**settings):
    return {"method": {"class": "EViT", "settings": settings}}


ARGUMENTS = {"num_classes": 7, "img_size": [32, 32], "in_chans": 3}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"vitrim_format": 3}, "format 3.*1 and 2"),
        ({"extra": 1, "more": 2}, "extra, more.*architecture"),
        ({"architecture": "vit_tinny_patch16_224"}, "'vit_tinny_patch16_224'.*vit_tiny_patch16_224"),
        ({"architecture": "hf-hub:owner/name"}, "name of a (timm model|model in timm)"),
        ({"architecture": "local-dir:/tmp"}, "name of a (timm model|model in timm)"),
        ({"architecture": ["vit"]}, r"architecture.*\['vit'\]"),
        ({"arguments": {"pretrained": True}}, "argument pretrained "),
        ({"arguments": {"checkpoint_path": "x.pth"}}, "argument checkpoint_path "),
        ({"arguments": {"nonsense": 1}}, "vit_tiny_patch16_224.*nonsense"),
        ({"arguments": ARGUMENTS | {"depth": "five"}}, "depth.*1 to 1024.*'five'"),
        ({"arguments": ARGUMENTS | {"depth": 0}}, "depth.*1 to 1024"),
        ({"arguments": ARGUMENTS | {"depth": 10**9}}, "depth.*1 to 1024"),
        ({"arguments": ARGUMENTS | {"num_heads": 0}}, "num_heads"),
        ({"arguments": ARGUMENTS | {"num_heads": 5}}, "cannot be built"),
        ({"arguments": ARGUMENTS | {"patch_size": 0}}, "patch_size.*pixels"),
        ({"arguments": ARGUMENTS | {"img_size": [32, 0]}}, "img_size"),
        ({"arguments": ARGUMENTS | {"init_values": 1e300}}, "init_values.*numbers"),
        ({"arguments": ARGUMENTS | {"init_values": float("nan")}}, "init_values.*numbers"),
        ({"data": {"mean": "x"}}, "mean.*channel.*'x'"),
        ({"data": {"std": [0.2, 0, 0.2]}}, "std.*above 0"),
        ({"data": {"crop_pct": "a"}}, "crop_pct.*number"),
        ({"data": {"crop_pct": 1e-9}}, "crop_pct.*number"),
        ({"data": {"interpolation": "evil"}}, "interpolation.*nearest.*evil"),
        ({"data": {"crop_mode": "evil" * 1000}}, "crop_mode.*center"),
        ({"data": {"input_size": [3, 32]}}, "input_size.*channels, height"),
        ({"data": {"label_names": 5}}, "label_names.*5"),
        ({"pools_patches": "yes"}, "pools_patches.*'yes'"),
        ({"method": {"class": "ToMe", "settings": {"r": [5, 1e308]}}}, "ToMe.r.*numbers"),
        ({"method": {"class": "ToMe", "settings": {"r": 10**400}}}, "ToMe.r.*64 bits"),
        ({"method": {"class": "ToMe", "settings": {"r": [5, 1e5]}}}, "tome: r|r = .* too large"),
        ({"arguments": ARGUMENTS}, "not a checkpoint.*config"),
        ({"data": {"url": "http://x"}}, "url"),
        ({"method": "evit"}, "method.*'evit'"),
        ({"method": {"class": "EViT"}}, "class and settings"),
        ({"method": {"class": "Mine", "settings": {}}}, "'Mine'.*AttentionMass"),
        ({"method": {"class": "METR", "settings": {}}}, "METR.*setting method"),
        (evit(speed=3), "EViT.*speed.*keep_rate"),
        (evit(keep_rate={"a": 1}), r"EViT.keep_rate.*\{'a': 1\}"),
        (evit(keep_rate=1.5), "keep.rate.*1.5"),
        (evit(layers=[1, 9]), r"layers \(1, 9\).*0 to 4"),
        (evit(fuse="yes"), "evit: fuse.*'yes'"),
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
    with pytest.raises(ValueError, match=r"config\.json.* not ") as error:
        vitrim.from_pretrained(saved)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(saved):
    state = load_file(saved / "model.safetensors")
    save_file({key: value.long() for key, value in state.items()}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"floating-point.*is int64"):
        vitrim.from_pretrained(saved)
    for changed in ({"more": torch.ones(1)}, {"head.bias": torch.ones(9)}, {"blocks.1.method.more": torch.ones(1)}):
        save_file(state | changed, saved / "model.safetensors")
        with pytest.raises(ValueError, match=r"not a checkpoint.*config.* 1 "):
            vitrim.from_pretrained(saved)
    (saved / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ValueError, match="safetensors file"):
        vitrim.from_pretrained(saved)
