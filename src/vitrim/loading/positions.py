"""Adapt a state_dict to a model: by the model's own rule, and by resampling the position embedding."""

from __future__ import annotations

from torch import Tensor, nn

from .libraries import LIBRARIES
from .weights import Adapt


def adapting(img_size: int | None, library: str = "timm") -> Adapt:
    """The function that adapts a state_dict to its model; it resamples position embeddings if a size is given."""
    if img_size is None:
        return adapt_state
    return resample_positions if library == "timm" else LIBRARIES[library].resample or adapt_state


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
