"""Models by name, with weights from files, from timm, or not at all."""

from __future__ import annotations

import argparse
import os
import pathlib

import pytest
import timm
import torch
from safetensors.torch import save_file

import vitrim
from small_job import MODEL, save_checkpoint
from vitrim.loading import build as load
from vitrim.loading.build import build_model, load_model
from vitrim.loading.weights import check_fit, read_checkpoint


@pytest.fixture
def weights(tmp_path):
    return save_checkpoint(tmp_path / "weights.safetensors")


def same(model, state):
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_a_safetensors_file_is_loaded_in_eval_mode(weights):
    model = load_model(MODEL, weights)
    assert same(model, read_checkpoint(weights))
    assert not model.training


@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_pth_file_is_found_where_training_scripts_put_it(tmp_path, weights, key, prefix):
    state = read_checkpoint(weights)
    wrapped = {prefix + name: value for name, value in state.items()}
    file = tmp_path / "weights.pth"
    torch.save(wrapped if key is None else {"epoch": 3, key: wrapped}, file)
    assert same(load_model(MODEL, file), state)


def test_half_precision_weights_become_the_models_precision(tmp_path, weights):
    state = {key: value.half() for key, value in read_checkpoint(weights).items()}
    save_file(state, tmp_path / "half.safetensors")
    model = load_model(MODEL, tmp_path / "half.safetensors")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_position_embeddings_are_resampled_when_a_size_is_asked_for(weights):
    model = load_model(MODEL, weights, img_size=64)
    assert model.pos_embed.shape == (1, 17, 64)
    assert model(torch.zeros(1, 3, 64, 64)).isfinite().all()


def test_a_checkpoint_at_another_size_fits_with_that_size(tmp_path):
    file = save_checkpoint(tmp_path / "small.safetensors", img_size=64)
    assert same(load_model(MODEL, file, img_size=64), read_checkpoint(file))
    with pytest.raises(ValueError, match=r"shape.*pos_embed.*1x17x64.*1x101x64"):
        load_model(MODEL, file)


