"""Models in folders: what is written comes back bit for bit, and what cannot be read is refused in one line."""

from __future__ import annotations

import copy
import errno
import json
import os
import resource
import shutil
import socket
import stat
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import vitrim
from small_job import save_images
from vitrim.backbones.reader import find_stack, read_backbone
from vitrim.cli import app
from vitrim.core.method import Method
from vitrim.load import build_model, load_model
from vitrim.measure.evaluate import Score, eval_transform, input_size_of
from vitrim.methods import METHODS, METR, BeyondAttentive, EViT, ToMe
from vitrim.pretrained.settings import method_from_json, method_to_json

SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 5, "num_heads": 3, "num_classes": 7}
RECEIVED = EViT(keep_rate=0.5, scorer="received")
FAMILIES = {
    "vit_tiny_patch16_224": (EViT(keep_rate=0.5), {}),
    "deit_tiny_distilled_patch16_224": (BeyondAttentive(keep_rate=0.5), {"drop_path_rate": 0.1}),
    "deit3_small_patch16_224": (ToMe(r=[5, 4]), {}),
    "vit_small_patch14_reg4_dinov2": (METR(method=EViT(keep_rate=(0.9, 0.5, 0.7)), exits=(0, 3)), {}),
    "vit_giant_patch14_reg4_dinov2": (EViT(tokens=(None, 9, None, 3, None)), {"mlp_ratio": 16 / 3}),  # SwiGLU
    "vit_base_patch32_clip_quickgelu_224": (vitrim.TokenMergence(similarity="attention"), {}),
    "vit_base_patch16_siglip_224": (RECEIVED, {}),
    "vit_betwixt_patch16_reg4_gap_256": (ToMe(r=(3, -1.0)), {}),
    "vit_medium_patch16_gap_240": (RECEIVED, {}),
    "vit_tiny_patch16_384": (vitrim.Random(seed=3), {"qk_norm": True, "act_layer": "gelu_tanh", "in_chans": 1}),
    "vit_small_patch32_224": (EViT(layers=(1, 4)), {"dynamic_img_size": True}),
}


def built(name="vit_tiny_patch16_224", **settings):
    """A small model of that architecture in eval mode, the same each time."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = timm.create_model(name, **(SMALL | settings)).eval()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def reduced(method="evit", **settings):
    return vitrim.reduce_tokens(built(), method, **settings)


def images(model, count=2):
    return torch.randn(count, *input_size_of(model), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(model):
    parameter = next(model.parameters())
    return model(images(model).to(parameter.dtype))


def change(folder, **changes):
    """The folder with another config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def method_of(model):
    return find_stack(model).stack.method


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return vitrim.save_pretrained(reduced("metr", keep_rate=0.5), tmp_path_factory.mktemp("template") / "saved")


@pytest.fixture
def saved(template, tmp_path):
    """A folder with a model under METR over EViT."""
    return Path(shutil.copytree(template, tmp_path / "saved"))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("snapshot_download", "hf_hub_download", "get_session"):
        monkeypatch.setattr(f"huggingface_hub.{name}", refuse)


# What is written comes back.


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_with_the_same_logits_bit_for_bit(name, tmp_path):
    method, settings = FAMILIES[name]
    model = vitrim.reduce_tokens(built(name, **settings), method)
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert torch.equal(outputs(again), outputs(model))
    assert type(again) is type(model)
    assert not again.training
    assert method_of(again) == method_of(model)
    assert list(again.state_dict()) == list(model.state_dict())
    assert not torch.equal(outputs(again), outputs(vitrim.restore(again))), "the method did nothing here"


def test_a_model_without_reduction_comes_back_without(tmp_path):
    again = vitrim.from_pretrained(vitrim.save_pretrained(built(), tmp_path / "saved"))
    assert find_stack(again) is None
    assert torch.equal(outputs(again), outputs(built()))
    card = (tmp_path / "saved" / "README.md").read_text()
    assert "It carries all its tokens" in card
    assert "exits" not in card


def test_the_model_in_the_package_comes_back_without_a_path_of_this_machine(tmp_path):
    model = vitrim.reduce_tokens(load_model("vitrim_fashion_tiny"), "tome", r=4)
    folder = vitrim.save_pretrained(model, tmp_path / "saved")
    assert torch.equal(outputs(vitrim.from_pretrained(folder)), outputs(model))
    assert "vitrim_fashion_tiny.safetensors" not in (folder / "config.json").read_text()


