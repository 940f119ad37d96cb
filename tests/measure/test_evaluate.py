"""Accuracy is counted correctly, and the model is not changed."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from vitrim.measure import evaluate as evaluation
from vitrim.measure.batches import Batch
from vitrim.measure.evaluate import evaluate
from vitrim.measure.folder import evaluate_folder
from vitrim.measure.forwards import check_device, evaluating
from vitrim.measure.model_input import eval_transform, input_size_of


class Answers(nn.Module):
    """Takes logits for images: what comes in goes out."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x)


def logits(*ranked: list[int], classes: int = 10) -> torch.Tensor:
    """One row per list; the listed classes are the best, in that order."""
    rows = torch.zeros(len(ranked), classes)
    for row, best in zip(rows, ranked, strict=True):
        row[best] = torch.arange(len(best), 0, -1, dtype=torch.float32)
    return rows


def labels(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_top1_and_top5_are_shares_of_all_images():
    best = [[3, 1, 4, 5, 9, 2]]
    batches = [(logits(*best * 3), labels(3, 9, 2)), (logits(*best), labels(3))]
    score = evaluate(Answers(), batches)
    assert (score.top1, score.top5, score.num_images, score.skipped) == (50.0, 75.0, 4, ())
    assert score.seconds > 0


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_with_at_most_five_classes_all_are_in_the_top5(classes):
    score = evaluate(Answers(), [(logits([0], classes=classes), labels(classes - 1))])
    assert score.top5 == 100.0
    assert score.top1 == (100.0 if classes == 1 else 0.0)


def test_skipped_images_are_named_and_do_not_count():
    batches = [
        Batch(logits([1]), labels(1), ("bad.png",)),
        Batch(torch.empty(0), torch.empty(0, dtype=torch.long), ("worse.png",)),
    ]
    score = evaluate(Answers(), batches)
    assert (score.top1, score.num_images, score.skipped) == (100.0, 1, ("bad.png", "worse.png"))


def test_progress_counts_up_to_all_images():
    seen = []
    batches = [Batch(logits([1], [2]), labels(1, 2), ("bad.png",)), Batch(logits([1]), labels(1))]
    evaluate(Answers(), batches, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]
    evaluate(Answers(), iter(batches), progress=lambda done, total: seen.append((done, total)))
    assert seen[2:] == [(3, 0), (4, 0)]


def test_every_module_returns_to_its_own_mode():
    model = nn.Sequential(Answers(), Answers()).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    evaluate(model, [(logits([1]), labels(1))])
    assert [module.training for module in model.modules()] == modes
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == modes


def test_an_error_in_the_model_leaves_its_modes_alone_too():
    model = Answers().train()
    with pytest.raises(ValueError, match="not finite"):
        evaluate(model, [(logits([1]) * float("nan"), labels(1))])
    assert model.training


def test_dropout_is_off_and_nothing_is_differentiated():
    seen = []

    class Watch(Answers):
        def forward(self, x):
            seen.append((self.training, torch.is_inference_mode_enabled()))
            return super().forward(x)

    evaluate(Watch().train(), [(logits([1]), labels(1))])
    assert seen == [(False, True)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(bad):
    with pytest.raises(ValueError, match="not finite"):
        evaluate(Answers(), [(logits([1]) * bad, labels(1))])


def test_a_label_beyond_the_classes_is_an_error():
    with pytest.raises(ValueError, match=r"label.* 10.* 0 to 9"):
        evaluate(Answers(), [(logits([1]), labels(10))])


def test_no_image_at_all_is_an_error():
    with pytest.raises(ValueError, match=r"no image.* 1 "):
        evaluate(Answers(), [Batch(torch.empty(0), torch.empty(0, dtype=torch.long), ("bad.png",))])


def test_a_model_without_logits_is_an_error():
    with pytest.raises(ValueError, match=r"logits.*\(1, 3, 8, 8\)"):
        evaluate(nn.Identity(), [(torch.zeros(1, 3, 8, 8), labels(1))])


@pytest.mark.parametrize("device", ["cuda:77", "gpu", "tpu0"])
def test_a_device_that_is_not_here_is_an_error(device):
    with pytest.raises(ValueError, match=f"device '{device}'.* cpu"):
        check_device(device)
    with pytest.raises(ValueError, match=f"device '{device}'"):
        evaluate(Answers(), [(logits([1]), labels(1))], device=device)


def test_amp_and_half_precision_models_run(tiny_vit):
    x, y = torch.randn(4, 3, 32, 32), labels(0, 1, 2, 3)
    seen = []
    model = tiny_vit()
    model.head.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    evaluate(model, [(x, y)], amp=True)
    evaluate(model.bfloat16(), [(x, y)])
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_a_mean_of_another_number_of_values_than_channels_is_refused(tiny_vit):
    model = tiny_vit(img_size=32, patch_size=2)
    model.pretrained_cfg = {"mean": (0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    with pytest.raises(ValueError, match=r"mean has 2 values.*3 channels"):
        eval_transform(model)


@pytest.mark.parametrize(("channels", "size"), [(1, 30), (3, 32), (3, (32, 64))])
def test_the_transform_fits_the_model(tiny_vit, channels, size):
    model = tiny_vit(img_size=size, patch_size=2, in_chans=channels)
    height, width = (size, size) if isinstance(size, int) else size
    assert input_size_of(model) == (channels, height, width)
    image = Image.new("L" if channels == 1 else "RGB", (70, 50), 128)
    x = eval_transform(model)(image)
    assert x.shape == (channels, height, width)
    if channels == 1:  # the average of timm's default colours
        assert x.mean() == pytest.approx((128 / 255 - (0.485 + 0.456 + 0.406) / 3) / ((0.229 + 0.224 + 0.225) / 3))


def test_the_transform_follows_the_size_and_settings_of_a_timm_model():
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=64, in_chans=1, depth=1)
    assert input_size_of(model) == (1, 64, 64)
    x = eval_transform(model)(Image.new("L", (100, 100), 255))
    assert x.shape == (1, 64, 64)
    assert x.unique().tolist() == [1.0]  # this model's mean and deviation are 0.5


def test_the_transform_is_also_where_cards_of_older_saved_models_name_it():
    assert evaluation.eval_transform is eval_transform


def test_a_model_of_unknown_size_is_an_error():
    with pytest.raises(ValueError, match=r"Linear.*size"):
        input_size_of(nn.Linear(2, 2))


def test_a_folder_is_evaluated_like_its_images_one_by_one(tiny_vit, tmp_path):
    torch.manual_seed(0)
    for i in range(20):
        path = tmp_path / f"{i % 10}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(path)
    (tmp_path / "9" / "19.png").write_bytes(b"bad")
    model, seen = tiny_vit(), []
    score = evaluate_folder(model, tmp_path, batch_size=8, skip_bad=True, progress=lambda *args: seen.append(args))
    assert (score.num_images, score.skipped) == (19, ("9/19.png",))
    assert seen == [(8, 20), (16, 20), (20, 20)]
    transform = eval_transform(model)
    hits = 0
    for i in range(19):
        with Image.open(tmp_path / f"{i % 10}" / f"{i}.png") as image, torch.no_grad():
            hits += int(model(transform(image).unsqueeze(0)).argmax()) == i % 10
    assert score.top1 == pytest.approx(100 * hits / 19)
    assert evaluate_folder(model, tmp_path, limit=5).num_images == 5


def test_a_model_that_does_not_say_its_classes_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"Linear.*num_classes"):
        evaluate_folder(nn.Linear(2, 2), tmp_path)


def test_deit_tiny_recognises_the_shared_validation_images(deit_checkpoint, imagenet_val):
    """81.6 and 94.9 % on all 1,300 images; on 100 of them, 10 points up or down are chance."""
    import timm
    from safetensors.torch import load_file

    model = timm.create_model("deit_tiny_patch16_224")
    model.load_state_dict(load_file(deit_checkpoint))
    score = evaluate_folder(model, imagenet_val, limit=100)
    assert 70 <= score.top1 <= 92
    assert 88 <= score.top5 <= 100
    assert score.num_images == 100