def test_a_checkpoint_of_another_model_says_what_differs(tmp_path):
    file = save_checkpoint(tmp_path / "other.safetensors", "test_vit2")
    with pytest.raises(ValueError, match=r"checkpoint of test_vit.*unknown.*blocks") as error:
        load_model(MODEL, file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("axes", [(), (64,), (1, 17, 1, 64), (1, 0, 64), (1, 1, 64)])
@pytest.mark.parametrize("model", [MODEL, "torchvision:vit_b_16"])
def test_positions_of_a_shape_that_nobody_expects_are_told(tmp_path, axes, model):
    key = "pos_embed" if model == MODEL else "encoder.pos_embedding"
    torch.save({key: torch.zeros(axes)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth"):
        load_model(model, tmp_path / "odd.pth", img_size=64)


def test_missing_keys_are_named(tmp_path, weights):
    state = read_checkpoint(weights)
    save_file(
        {key: value for key, value in state.items() if not key.startswith("head")}, tmp_path / "headless.safetensors"
    )
    with pytest.raises(ValueError, match=r"2 missing.*head\.weight, head\.bias"):
        load_model(MODEL, tmp_path / "headless.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_damaged_file_is_refused(tmp_path, weights, suffix):
    file = tmp_path / f"damaged{suffix}"
    if suffix == ".pth":
        torch.save(read_checkpoint(weights), file)
        file.write_bytes(file.read_bytes()[:2000])
    else:
        file.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ValueError, match="not a"):
        read_checkpoint(file)


def test_a_pickle_of_objects_is_not_executed(tmp_path):
    file = tmp_path / "objects.pth"
    torch.save({"model": timm.create_model(MODEL)}, file)
    with pytest.raises(ValueError, match=r"PyTorch file.*tensors"):
        read_checkpoint(file)


def test_the_arguments_of_a_training_script_may_lie_beside_the_weights(tmp_path, weights):
    state = read_checkpoint(weights)
    torch.save({"model": state, "args": argparse.Namespace(lr=5e-4), "epoch": 3}, tmp_path / "args.pth.tar")
    assert same(load_model(MODEL, str(tmp_path / "args.pth.tar")), state)


def test_what_cannot_be_read_safely_is_named(tmp_path):
    torch.save({"model": {}, "where": pathlib.PurePosixPath("a")}, tmp_path / "path.pth")
    with pytest.raises(ValueError, match="pathlib"):
        read_checkpoint(tmp_path / "path.pth")


@pytest.mark.parametrize("prefix", ["model.", "net.", "model._orig_mod."])
def test_checkpoints_of_lightning_are_read(tmp_path, weights, prefix):
    state = read_checkpoint(weights)
    torch.save({"state_dict": {prefix + key: value for key, value in state.items()}}, tmp_path / "last.ckpt")
    assert same(load_model(MODEL, tmp_path / "last.ckpt"), state)


def test_of_weights_and_their_moving_average_it_is_said_which_are_taken(tmp_path, weights):
    state = read_checkpoint(weights)
    torch.save({"state_dict_ema": state, "state_dict": state}, tmp_path / "both.pth")
    with pytest.warns(UserWarning, match="state_dict.*state_dict_ema"):
        load_model(MODEL, tmp_path / "both.pth")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64, torch.float8_e5m2])
def test_numbers_that_are_no_weights_are_refused(tmp_path, weights, dtype):
    state = read_checkpoint(weights)
    for name, value in (("head.bias", state["head.bias"]), ("pos_embed", state["pos_embed"])):
        save_file(state | {name: value.to(dtype)}, tmp_path / "kinds.safetensors")
        kind = str(dtype).removeprefix("torch.")
        with pytest.raises(ValueError, match=rf"floating-point.*{name} is {kind}"):
            load_model(MODEL, tmp_path / "kinds.safetensors")


def test_numbers_that_are_no_weights_are_refused_before_timm_converts_them(tmp_path):
    model = timm.create_model(MODEL, num_classes=3)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    assert same(load_model(f"local-dir:{tmp_path}"), model.state_dict())
    state = {key: value.long() for key, value in model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"floating-point.*\(I64\)"):
        load_model(f"local-dir:{tmp_path}")


def test_buffers_that_count_stay_whole_numbers_even_from_a_file_in_half_precision(tmp_path):
    model = build_model("lvvit_tiny", img_size=32, depth=2)
    counts = [key for key, value in model.state_dict().items() if value.dtype == torch.int64]
    assert counts
    halves = {key: value.half() for key, value in model.state_dict().items()}
    check_fit(model, model.state_dict(), "it", tmp_path)
    check_fit(model, halves, "it", tmp_path)
    with pytest.raises(ValueError, match=counts[0]):
        check_fit(model, halves | {counts[0]: torch.tensor(0.5)}, "it", tmp_path)


def test_weights_that_are_not_finite_are_told(tmp_path, weights):
    state = read_checkpoint(weights)
    save_file(state | {"head.bias": state["head.bias"] * torch.nan}, tmp_path / "nan.safetensors")
    with pytest.warns(UserWarning, match=r"NaN.*head\.bias"):
        read_checkpoint(tmp_path / "nan.safetensors")


def odd_contents():
    loop = {}
    loop["model"] = loop
    yield "numbers for names", {1: torch.zeros(2)}, "no state_dict"
    yield "in itself", loop, "no state_dict"
    yield "sparse", {"a": torch.eye(3).to_sparse()}, "a .*sparse_coo"
    yield "meta", {"a": torch.zeros(3, device="meta")}, "a .*meta"
    yield "long", {"module." * 2000 + "a\nb": torch.zeros(3)}, r"unknown.*module.*\.\.\."
    yield "odd characters", {"a\n\x1b[2Jb": torch.zeros(3)}, r"unknown.*a \\x1b\[2Jb"


ODD = {name: each for name, *each in odd_contents()}


@pytest.mark.parametrize(("content", "message"), ODD.values(), ids=ODD)
def test_odd_contents_are_refused_in_one_short_line(tmp_path, content, message):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=message) as error:
        load_model(MODEL, tmp_path / "odd.pth")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500 + len(str(tmp_path))


