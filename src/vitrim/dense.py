"""Dense features: maps on the full patch grid, from a reduced model or not.

Segmentation, depth, detection and retrieval read one vector per patch. Here every patch of a reduced model gets the
vector of the token that holds it. Settings say what dropped patches get, and how patches of one token differ. Without
reduction the maps equal those of timm's `forward_intermediates` and of transformers' `output_hidden_states`.

Shape letters as in `core.tokens`. H and W are rows and columns of the patch grid, but pixels in images_BCHW.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .backbones.reader import find_stack, read_backbone
from .core import portable
from .core.choices import check_choice
from .core.listening import listening
from .core.schedule import is_whole
from .core.spec import ViTSpec
from .core.stack import Snapshot, TokenStack
from .facts import every
from .following import ConvolvedSizes, Following, check_grid, follow_blocks, run_uncompiled
from .patch_maps import Fill, PatchFeatures, Shared, filled, per_patch

FINAL_NORMS, TOWERS = every("final_norms"), every("towers")


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseFeatures:
    """The result of `features`: one entry of each kind per layer, in the order of the call."""

    layers: tuple[int, ...]  # indices of the blocks, from 0
    maps: tuple[Tensor, ...]  # [B, C, H, W]: the block's output on the patch grid
    prefix: tuple[Tensor, ...]  # [B, prefix, C]: class, distillation and register tokens
    groups: tuple[Tensor, ...]  # [B, H, W]: number of the token that holds each patch; -1 if dropped


def features(
    model: nn.Module,
    images_BCHW: Tensor,
    layers: int | Sequence[int] = -1,
    *,
    norm: bool = False,
    fill: Fill = "drift",
    shared: Shared | None = None,
    grid: tuple[int, int] | None = None,
    **model_kwargs: Any,
) -> DenseFeatures:
    """Features of every patch after some blocks.

    Gradients flow. Modes, autocast and no_grad act as usual. A compiled model runs uncompiled here.

    Args:
        model: reduced or not.
        images_BCHW: a batch, as the model takes it.
        layers: one block or several, from 0. Negative ones count from the end.
        norm: whether to apply the model's final norm.
        fill: the features of a dropped patch. last: those before it was dropped. drift: the same, plus the mean change
            of the remaining patches in each later block. nearest: those of the nearest remaining patch. zero: zeros.
        shared: the features of patches that share a token. token: those of the token. offset: those of the token, plus
            the patch's difference from the group's mean when they met. fill: as for a dropped patch. None takes fill
            if the method fuses all other patches into one token, as EViT does, and offset if it merges.
        grid: rows and columns of the patches, needed if no convolution makes them and they form no square.
        **model_kwargs: arguments of the part that takes images, such as interpolate_pos_encoding=True.

    Returns:
        Maps, prefix tokens and groups of each layer.

    Raises:
        UnsupportedModel: If the model cannot be read.
        ValueError: If an argument does not fit the model.
    """
    _check(images_BCHW, fill, shared)
    model = getattr(model, "_orig_mod", model)
    anatomy = _anatomy(model)
    if shared is None:
        shared = "fill" if isinstance(anatomy.blocks, TokenStack) and anatomy.blocks.method.fuses else "offset"
    wanted = _check_layers(layers, anatomy.spec)
    finish = _final_norm(model, anatomy) if norm else nn.Identity()
    run = _run(model, anatomy, images_BCHW, model_kwargs)
    rows, columns = _grid(run, anatomy.spec, grid)
    out = {}
    for layer, at_layer in _follow(run, anatomy.spec, fill, shared):
        if layer in wanted:
            out[layer] = _finished(at_layer, finish, fill, (rows, columns))
    maps, prefix, groups = zip(*(out[layer] for layer in wanted), strict=True)
    return DenseFeatures(layers=wanted, maps=maps, prefix=prefix, groups=groups)


def _check(images_BCHW: Tensor, fill: Fill, shared: Shared | None) -> None:
    if portable.writing():
        raise ValueError("features() follows a forward from outside, so it cannot be exported or traced.")
    check_choice(fill, Fill, "fill")
    if shared is not None:
        check_choice(shared, Shared, "shared")
    if not (isinstance(images_BCHW, Tensor) and images_BCHW.dim() == 4 and images_BCHW.is_floating_point()):
        got = list(images_BCHW.shape) if isinstance(images_BCHW, Tensor) else type(images_BCHW).__name__
        raise ValueError(f"features() needs a batch of images as the model takes it, floats [B, C, H, W], not {got}.")


class _Anatomy(NamedTuple):
    """Where a model has its blocks, and facts about them."""

    parent: nn.Module
    attribute: str
    spec: ViTSpec

    @property
    def blocks(self) -> nn.Module:
        return getattr(self.parent, self.attribute)


class _Run(NamedTuple):
    """One forward pass."""

    entering_BNC: Tensor  # input of the first block
    leaving: list[Snapshot]  # output of every block
    convolved: ConvolvedSizes


class _AtLayer(NamedTuple):
    """The prefix and all patches after one block."""

    prefix_BKC: Tensor
    patches: PatchFeatures
    source_BP: Tensor | None  # None: each patch has its own token


# Reading a model checks every block, which is too slow for each step of a training loop. Only facts that do not depend
# on the weights are cached.
_known: WeakKeyDictionary[nn.Module, tuple[str, str, ViTSpec]] = WeakKeyDictionary()


def _anatomy(model: nn.Module) -> _Anatomy:
    found = find_stack(model)
    if found is not None:
        return _Anatomy(found.location.parent, found.location.attribute, found.stack.spec)
    if model not in _known or not _fits(model, *_known[model]):
        backbone = read_backbone(model)
        name = next(name for name, module in model.named_modules() if module is backbone.location.parent)
        _known[model] = name, backbone.location.attribute, backbone.spec
    name, attribute, spec = _known[model]
    return _Anatomy(model.get_submodule(name), attribute, spec)


def _fits(model: nn.Module, name: str, attribute: str, spec: ViTSpec) -> bool:
    """Whether the cached facts still fit: the blocks are in the same place, and as many."""
    parts = dict(model.named_modules())
    return len(list(parts.get(f"{name}.{attribute}".strip("."), nn.Identity()).children())) == spec.depth


def _run(model: nn.Module, anatomy: _Anatomy, images_BCHW: Tensor, model_kwargs: Mapping[str, Any]) -> _Run:
    """A forward pass of the part that takes images, without its head if possible."""
    blocks, spec = anatomy.blocks, anatomy.spec
    entering: list[Tensor] = []
    leaving: list[Snapshot] = []
    convolved = ConvolvedSizes()
    with ExitStack() as cleanup:
        if isinstance(blocks, TokenStack):
            cleanup.enter_context(listening(spec, Following(leaving, entering)))
        else:
            follow_blocks(blocks, leaving, entering, spec.num_prefix, cleanup)
        cleanup.enter_context(convolved)
        run_uncompiled(cleanup)
        towers = (getattr(model, name, None) for name in TOWERS)
        tower: Any = next((tower for tower in towers if isinstance(tower, nn.Module)), model)
        getattr(tower, "forward_features", tower)(images_BCHW, **model_kwargs)
    if [snapshot.layer for snapshot in leaving] != list(range(spec.depth)) or len(entering) != 1:
        raise ValueError("another forward of this model ran at the same time: call features() from one thread only.")
    return _Run(entering[0], leaving, convolved)


def _follow(run: _Run, spec: ViTSpec, fill: Fill, shared: Shared) -> Iterator[tuple[int, _AtLayer]]:
    """The features of all patches, block by block."""
    x_BPC = run.entering_BNC[:, spec.num_prefix :]
    for layer, tokens in run.leaving:
        if layer >= spec.first_reducible_layer - 1:  # before that, tokens may not be the patches
            patches = per_patch(tokens, x_BPC, fill, shared)
            x_BPC = patches.x_BPC
            yield layer, _AtLayer(tokens.padded_BNC[:, : spec.num_prefix], patches, tokens.source_BP)


def _finished(at_layer: _AtLayer, norm: nn.Module, fill: Fill, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The map [B, C, H, W], the prefix tokens and the groups [B, H, W] of one layer."""
    prefix_BKC, (x_BPC, gone_BP), source_BP = at_layer
    num_prefix = prefix_BKC.shape[1]
    x_BNC = norm(torch.cat([prefix_BKC, x_BPC], dim=1))
    prefix_BKC, x_BPC = x_BNC[:, :num_prefix], filled(x_BNC[:, num_prefix:], gone_BP, fill, grid[1])
    B, P, C = x_BPC.shape
    own_BP = torch.arange(P, device=x_BPC.device).expand(B, -1)
    groups_BP = own_BP if source_BP is None else (source_BP - num_prefix).clamp(min=-1)
    map_BCHW = x_BPC.reshape(B, *grid, C).permute(0, 3, 1, 2).contiguous()
    return map_BCHW, prefix_BKC, groups_BP.reshape(B, *grid)


