"""Load models of torchvision, transformers and open_clip by name.

    torchvision:vit_b_16                                    weights from torchvision, or from --checkpoint
    transformers:facebook/dinov2-small-imagenet1k-1-layer   a repository on the hub, or a folder of transformers;
                                                            of CLIP and SigLIP, the vision tower
    open_clip:ViT-B-32/laion2b_s34b_b79k                    the vision tower; the tag after the slash names the weights

The model's `image_preparation` is its library's own transform, so images get the same pixels as in that library.
`num_classes` is set if the model has classes.

The module of each library has the same names: `build(name, img_size)`, a model with random weights; `load(name,
checkpoint, img_size)`, with the checkpoint's weights or the library's; `candidates(model)`, descriptions to try, for
saving; `rebuild(config, folder, img_size)`, the model that a folder describes; `RESAMPLE`, which resamples position
embeddings to the model's resolution, or None; `EXAMPLE`, a name; `ADVICE`, what to do without the network.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from torch import Tensor, nn

from ..text import first_line
from . import transformers
from .names import LIBRARIES as NAMES
from .weights import Adapt

LIBRARIES = {name: importlib.import_module(f".{name}", __package__) for name in NAMES}


def build(library: str, name: str, img_size: int | None) -> nn.Module:
    """Build a model in eval mode with random weights. At most its configuration is downloaded."""
    _check(library, name, img_size)
    try:
        return LIBRARIES[library].build(name, img_size).eval()
    except OSError as error:
        if _is_here(library, name, error):
            raise
        advice = ", or name a folder to use files on this machine" if library == "transformers" else ""
        raise OSError(
            f"the configuration of {library}:{name} cannot be downloaded ({first_line(error)}): check the "
            f"network{advice}."
        ) from error


def load(library: str, name: str, checkpoint: Path | None, img_size: int | None) -> nn.Module:
    """Load a model in eval mode; ValueError if something does not fit, OSError if weights cannot be downloaded."""
    _check(library, name, img_size)
    try:
        return LIBRARIES[library].load(name, checkpoint, img_size).eval()
    except OSError as error:
        if checkpoint is not None or _is_here(library, name, error):
            raise
        raise OSError(
            f"the weights of {library}:{name} cannot be downloaded ({first_line(error)}): check the network, or "
            f"{LIBRARIES[library].ADVICE} to use weights on this machine."
        ) from error


def _check(library: str, name: str, img_size: int | None) -> None:
    if not name.strip():
        raise ValueError(f"{library}: names no model: add a name, such as {library}:{LIBRARIES[library].EXAMPLE}.")
    if img_size is not None and img_size < 1:
        raise ValueError(f"--img-size must be a number of pixels, at least 1, not {img_size}.")


def _is_here(library: str, name: str, error: OSError) -> bool:
    """Whether the error is about files on this machine, so that the network would not help."""
    return type(error) is FileNotFoundError or (library == "transformers" and transformers.is_folder(name))


def adapting(img_size: int | None, library: str = "timm") -> Adapt:
    """The function that adapts a state_dict to its model; it resamples position embeddings if a size is given."""
    if img_size is None:
        return adapt_state
    return resample_positions if library == "timm" else LIBRARIES[library].RESAMPLE or adapt_state


def resample_positions(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Resample the position embedding to the model's resolution; no change if model or state has none of that kind."""
    from timm.layers.pos_embed import resample_abs_pos_embed
    from timm.models.vision_transformer import VisionTransformer

    from ..models.lvvit import LVViT

    if not isinstance(model, (VisionTransformer, LVViT)) or model.pos_embed is None or "pos_embed" not in state:
        return state
    num_prefix = 0 if getattr(model, "no_embed_class", False) else model.num_prefix_tokens
    positions, grid = state["pos_embed"], list(model.patch_embed.grid_size)
    if positions.shape[1] <= num_prefix:
        return state
    positions = resample_abs_pos_embed(positions, grid, num_prefix_tokens=num_prefix)
    return adapt_state(model, state | {"pos_embed": positions})


def adapt_state(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adapt the state by the model's own rule, if it has one: a multi-scale model can start from a DeiT."""
    adapt = getattr(model, "adapt_state", None)
    return state if adapt is None else adapt(state)
