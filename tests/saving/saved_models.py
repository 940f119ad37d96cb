"""Small models to save, and what is asked of them when they come back."""

from __future__ import annotations

import json

import timm
import torch

import vitrim
from vitrim.backbones.reader import find_stack
from vitrim.measure.model_input import input_size_of

SMALL = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 5, "num_heads": 3, "num_classes": 7}


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