def _grid(run: _Run, spec: ViTSpec, given: tuple[int, int] | None) -> tuple[int, int]:
    start_BNC = (
        run.leaving[spec.first_reducible_layer - 1].tokens.x_BNC if spec.first_reducible_layer else run.entering_BNC
    )
    num_patches = start_BNC.shape[1] - spec.num_prefix
    if given is not None:
        rows, columns = check_grid(given)
        if rows * columns != num_patches:
            raise ValueError(f"a grid of {rows} x {columns} cannot hold the {num_patches} patches of these images.")
        return rows, columns
    found = run.convolved.grid_of(num_patches)
    side = round(num_patches**0.5)
    if found is None and (run.convolved.sizes or side**2 != num_patches):
        raise ValueError(
            f"the rows and columns of the {num_patches} patches cannot be determined: give grid=(rows, columns). If "
            "training drops patches (timm's patch_drop_rate), call features() in eval mode."
        )
    return found or (side, side)


def _final_norm(model: nn.Module, anatomy: _Anatomy) -> nn.Module:
    """The norm after the blocks: beside them, or beside the module that holds them."""
    owners = (module for module in model.modules() if any(child is anatomy.parent for child in module.children()))
    for holder in (anatomy.parent, *owners):
        for name in FINAL_NORMS:
            found = getattr(holder, name, None)
            if isinstance(found, nn.Module):
                return found
    raise ValueError(f"the final norm of {anatomy.spec.name} was not found: use norm=False.")


def _check_layers(layers: int | Sequence[int], spec: ViTSpec) -> tuple[int, ...]:
    """The layers as indices from 0, in the given order."""
    given = tuple(layers) if isinstance(layers, Sequence) else (layers,)
    if not given or not all(is_whole(layer) and -spec.depth <= layer < spec.depth for layer in given):
        raise ValueError(
            f"layers must be blocks of {spec.name}, 0 to {spec.depth - 1}, or -1 to -{spec.depth} from the end, not "
            f"{layers!r}."
        )
    found = tuple(layer % spec.depth for layer in given)
    if min(found) < spec.first_reducible_layer - 1:
        raise ValueError(
            f"block {min(found)} of {spec.name} has features of two scales, not one grid: use layers of at least "
            f"{spec.first_reducible_layer - 1}."
        )
    return found