@pytest.mark.parametrize("name", ["lvvit_tiny", "mf_deit_tiny_patch16_224"])
def test_models_of_vitrim_come_back(name, tmp_path):
    model = build_model(name, img_size=64, embed_dim=48, depth=5, num_heads=3, num_classes=7)
    vitrim.reduce_tokens(model, "evit", keep_rate=0.5, layers=(3,))
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert torch.equal(outputs(again), outputs(model))
    assert method_of(again) == method_of(model)


def test_what_changed_after_building_is_read_off_the_model(tmp_path):
    model = built()
    model.reset_classifier(3, "avg")
    model.set_input_size((40, 24))
    model.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "crop_pct": 1.0, "label_names": ("a", "b", "ß")}
    vitrim.reduce_tokens(model, "tome", r=3)
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert torch.equal(outputs(again), outputs(model))
    assert input_size_of(again) == (3, 40, 24)
    assert str(eval_transform(again)) == str(eval_transform(model))
    assert again.pretrained_cfg["label_names"] == ("a", "b", "ß")


def test_arguments_that_timm_did_not_note_are_read_off_too(tmp_path):
    model = built(reg_tokens=2, no_embed_class=True)
    del model._model_args  # as with older versions of timm
    vitrim.reduce_tokens(model, "evit")
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert torch.equal(outputs(again), outputs(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_precision_of_the_weights_stays(dtype, tmp_path):
    model = reduced("metr").to(dtype)
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert {parameter.dtype for parameter in again.parameters()} == {dtype}
    assert torch.equal(outputs(again), outputs(model))


def test_weights_that_share_memory_or_are_not_contiguous_are_saved(tmp_path):
    model = reduced()
    first, second = (block.mlp.fc1 for block in list(find_stack(model).stack.original.children())[:2])
    second.weight = first.weight
    model.head.weight.data = model.head.weight.data.t().contiguous().t()
    model.pos_embed.data = torch.randn(1, 80, 48)[:, :65]  # a view of a larger tensor
    state = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved")).state_dict()
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(state["blocks.0.mlp.fc1.weight"], state["blocks.1.mlp.fc1.weight"])
    assert (tmp_path / "saved" / "model.safetensors").stat().st_size < 1.1 * sum(
        value.numel() * 4 for value in model.state_dict().values()
    )  # without the rest of the larger tensor


def test_saving_changes_neither_the_model_nor_what_is_drawn_next(tmp_path):
    model = reduced("metr").train()
    model.blocks[0].eval()
    heard = []
    find_stack(model).stack.publish_into(heard)
    before = [(id(value), value.clone()) for value in model.parameters()]
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    vitrim.save_pretrained(model, tmp_path / "saved")
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(
        id(now) == then and torch.equal(now, value)
        for now, (then, value) in zip(model.parameters(), before, strict=True)
    )
    assert heard == []


# Methods and settings.


@pytest.mark.parametrize(
    "method",
    [
        *(METHODS[name]() for name in METHODS),
        ToMe(r=(13, -1.0)),
        ToMe(r=[13, 12]),
        ToMe(r=(13, 12, 11), prop_attn=False),
        EViT(keep_rate=0.1 + 0.2, layers=[3, 6], tokens=None),
        METR(method=ToMe(r=[1, 2]), exits=[], exit_weight=1e-9),
    ],
    ids=repr,
)
def test_settings_come_back_exactly(method):
    again = method_from_json(json.loads(json.dumps(method_to_json(method))))
    assert repr(again) == repr(method)  # a list and a tuple differ here, and 1 and 1.0
    assert again == method


@pytest.mark.parametrize("method", [ToMe(r=[9, 3]), METR(method=ToMe(r=[9, 3]))])
def test_a_pair_of_counts_for_two_blocks_is_not_taken_for_r_and_inflect(method, tmp_path):
    model = vitrim.reduce_tokens(built(depth=2), method)
    again = vitrim.from_pretrained(vitrim.save_pretrained(model, tmp_path / "saved"))
    assert method_of(again) == method_of(model)
    assert torch.equal(outputs(again), outputs(model))


def test_without_exits_the_plain_reduced_model_comes(saved):
    model = vitrim.from_pretrained(saved, exits=False)
    assert not any("method" in key for key in model.state_dict())
    assert isinstance(method_of(model), EViT)
    whole = vitrim.from_pretrained(saved)
    assert any("method.exit" in key for key in whole.state_dict())
    assert torch.equal(outputs(model), outputs(whole))


def test_the_method_can_be_left_out_or_replaced(saved):
    assert torch.equal(outputs(vitrim.from_pretrained(saved, method=None)), outputs(built()))
    assert isinstance(method_of(vitrim.from_pretrained(saved, method="random")), vitrim.Random)
    assert torch.equal(
        outputs(vitrim.from_pretrained(saved, method=ToMe(r=5))), outputs(vitrim.reduce_tokens(built(), ToMe(r=5)))
    )


def test_a_method_whose_weights_are_not_there_is_refused(tmp_path, saved):
    folder = vitrim.save_pretrained(reduced(), tmp_path / "plain")
    with pytest.raises(ValueError, match=r"has no weights for what the method learns \(blocks\.1\.method\.exit"):
        vitrim.from_pretrained(folder, method=METR(method=EViT()))
    with pytest.raises(ValueError, match="has no weights for what the method learns"):
        vitrim.from_pretrained(saved, method=METR(method=EViT(), exits=(0,)))


def test_a_method_from_elsewhere_is_refused_before_anything_is_written(tmp_path):
    @dataclass(frozen=True)
    class EViT(Method):  # the name of one of ours does not make it ours
        name = "mine"

    with pytest.raises(ValueError, match=r"EViT is not one of vitrim's methods"):
        vitrim.save_pretrained(vitrim.reduce_tokens(built(), EViT()), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [torch.tensor(0.5), float("nan"), object(), {1: 2}])
def test_settings_that_are_no_plain_values_are_refused(value):
    with pytest.raises(ValueError, match=r"EViT\.keep_rate is .*only numbers, words, tuples and lists can be saved"):
        method_to_json(EViT(keep_rate=value))


# Models that could not be built again.


def test_a_model_that_timm_does_not_know_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not say which model of timm's it is"):
        vitrim.save_pretrained(VisionTransformer(**SMALL), tmp_path / "saved")


def other_norm(model):
    model.blocks[1].norm1.eps = 1e-3


def other_activation(model):
    model.blocks[1].mlp.act = nn.ReLU()


def other_head(model):
    model.head = nn.Linear(48, 8)


@pytest.mark.parametrize(
    ("alter", "named"),
    [(other_norm, r"blocks\.1\.norm1\.eps is 0\.001"), (other_activation, r"act is a ReLU"), (other_head, "head")],
)
def test_a_model_altered_by_hand_is_refused_with_the_difference(alter, named, tmp_path):
    model = built()
    alter(model)
    with pytest.raises(ValueError, match=named) as error:
        vitrim.save_pretrained(vitrim.reduce_tokens(model, "evit"), tmp_path / "saved")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_plain_is_refused_in_recipe_and_metrics(tmp_path):
    for about in ({"recipe": {"lr": object()}}, {"metrics": {"top-1": torch.tensor(1.0)}}, {"metrics": {"a": 1e400}}):
        with pytest.raises(ValueError, match="recipe and metrics must be plain values"):
            vitrim.save_pretrained(built(), tmp_path / "saved", **about)


# Writing.


def test_a_folder_of_ours_is_replaced_and_nothing_is_left_beside_it(tmp_path, saved):
    vitrim.save_pretrained(reduced("tome", r=5), saved)
    assert isinstance(method_of(vitrim.from_pretrained(saved)), ToMe)
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    assert sorted(path.name for path in saved.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert stat.S_IMODE(saved.stat().st_mode) == 0o777 & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_an_empty_folder_is_filled_and_missing_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("empty", "not/yet/there"):
        folder = vitrim.save_pretrained(reduced(), str(tmp_path / place))
        assert torch.equal(outputs(vitrim.from_pretrained(folder)), outputs(reduced()))


def test_a_folder_of_something_else_is_left_alone(tmp_path, saved):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="holds files of something else, which saving would overwrite"):
        vitrim.save_pretrained(reduced(), other)
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes\.txt, which saving would overwrite: name a new folder"):
        vitrim.save_pretrained(reduced(), saved)
    assert (saved / "notes.txt").read_text() == "mine"
    with pytest.raises(ValueError, match=r"notes\.txt is a file: name a folder"):
        vitrim.save_pretrained(reduced(), saved / "notes.txt")


@pytest.mark.parametrize("writer", ["_write", "_write_weights", "_flush"])
@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_what_was_there(writer, there, tmp_path, monkeypatch, template):
    place = tmp_path / "saved"
    if there:
        shutil.copytree(template, place)

    def full(path, *_):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(f"vitrim.pretrained.write.{writer}", full)
    with pytest.raises(OSError, match=r"could not be saved to .*saved, which is as it was: No space left on device\."):
        vitrim.save_pretrained(reduced(), place)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == (["saved"] if there else [])
    if there:
        assert isinstance(method_of(vitrim.from_pretrained(place)), METR)


def test_a_limit_of_the_system_leaves_no_half_folder(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    model = reduced()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the weights take more
    try:
        with pytest.raises(OSError, match="could not be saved"):
            vitrim.save_pretrained(model, tmp_path / "saved")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_folder_is_named():
    model = reduced()
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        os.chmod(folder, 0o555)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # nothing is read-only to root
            with pytest.raises(OSError, match=r"could not be saved to .*: Permission denied\."):
                vitrim.save_pretrained(model, Path(folder) / "saved")
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)
        assert os.listdir(folder) == []


def test_what_was_not_written_as_it_was_is_found_before_it_takes_its_place(tmp_path, monkeypatch):
    def wrong(path, state):
        save_file({**state, "head.bias": state["head.bias"] + 1}, path)

    monkeypatch.setattr("vitrim.pretrained.write._write_weights", wrong)
    with pytest.raises(OSError, match="what was read back is not what was written"):
        vitrim.save_pretrained(reduced(), tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


# Reading.


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
        ({"vitrim_format": 2}, r"has format 2, and this version of vitrim reads format 1: it was written by vitrim"),
        ({"extra": 1, "more": 2}, "unknown key extra, more; known are architecture"),
        ({"architecture": "vit_tinny_patch16_224"}, "no model is called 'vit_tinny_patch16_224'; close names are"),
        ({"architecture": "hf-hub:owner/name"}, "must be the name of a model in timm"),
        ({"architecture": "local-dir:/tmp"}, "must be the name of a model in timm"),
        ({"architecture": ["vit"]}, r"architecture cannot be \['vit'\]"),
        ({"arguments": {"pretrained": True}}, "the argument pretrained is no business"),
        ({"arguments": {"checkpoint_path": "x.pth"}}, "the argument checkpoint_path is no business"),
        ({"arguments": {"nonsense": 1}}, "vit_tiny_patch16_224 cannot be built as it was saved: .*nonsense"),
        ({"arguments": ARGUMENTS | {"depth": "five"}}, r"cannot be built for images of \(32, 32\) pixels: unsupported"),
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


# The hub.


class Hub:
    """Repositories in a folder; takes calls only as huggingface_hub's own HfApi would."""

    def __init__(self, folder):
        self.folder, self.created = folder, {}

    def api(self, **_):
        return self

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        assert exist_ok or repo_id not in self.created
        self.created[repo_id] = private

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message, allow_patterns):
        assert repo_id in self.created
        assert commit_message
        target = self.folder / repo_id
        target.mkdir(parents=True, exist_ok=True)
        for path in Path(folder_path).iterdir():
            assert path.name in allow_patterns
            (target / path.name).write_bytes(path.read_bytes())
        return type("Commit", (), {"commit_url": f"https://hub/{repo_id}/commit/1"})()

    def download(self, repo_id, *, revision, allow_patterns, local_files_only):
        if revision not in (None, "main"):
            raise RuntimeError(f"no revision {revision}\nlong story")
        assert {path.name for path in (self.folder / repo_id).iterdir()} <= set(allow_patterns)
        return str(self.folder / repo_id)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub

    real = huggingface_hub.HfApi
    fake = Hub(tmp_path / "hub")
    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(fake, name, checked(getattr(real, name), getattr(fake, name)))
    monkeypatch.setattr("huggingface_hub.HfApi", fake.api)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", checked(huggingface_hub.snapshot_download, fake.download, unbound=False)
    )
    for place in ("read", "hub"):
        monkeypatch.setattr(f"vitrim.pretrained.{place}.check_answer", lambda: None)
    return fake


def checked(real, fake, unbound=True):
    """The fake, called only with what the real function would take."""
    import inspect

    def call(*args, **kwargs):
        inspect.signature(real).bind(*((None, *args) if unbound else args), **kwargs)
        return fake(*args, **kwargs)

    return call


def test_a_pushed_model_comes_back_from_the_hub(hub):
    model = reduced("metr", keep_rate=0.5)
    about = {"metrics": {"top-1": 71.25}, "notes": "## Mine\nabout it", "license": "cc-by-4.0", "recipe": {"epochs": 3}}
    address = vitrim.push_to_hub(model, "owner/small-vit", private=True, **about)
    assert address == "https://hub/owner/small-vit/commit/1"
    assert hub.created == {"owner/small-vit": True}
    pushed = hub.folder / "owner" / "small-vit"
    assert sorted(path.name for path in pushed.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert 'from_pretrained("owner/small-vit")' in (pushed / "README.md").read_text()
    again = vitrim.from_pretrained("owner/small-vit", revision="main")
    assert torch.equal(outputs(again), outputs(model))


def test_what_the_hub_refuses_is_told_in_one_line(hub, monkeypatch):
    with pytest.raises(OSError, match=r"no such repository at v9 can be had from the hub: no revision v9\.$"):
        vitrim.from_pretrained("owner/small-vit", revision="v9")
    with pytest.raises(ValueError, match="a repository on the hub is owner/name, not 'small-vit'"):
        vitrim.push_to_hub(built(), "small-vit")
    with pytest.raises(ValueError, match="is no name for a repository on the hub"):
        vitrim.push_to_hub(built(), "owner/../x")

    def forbidden(*_, **__):
        raise RuntimeError("403 Forbidden\nlong story")

    monkeypatch.setattr(hub, "create_repo", forbidden)
    with pytest.raises(OSError, match=r"could not be uploaded to owner/small-vit: 403 Forbidden\.$"):
        vitrim.push_to_hub(built(), "owner/small-vit")


def test_without_network_a_repository_is_looked_for_in_the_cache_alone(tmp_path, monkeypatch, saved):
    class Offline:
        def head(self, *_, **__):
            raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.get_session", Offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(OSError, match=r"no answer from https://\S+, and it is not in the cache\.$"):
        vitrim.from_pretrained("owner/small-vit")
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *_, local_files_only, **__: str(saved) if local_files_only else None
    )
    assert isinstance(method_of(vitrim.from_pretrained("owner/small-vit")), METR)
    with pytest.raises(OSError, match=r"could not be uploaded to owner/small-vit: no answer from"):
        vitrim.push_to_hub(built(), "owner/small-vit")


# The card.


def test_the_card_has_computed_numbers_and_what_was_given(tmp_path):
    yaml = pytest.importorskip("yaml")

    @dataclass
    class Recipe:
        epochs: int = 3

    model = reduced("metr", keep_rate=0.5)
    folder = vitrim.save_pretrained(
        model, tmp_path / "saved", recipe=Recipe(), metrics={"top-1 | fine": 71.25}, notes="See *there*."
    )
    _, header, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "vitrim",
        "pipeline_tag": "image-classification",
        "tags": ["vitrim", "timm", "vision-transformer", "token-reduction", "metr", "evit"],
    }
    full, less = vitrim.count_macs(built()) / 1e9, vitrim.count_macs(model) / 1e9
    assert f"| GMACs | {full:.4g} | {less:.4g} |" in text
    plain = sum(parameter.numel() for parameter in built().parameters())
    assert f"| parameters in use | {plain:,} | {plain:,} |" in text
    counts = find_stack(model).stack.spec
    assert counts.num_patches == 64
    assert "| tokens after each block | 65 x5 | 65, 34, 19, 11 x2 |" in text
    assert "| top-1 \\| fine | 71.25 |" in text
    assert "exits=False" in text
    assert '"epochs": 3' in text
    assert "See *there*." in text
    assert json.loads((folder / "config.json").read_text())["recipe"] == {"epochs": 3}
    assert "license" not in header


