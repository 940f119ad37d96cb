"""What rows of rivals need beside those of methods: a model of their own, and images prepared for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..api import method_of
from ..backbones.reader import read_backbone
from ..loading.build import load_model
from ..measure.batches import ImageBatches, image_batches
from ..measure.budget.formula import token_counts
from ..measure.model_input import preparation_of
from ..measure.preparation import Preparation
from ..rivals import Rebuild, Rival
from .job import Job
from .row import Key


def rebuilding(job: Job) -> Rebuild:
    """Make the job's model for images of another size."""
    return lambda size: load_model(job.model, job.checkpoint, img_size=size)


def rivals_by_key(job: Job) -> Mapping[Key, Rival]:
    """The rivals by the keys of their rows."""
    return {rival.key: rival for rival in job.rivals}


def batches_for(job: Job, preparation: Preparation, batches: ImageBatches) -> ImageBatches:
    """The same images, prepared in another way; decoded in each pass."""
    return image_batches(
        batches.images,
        preparation.transform,
        preparation.input_size[0],
        batch_size=job.batch_size,
        skip_bad=job.skip_bad,
        max_bytes=0,
    )


def prepared_like(model: nn.Module, other: Preparation) -> Preparation:
    """The preparation of a model's images: the other one, if they are equal."""
    own = preparation_of(model)
    return other if str(own) == str(other) else own


def tokens_of(model: nn.Module) -> tuple[int, ...]:
    """Tokens after each block; none for a model whose blocks cannot be read."""
    try:
        return token_counts(read_backbone(model).spec, method_of(model))
    except ValueError:
        return ()


def settings_of_rival(rival: Rival | None) -> dict[str, Any]:
    """The settings of its row; none for the unreduced one."""
    return {} if rival is None or rival.value is None else {rival.kind: rival.value}
