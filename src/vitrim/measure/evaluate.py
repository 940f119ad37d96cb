"""Accuracy of a classifier on labelled images. Knows nothing of token reduction.

Shape letters: B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..heads import check_module, classifier_of, logits_of, num_classes
from . import image_processor
from .batches import Batch, ImageBatches, Progress, load_images
from .class_names import class_names_of
from .images import LabelledImages, list_images
from .preparation import Preparation, Transform, given_to

OTHERS = ("transformers", "torchvision", "open_clip")  # libraries with image preparations of their own


@dataclass(frozen=True)
class Score:
    """Share of images, in percent, whose class is the model's first choice, or among its first five."""

    top1: float
    top5: float  # 100 for a model with at most five classes
    num_images: int  # without the skipped ones
    skipped: tuple[str, ...]  # images that could not be read
    seconds: float  # decoding included where images are decoded on the way
    assumption: str = ""  # a sentence on the order of the classes, if it was assumed


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch | tuple[Tensor, Tensor]],
    *,
    device: torch.device | str = "cpu",
    amp: bool = False,
    progress: Progress | None = None,
    **model_kwargs: Any,
) -> Score:
    """Top-1 and top-5 of a model that gives logits [B, K], over batches of images and class indices.

    The model moves to the device and stays there; training modes are put back. amp: autocast to bf16, or to fp16 on
    a GPU without bf16. progress: called after each batch with images done and images in all (0 if unknown).
    model_kwargs: of the model's forward, such as interpolate_pos_encoding=True.
    ValueError for logits that are not finite, or too few for the labels.
    """
    start = time.perf_counter()
    device = check_device(device)
    total = count_images(batches)
    hits1 = hits5 = num_images = 0
    skipped: list[str] = []
    with evaluating(model.to(device)), torch.inference_mode(), autocast(device, amp):
        for x_BCHW, labels_B, names in (Batch(*batch) for batch in batches):
            skipped += names
            if len(labels_B) > 0:
                in1, in5 = _hits(_logits(model, x_BCHW, device, model_kwargs), labels_B.to(device))
                hits1, hits5, num_images = hits1 + in1, hits5 + in5, num_images + len(labels_B)
            if progress is not None:
                progress(num_images + len(skipped), total)
    if num_images == 0:
        raise ValueError(f"there was no image to evaluate: {len(skipped)} could not be read.")
    share = 100 / num_images
    return Score(hits1 * share, hits5 * share, num_images, tuple(skipped), time.perf_counter() - start)


def evaluate_folder(
    model: nn.Module,
    folder: Path | str,
    *,
    limit: int | None = None,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
    amp: bool = False,
    skip_bad: bool = False,
    num_workers: int | None = None,
    progress: Progress | None = None,
    transform: Transform | None = None,
    **model_kwargs: Any,
) -> Score:
    """Top-1 and top-5 on a folder of images (`labelled_images`), prepared by the model's own library.

    transform: prepares the images in its place, image -> [C, H, W]. model_kwargs: of the model's forward.
    """
    images = labelled_images(model, folder, limit)
    batches = load_images(
        images,
        eval_transform(model) if transform is None else transform,
        input_size_of(model)[0],
        batch_size=batch_size,
        skip_bad=skip_bad,
        num_workers=num_workers,
        max_bytes=0,
    )
    score = evaluate(model, batches, device=device, amp=amp, progress=progress, **model_kwargs)
    return replace(score, assumption=images.assumption)


def labelled_images(model: nn.Module, folder: Path | str, limit: int | None = None) -> LabelledImages:
    """The labelled images of a folder, its classes matched with the model's by what the model calls them."""
    num_classes = num_classes_of(model)
    return list_images(folder, num_classes, limit, names=class_names_of(model, num_classes))


def num_classes_of(model: nn.Module) -> int:
    """Classes that a model tells apart, by its head; ValueError for one that does not say, or has none."""
    check_module(model)
    known = classifier_of(model) is not None
    found = num_classes(model) if known else getattr(model, "num_classes", None)
    if not isinstance(found, int):
        what = "has a head that does not tell how many classes it knows" if known else "does not say its num_classes"
        raise ValueError(f"{type(model).__name__} {what}: use list_images and evaluate.")
    if found < 1:
        raise ValueError(f"{type(model).__name__} has no classes, so there is no accuracy to measure.")
    return found


def eval_transform(model: nn.Module) -> Transform:
    """What makes an image the model's input, as `preparation_of` says: image -> [C, H, W], normalised."""
    return preparation_of(model).transform


