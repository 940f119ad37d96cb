"""The identity of a run: model, weights, images and measuring settings. Rows of equal identity can be mixed."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from ..measure.images import LabelledImages
from ..measure.model_input import input_size_of
from ..measure.preparation import Preparation
from .environment import device_name, versions
from .job import Job

LENGTH = 16  # hex digits


def identity(
    job: Job, model: nn.Module, images: LabelledImages, preparation: Preparation, device: torch.device
) -> dict[str, Any]:
    """Return the identity of a run. Differences are reported in this order."""
    return {
        "model": job.model,
        "weights": weights_hash(model),
        "image size": "x".join(map(str, input_size_of(model)[1:])),
        "data": images.folder.resolve().name,
        "number of images": len(images),
        "images": images_hash(images),
        "labels": images.labels_by,
        "preparation": str(preparation),
        "bad images": "skipped" if job.skip_bad else "refused",
        "batch size": job.batch_size,
        "rounds": job.rounds,
        "dtype": job.dtype,
        "autocast": job.amp,
        "compiled": job.compile,
        "device": f"{device}, {device_name(device)}",
        "threads": torch.get_num_threads(),
        "seed": job.seed,
        **{name: version for name, version in versions().items() if name in ("vitrim", "torch", "timm")},
    }


def weights_hash(model: nn.Module) -> str:
    """Hash the names and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:LENGTH]


def images_hash(images: LabelledImages) -> str:
    """Hash the names, labels and sizes of the files. Reading every byte would take as long as decoding."""
    digest = hashlib.sha256()
    for i, (file, label) in enumerate(zip(images.files, images.labels, strict=True)):
        digest.update(f"{images.name(i)}\t{label}\t{file.stat().st_size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:LENGTH]
