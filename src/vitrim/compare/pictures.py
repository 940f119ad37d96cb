"""Token pictures for a report: which tokens each method keeps in a few sample images, as small PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from ..heads import logits_of
from ..measure.images import ImageDataError, LabelledImages, open_image
from ..measure.preparation import Preparation, as_seen
from ..store import replacing
from ..tracing import Trace, trace

SHORT_SIDE = 200  # least number of pixels on a side of a picture
MAX_PANELS = 3  # per method, spread over its reducing blocks
COLORS = 256  # a palette makes the files three times smaller


class Sample(NamedTuple):
    """An image as the model sees it."""

    name: str
    label: str
    x_CHW: Tensor
    image: Image.Image


def choose_samples(images: LabelledImages, preparation: Preparation, count: int) -> list[Sample]:
    """Choose at most `count` images, evenly spread over the classes. Leaves out unreadable ones."""
    count, transform, channels = min(count, len(images)), preparation.transform, preparation.input_size[0]
    samples = []
    for i in range(count):
        index = (2 * i + 1) * len(images) // (2 * count)
        try:
            x_CHW = transform(open_image(images.files[index], channels))
        except ImageDataError:
            continue  # evaluation reads every image and reports this one
        label = class_name(images.class_names, images.labels[index])
        samples.append(Sample(images.name(index), label, x_CHW, as_seen(x_CHW, transform)))
    return samples


def class_name(class_names: Sequence[str] | None, label: int) -> str:
    """The first name of a class, or its number."""
    return f"class {label}" if class_names is None else class_names[label].split(",")[0]


def save_samples(samples: Sequence[Sample], folder: Path) -> list[dict[str, Any]]:
    """Save the images. Returns one entry per image for the report, without tracks."""
    entries = []
    for i, sample in enumerate(samples):
        times = -(-SHORT_SIDE // min(sample.image.size))
        size = (sample.image.width * times, sample.image.height * times)
        _save(sample.image.resize(size, Image.Resampling.NEAREST), folder / f"{i}.png")
        entries.append({"image": f"{folder.name}/{i}.png", "name": sample.name, "label": sample.label, "tracks": []})
    return entries


def save_tracks(
    model: nn.Module,
    samples: Sequence[Sample],
    class_names: Sequence[str] | None,
    key: tuple[str, str],
    folder: Path,
) -> list[dict[str, Any]]:
    """Save pictures of the tokens that a reduced model keeps. Returns one track per sample for the report.

    key: (method, setting) of the model.
    """
    traced, predicted = trace_samples(model, samples)
    return [
        {
            "method": key[0],
            "setting": key[1],
            "predicted": class_name(class_names, label),
            "panels": _panels(traced, i, sample, folder, f"{i}-{key[0]}"),
        }
        for i, (sample, label) in enumerate(zip(samples, predicted, strict=True))
    ]


@torch.inference_mode()
def trace_samples(model: nn.Module, samples: Sequence[Sample]) -> tuple[Trace, list[int]]:
    """Run a reduced model on the samples. Returns its trace and the predicted class of each."""
    parameter = next(model.parameters())
    x_BCHW = torch.stack([sample.x_CHW for sample in samples]).to(parameter.device, parameter.dtype)
    with trace(model) as traced:
        logits_BK = logits_of(model(x_BCHW))
    return traced, logits_BK.argmax(dim=1).tolist()


def _panels(traced: Trace, index: int, sample: Sample, folder: Path, name: str) -> list[dict[str, str]]:
    """Save pictures of some reducing blocks, evenly spread, including the last."""
    from ..draw import layer_images

    pictures = layer_images(sample.image, traced, index, short_side=SHORT_SIDE)
    last = len(pictures) - 1
    panels = []
    for at in sorted({round(last * i / (MAX_PANELS - 1)) for i in range(MAX_PANELS)}) if pictures else ():
        layer = traced.layers[at]
        file = folder / f"{name}-block{layer.layer}.png"
        _save(pictures[at], file)
        caption = f"block {layer.layer}: {layer.num_tokens_B[index]} tokens"
        panels.append({"file": f"{folder.name}/{file.name}", "caption": caption})
    return panels


def _save(image: Image.Image, path: Path) -> None:
    with replacing(path) as new:
        image.convert("RGB").quantize(COLORS).save(new, optimize=True)
