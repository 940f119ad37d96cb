"""What a user would do instead of reducing tokens: a smaller image, fewer blocks, or no work that nobody reads.

Each rival is a model of its own, measured like any other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from .api import reduce_tokens, restore
from .backbones.reader import read_backbone
from .kinds import is_whole
from .methods.ward import Ward

Rebuild = Callable[[int], nn.Module]  # the model for images of another size in pixels


def smaller_input(model: nn.Module, size: int, rebuild: Rebuild | None = None) -> nn.Module:
    """The model for smaller images, its position embeddings resampled; its preparation follows.

    Args:
        model: not reduced; it stays as it is.
        size: side of the images, pixels.
        rebuild: makes the model for a size, as `load_model(name, img_size=size)` does; without it the model is copied
            and its own `set_input_size` is called, which timm's have.

    Raises:
        ValueError: if the model can do neither, or not at this size.
    """
    if not is_whole(size, 1):
        raise ValueError(f"the side of an image is a whole number of pixels, at least 1, not {size!r}.")
    if rebuild is not None:
        return rebuild(size)
    copied: Any = copy.deepcopy(model)
    if not callable(getattr(copied, "set_input_size", None)):
        raise ValueError(
            f"{type(model).__name__} has no set_input_size: name the model to have it built for {size} px."
        )
    try:
        copied.set_input_size(img_size=size)
    except (AssertionError, ValueError, RuntimeError) as error:
        raise ValueError(f"{type(model).__name__} cannot take images of {size} pixels: {error}.") from error
    found: nn.Module = copied
    return found


def fewer_blocks(model: nn.Module, depth: int) -> nn.Module:
    """The model without its last blocks: only the first `depth` run. ValueError for more than it has, or none."""
    copied = restore(copy.deepcopy(model))
    backbone = read_backbone(copied)
    total = backbone.spec.depth
    if not 1 <= depth < total:
        raise ValueError(f"a rival has from 1 to {total - 1} of the {total} blocks, not {depth}.")
    blocks: Any = backbone.blocks
    setattr(backbone.location.parent, backbone.location.attribute, blocks[:depth])
    return copied


def without_unread(model: nn.Module) -> nn.Module | None:
    """The model whose last block leaves out the MLP of patches, if nothing reads what it makes of them; else None.

    The answers stay the same. No method may be credited with this.
    """
    spec = read_backbone(model).spec
    if spec.pools_patches or spec.head_macs:
        return None
    return reduce_tokens(copy.deepcopy(model), Ward(patches=(*[spec.num_patches] * spec.depth, 1)))