def test_the_code_of_the_card_runs(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    code = (saved / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names = {}
    exec(code, names)
    assert isinstance(method_of(names["model"]), METR)
    assert isinstance(method_of(names["plain"]), EViT)
    assert find_stack(names["whole"]) is None


def test_a_card_of_a_hostile_name_stays_one_header(tmp_path):
    yaml = pytest.importorskip("yaml")
    folder = vitrim.save_pretrained(built(), tmp_path / "saved", license='x"\n---\nmit: [')
    header = (folder / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(header)["license"] == 'x"\n---\nmit: ['


# As the model of other parts.


def test_load_model_takes_a_folder_with_all_its_tokens(saved):
    model = load_model(str(saved))
    assert find_stack(model) is None
    assert torch.equal(outputs(model), outputs(built()))
    assert load_model(str(saved), img_size=48)(torch.zeros(1, 3, 48, 48)).shape == (1, 7)
    with pytest.raises(ValueError, match="is a saved model and brings its weights"):
        load_model(str(saved), saved / "model.safetensors")


def test_reducing_a_loaded_model_differently_is_the_same_as_before_saving(saved):
    loaded = vitrim.reduce_tokens(vitrim.from_pretrained(saved), "evit", keep_rate=0.3)
    assert torch.equal(outputs(loaded), outputs(reduced(keep_rate=0.3)))
    assert read_backbone(loaded).spec == read_backbone(copy.deepcopy(built())).spec
    assert replace(method_of(loaded), keep_rate=0.3) == replace(method_of(reduced()), keep_rate=0.3)


def command(capsys, *args):
    """What a command printed, on both streams; it must succeed."""
    with pytest.raises(SystemExit) as end:
        app(list(map(str, args)))
    out, err = capsys.readouterr()
    assert end.value.code == 0, err
    return out, err


def test_evaluate_takes_a_folder_as_it_was_saved_unless_a_method_is_given(tmp_path, saved, capsys):
    data = save_images(tmp_path / "images")
    as_saved, _ = command(capsys, "evaluate", "--model", saved, "--data", data)
    otherwise, _ = command(capsys, "evaluate", "--model", saved, "--data", data, "--method", "tome", "--r", "5")
    assert as_saved.startswith(f"{saved}, evit as it was saved: top-1 ")
    assert otherwise.startswith(f"{saved}, tome r 5: top-1 ")
    hits = vitrim.evaluate_folder(vitrim.from_pretrained(saved), data).top1
    assert f"top-1 {hits:.2f} %" in as_saved


def test_evaluate_acts_with_the_saved_method(tmp_path, saved, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        "vitrim.measure.evaluate.evaluate_folder", lambda net, *_, **__: seen.append(net) or Score(1, 2, 3, (), 4)
    )
    command(capsys, "evaluate", "--model", saved, "--data", tmp_path)
    command(capsys, "evaluate", "--model", saved, "--data", tmp_path, "--method", "tome", "--r", "5")
    assert method_of(seen[0]) == method_of(vitrim.from_pretrained(saved, exits=False))
    assert isinstance(method_of(seen[1]), ToMe)


def test_compare_says_that_the_saved_method_does_not_act(tmp_path, saved, capsys):
    data = save_images(tmp_path / "images")
    where = ("--model", saved, "--data", data, "--output", tmp_path / "out")
    how = ("--methods", "tome", "--r", "5", "--rounds", "1", "--batch-size", "2", "--limit", "2")
    _, err = command(capsys, "compare", *where, *how)
    assert f"note: {saved} was saved with evit; here its weights are taken with all tokens" in " ".join(err.split())
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["unreduced", "tome"]
    assert rows[0]["tokens"] == [65] * 5


def test_macs_and_doctor_take_a_folder(saved, capsys):
    out, err = command(capsys, "macs", "--model", saved, "--methods", "random")
    assert "65 x5" in out
    assert "was saved with evit" in err
    out, _ = command(capsys, "doctor", saved)
    assert "64 patches" in out


def test_a_folder_that_is_no_model_is_told_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        app(["evaluate", "--model", str(tmp_path), "--data", str(tmp_path)])
    assert end.value.code == 2
    assert "is not a saved model: it has no model.safetensors" in capsys.readouterr().err


def test_whoever_may_read_the_configuration_may_read_the_weights(tmp_path):
    folder = vitrim.save_pretrained(build_model("test_vit", num_classes=3), tmp_path / "model")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]
    assert modes["config.json"] & stat.S_IRUSR
