"""Prepare a comparison: load and check the model, the methods that fit it, and the images."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ..api import reduce_tokens
from ..backbones.reader import read_backbone
from ..core.method import Method
from ..core.spec import ViTSpec
from ..loading.build import load_checked
from ..measure.benchmark import DTYPES
from ..measure.budget.formula import token_counts
from ..measure.folder import labelled_images
from ..measure.forwards import check_device
from ..measure.images import LabelledImages
from ..measure.model_input import preparation_of
from ..measure.preparation import Preparation
from ..quantize import check_torchao, quantize_int8
from ..rivals import Rival, check_rivals
from .configuration import Configuration
from .fitting import Fit, fit
from .identity import identity
from .job import Job
from .rival_rows import rebuilding, rivals_by_key
from .row import UNREDUCED, Key, int8_key
from .run_folder import check_output

UNREDUCED_KEY = (UNREDUCED, "")  # of the first row
INT8_KEY = int8_key(UNREDUCED_KEY)  # a rival, too


@dataclass(frozen=True)
class Bench:
    """Everything a job needs: the model with its weights, the methods, the list of images."""

    job: Job
    device: torch.device
    model: nn.Module
    spec: ViTSpec
    fit: Fit
    images: LabelledImages
    preparation: Preparation
    identity: dict[str, Any]

    @property
    def methods(self) -> Mapping[Key, Method]:
        """The methods that fit the model, by key."""
        return self.fit.methods

    @property
    def keys(self) -> dict[Key, Key]:
        """Keys of all rows in order, each with the key of the same row in floating point."""
        plain = (UNREDUCED_KEY, *self.methods, *(key for key in self.rivals if key != INT8_KEY))
        found = {each: key for key in plain for each in ((key, int8_key(key)) if self.job.int8 else (key,))}
        return found | ({INT8_KEY: UNREDUCED_KEY} if INT8_KEY in self.rivals else {})

    @property
    def rivals(self) -> Mapping[Key, Rival]:
        """The rivals by key."""
        return rivals_by_key(self.job)

    def rival(self, key: Key) -> Rival | None:
        """Return the rival of a row, in floating point or int8. The unreduced model in int8 always is one."""
        return Rival("int8") if key == INT8_KEY else self.rivals.get(self.keys[key])

    def reduced(self, key: Key) -> nn.Module:
        """Return the model of a row, as a copy unless it is the unreduced row."""
        if key == UNREDUCED_KEY:
            return self.model
        plain = self.keys[key]
        if plain in self.rivals:
            model = self.rivals[plain].make(self.model, rebuilding(self.job))
        else:
            model = copy.deepcopy(self.model)
            if plain != UNREDUCED_KEY:
                reduce_tokens(model, self.methods[plain])
        return model if key == plain else quantize_int8(model)

    def resolved(self, key: Key) -> Method | None:
        """Return the method of a row, with every setting resolved for the model. None for any other row."""
        method = self.methods.get(self.keys[key])
        return None if method is None else method.built_for(self.spec)


def prepare(job: Job) -> Bench:
    """Check everything and load the model. Raises ValueError or OSError with one line."""
    check_output(job.output)
    device = check_device(job.device)
    if job.int8 or Rival("int8") in job.rivals:
        check_torchao()
    model, (spec, fitting, images) = load_checked(job.model, job.checkpoint, job.img_size, partial(_check_model, job))
    preparation = preparation_of(model)
    shared = identity(job, model, images, preparation, device)
    model = model.to(device, DTYPES[job.dtype])
    check_rivals(job.rivals, model, job.data, job.limit, rebuilding(job))
    return Bench(job, device, model, spec, fitting, images, preparation, shared)


def _check_model(job: Job, model: nn.Module) -> tuple[ViTSpec, Fit, LabelledImages]:
    """Check everything that needs the model but not its weights."""
    spec = read_backbone(model).spec
    fitting = fit(model, job.configurations, job.seed, partial(_check_counts, job))
    return spec, fitting, labelled_images(model, job.data, job.limit)


def _check_counts(job: Job, configuration: Configuration, method: Method, spec: ViTSpec) -> None:
    """Raise ValueError for a method that this job cannot measure."""
    built = method.built_for(spec)
    if not built.varies:
        token_counts(spec, built)
    elif job.compile:
        raise ValueError(f"{configuration.method} is input-adaptive, so it cannot be compiled.")