def preparation_of(model: nn.Module) -> Preparation:
    """How the model's library prepares images for it: by timm's evaluation transform at the size it was built for.

    Models of other libraries bring their own, from `load_model`, or from the folder of transformers they came from.
    ValueError for one that does not.
    """
    if (given := given_to(model)) is not None:
        return given
    library = next((name for cls in type(model).__mro__ if (name := cls.__module__.partition(".")[0]) in OTHERS), None)
    if library == "transformers" and (name := getattr(getattr(model, "config", None), "_name_or_path", "")):
        return image_processor.preparation_at(name, model.config)
    if library is not None:
        raise ValueError(
            f"{type(model).__name__} is a model of {library} and does not say how its images are prepared: load it by "
            f"name ({library}:NAME), pass a transform to evaluate_folder, or batches of images to evaluate."
        )
    from timm import data

    timm_data: Any = data  # untyped
    config = data_config(model)
    return Preparation("timm", timm_data.create_transform(**config, is_training=False), config["input_size"], config)


def data_config(model: nn.Module) -> dict[str, Any]:
    """timm's terms for its preparation: input_size, mean, std, interpolation, crop_pct, crop_mode."""
    from timm import data

    size = input_size_of(model)
    timm_data: Any = data  # untyped
    config: dict[str, Any] = timm_data.resolve_model_data_config(model, args={"input_size": size})
    for key in ("mean", "std"):
        if len(config[key]) != size[0]:  # timm's default has three colours; gray takes their average
            config[key] = (sum(config[key]) / len(config[key]),) * size[0]
    return config


def input_size_of(model: nn.Module) -> tuple[int, int, int]:
    """Channels, height and width of a model's images: as its preparation makes them, or as it was built for them."""
    if (given := given_to(model)) is not None:
        return given.input_size
    tower: Any = getattr(model, "visual", model)  # a vision tower beside a text tower, in open_clip
    embed: Any = getattr(tower, "patch_embed", None)
    size: Any = getattr(embed, "img_size", None)
    if size is None:  # torchvision and open_clip keep it in the model, transformers in the config
        config: Any = getattr(tower, "config", None)
        size = getattr(getattr(config, "vision_config", config), "image_size", getattr(tower, "image_size", None))
        embed = tower
        if getattr(tower, "main_input_name", "pixel_values") != "pixel_values":
            raise ValueError(f"{type(model).__name__} takes more than images: pass the part that takes images alone.")
    parts = embed.modules() if isinstance(embed, nn.Module) else ()
    first = next((part for part in parts if isinstance(part, nn.Conv2d)), None)
    if size is not None and first is not None:
        height, width = (size, size) if isinstance(size, int) else size
        return first.in_channels, int(height), int(width)
    config = getattr(model, "pretrained_cfg", None) or {}
    if config.get("input_size") is None:
        raise ValueError(f"{type(model).__name__} does not say for which image size it was built: pass input_size.")
    channels, height, width = config["input_size"]
    return channels, height, width


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, each of its modules back in its own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def check_device(device: torch.device | str) -> torch.device:
    """The device, if this machine has it; else ValueError."""
    try:
        return torch.empty(1, device=device).device  # with its index: "cuda" becomes "cuda:0"
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        here = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise ValueError(f"device {str(device)!r} cannot be used; this machine has {here}.") from error


def count_images(batches: Iterable[Batch | tuple[Tensor, Tensor]]) -> int:
    """Images in all of the batches, skipped ones included; 0 if that cannot be told beforehand."""
    if isinstance(batches, ImageBatches):
        return batches.num_images
    if isinstance(batches, Sequence):
        return sum(len(batch[1]) + len(Batch(*batch).skipped) for batch in batches)
    return 0


def autocast(device: torch.device, amp: bool) -> Any:
    """A context with autocast to bf16, or to fp16 on a GPU without bf16; without amp one that does nothing."""
    if not amp:
        return nullcontext()
    half = device.type == "cuda" and not torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, torch.float16 if half else torch.bfloat16)


def _logits(model: nn.Module, x_BCHW: Tensor, device: torch.device, model_kwargs: Mapping[str, Any]) -> Tensor:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), x_BCHW.dtype)
    logits_BK = logits_of(model(x_BCHW.to(device, dtype), **model_kwargs))
    if not isinstance(logits_BK, Tensor) or logits_BK.ndim != 2:
        shape = tuple(logits_BK.shape) if isinstance(logits_BK, Tensor) else type(logits_BK).__name__
        raise ValueError(f"evaluate needs a classifier with logits [batch, classes]; {shape} came out.")
    if not logits_BK.isfinite().all():
        raise ValueError("the model's logits are not finite (NaN or infinity): its weights or its precision are unfit.")
    return logits_BK


def _hits(logits_BK: Tensor, labels_B: Tensor) -> tuple[int, int]:
    num_classes = logits_BK.shape[1]
    if int(labels_B.max()) >= num_classes:
        raise ValueError(f"a label is {int(labels_B.max())}, and the model has classes 0 to {num_classes - 1}.")
    best_B5 = logits_BK.topk(min(5, num_classes), dim=1).indices
    hit_B5 = best_B5 == labels_B.unsqueeze(1)
    return int(hit_B5[:, 0].sum()), int(hit_B5.any(dim=1).sum())