def test_weights_in_several_files_are_told(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="several files"):
        load_model(MODEL, tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize("name", [MODEL, "test_vit.r160_in1k"])
def test_a_model_has_the_classes_of_the_checkpoints_head(tmp_path, name):
    state = timm.create_model(MODEL, num_classes=10).state_dict()
    torch.save(state, tmp_path / "mine.pth")
    model = load_model(name, tmp_path / "mine.pth")
    assert model.num_classes == len(model.head.weight) == 10
    assert same(model, state)


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "log.pth")
    with pytest.raises(ValueError, match="no state_dict"):
        read_checkpoint(tmp_path / "log.pth")


def test_other_files_are_refused_by_their_suffix(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"\.safetensors.*\.pth"):
        read_checkpoint(tmp_path / "notes.txt")
    with pytest.raises(FileNotFoundError, match=r"no checkpoint.*absent"):
        read_checkpoint(tmp_path / "absent.pth")


def test_an_unknown_name_gets_close_ones():
    with pytest.raises(ValueError, match=r"'deit_tiny_patch16_244'.*deit_tiny_patch16_224"):
        build_model("deit_tiny_patch16_244")
    with pytest.raises(ValueError, match=r"test_vit\.nonsense.*test_vit\.r160_in1k"):
        build_model("test_vit.nonsense")


@pytest.mark.parametrize("size", [True, "64", 33, (64, 33), (64,), 10**9])
def test_a_size_that_no_forward_would_take_is_refused_before(size):
    with pytest.raises(ValueError, match="size"):
        build_model("test_vit", img_size=size)
    assert build_model("test_vit", img_size=(64, 32)).patch_embed.grid_size == (4, 2)


def test_a_size_that_a_model_cannot_have_is_refused():
    with pytest.raises(ValueError, match=r"resnet18.*96 pixels"):
        build_model("resnet18", img_size=96)


def test_without_network_the_error_says_what_to_do(monkeypatch):
    class Offline:
        def head(self, *_, **__):
            raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.get_session", Offline)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(OSError, match=r"weights of test_vit.*network.*--checkpoint FILE"):
        load_model(MODEL)


def test_a_model_that_has_no_pretrained_weights_says_so():
    with pytest.raises(ValueError, match=r"no pretrained weights.*vit_small_patch16_36x1_224.*--checkpoint"):
        load_model("vit_small_patch16_36x1_224")


def test_building_a_model_never_asks_for_weights(monkeypatch):
    monkeypatch.setattr(load, "check_hub", lambda *_: pytest.fail("asked the hub"))
    assert not build_model(MODEL).training


def test_weights_that_are_missing_from_the_installation_are_named(monkeypatch):
    monkeypatch.setattr(load, "_config_of", lambda _: {"file": "gone.safetensors"})
    with pytest.raises(FileNotFoundError, match=r"weights of test_vit.*gone\.safetensors"):
        load_model(MODEL)


def test_the_model_in_the_package_takes_images_of_other_sizes():
    model = load_model("vitrim_fashion_tiny", img_size=36)
    assert model(torch.zeros(1, 1, 36, 36)).isfinite().all()
    assert model.pos_embed.shape == (1, 145, 96)


def test_a_pipe_is_no_checkpoint(tmp_path):
    for name in ("pipe.pth", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)  # which would be waited for
        with pytest.raises(ValueError, match="pipe"):
            read_checkpoint(tmp_path / name)


def test_a_folder_may_be_named_by_a_path(tmp_path):
    model = build_model(MODEL)
    vitrim.save_pretrained(model, tmp_path / "saved")
    assert same(load_model(tmp_path / "saved"), model.state_dict())
