"""What a user would do instead of reducing tokens: a smaller image, fewer blocks, another model, int8, no unread work.

Each rival is a model of its own, measured like any other. `vitrim compare` and `vitrim tune` have them as rows.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import nn

from .api import reduce_tokens, restore
from .backbones.reader import read_backbone
from .facts import image_size_of
from .kinds import is_whole
from .loading.build import load_model
from .measure.folder import load_images, num_classes_of
from .measure.model_input import input_size_of
from .methods.ward import Ward
from .quantize import INT8, quantize_int8
from .text import shown

Rebuild = Callable[[int], nn.Module]  # the model for images of another size in pixels
Kind = Literal["resolution", "depth", "model", "int8", "unread"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NUMBERS, ALONE = ("resolution", "depth"), ("int8", "unread")
EXAMPLE = '"resolution=208,176; depth=10; model=NAME; int8; unread"'
UNREDUCED = "unreduced"
ROWS: dict[Kind, tuple[str, str]] = {  # the two words of a row
    "resolution": ("smaller input", "{} px"),
    "depth": ("fewer blocks", "{} blocks"),
    "model": ("another model", "{}"),
    "int8": (UNREDUCED, INT8),
    "unread": (UNREDUCED, "last MLP on class token"),
}
EQUAL = 0.98  # of a speed: from here on, another one counts as equal


@dataclass(frozen=True)
class Rival:
    """One rival: its kind, and the side of its images, its number of blocks, or its model's name."""

    kind: Kind
    value: int | str | None = None

    def __str__(self) -> str:
        return self.kind if self.value is None else f"{self.kind}={self.value}"

    @property
    def key(self) -> tuple[str, str]:
        """The key of its row: ("smaller input", "176 px")."""
        method, setting = ROWS[self.kind]
        return method, setting.format(self.value)

    def make(self, model: nn.Module, rebuild: Rebuild | None = None) -> nn.Module:
        """The rival of a model, where the model is and in its data type.

        Args:
            model: not reduced; it stays as it is.
            rebuild: as in `smaller_input`.

        Raises:
            ValueError: If there is no such rival of this model.
            OSError: If the weights of a named model cannot be found or downloaded.
        """
        like = next(model.parameters())
        makers: dict[Kind, Callable[[Any], nn.Module]] = {
            "resolution": lambda size: smaller_input(model, size, rebuild).to(like),
            "depth": lambda depth: fewer_blocks(model, depth),
            "model": lambda name: another_model(model, name).to(like),
            "int8": lambda _: quantize_int8(copy.deepcopy(model)),
            "unread": lambda _: _some(without_unread(model)),
        }
        return makers[self.kind](self.value)


def check_rivals(
    rivals: Sequence[Rival], model: nn.Module, folder: Path, limit: int | None, rebuild: Rebuild | None = None
) -> None:
    """Make each rival once, before long work starts.

    Raises:
        ValueError: For one that this model cannot have, or that counts the classes of the folder in another order.
        OSError: If the weights of a named model cannot be found or downloaded.
    """
    for rival in rivals:
        made = rival.make(model, rebuild)
        if rival.kind == "model":
            there, here = (load_images(each, folder, limit=limit, max_bytes=0).images for each in (made, model))
            if (there.files, there.labels) != (here.files, here.labels):
                raise ValueError(f"the rival {rival.value} counts the classes of {folder} in another order.")


def read_rivals(text: str) -> tuple[Rival, ...]:
    """Read rivals from text: "resolution=208,176; depth=10; model=NAME; int8; unread".

    Raises:
        ValueError: For an unknown rival, or a value that is missing, unwanted or no number.
    """
    found = tuple(dict.fromkeys(each for entry in text.split(";") if entry.strip() for each in _entry(entry.strip())))
    if not found:
        raise ValueError(f"--rivals is empty: name at least one, as in {EXAMPLE}.")
    return found


def _entry(text: str) -> Iterator[Rival]:
    name, _, given = (part.strip() for part in text.partition("="))
    kind = next((each for each in KINDS if each == name), None)
    if kind is None:
        raise ValueError(f"no rival is called {shown(name, 40)!r}; write them as in {EXAMPLE}.")
    values = [value.strip() for value in given.split(",") if value.strip()]
    if kind in ALONE:
        if "=" in text:
            raise ValueError(f"the rival {kind} takes no value, not {shown(given, 40)!r}.")
        yield Rival(kind)
    elif not values:
        raise ValueError(f"the rival {kind} needs a value, as in {EXAMPLE}.")
    for value in values if kind not in ALONE else ():
        if kind in NUMBERS and not value.isdecimal():
            raise ValueError(f"the rival {kind} takes whole numbers, as in {EXAMPLE}, not {shown(value, 40)!r}.")
        yield Rival(kind, int(value) if kind in NUMBERS else value)


def beats(rival_speed: float, rival_loss: float, speed: float, loss: float) -> bool:
    """Whether a rival is better: at least as fast, up to 2 % of noise, and it loses less."""
    return rival_speed >= EQUAL * speed and rival_loss < loss


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
    _check_size(model, size)
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


def _check_size(model: nn.Module, size: int) -> None:
    """ValueError for a size that is no smaller square of whole patches."""
    if not is_whole(size, 1):
        raise ValueError(f"the side of an image is a whole number of pixels, at least 1, not {size!r}.")
    (_, height, width), patch = input_size_of(model), patch_size(model)
    if height != width:
        raise ValueError(f"a smaller input is a square one, and this model takes images of {height} x {width} pixels.")
    if size >= height:
        raise ValueError(f"a smaller input is below the model's {height} pixels, not {size}.")
    if size % patch:
        below = size // patch * patch
        close = f"{below} or {below + patch}" if below else str(patch)
        raise ValueError(f"the model has patches of {patch} pixels, and {size} is no multiple of it: take {close}.")


def patch_size(model: nn.Module) -> int:
    """Pixels of a patch's side, of the first convolution; 1 if there is none."""
    found = image_size_of(model)
    parts = (model if found is None else found.part).modules()
    first = next((part for part in parts if isinstance(part, nn.Conv2d)), None)
    return 1 if first is None else int(first.stride[0])


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


def another_model(model: nn.Module, name: str) -> nn.Module:
    """A model by name, with its weights. ValueError if it has another number of classes."""
    found = load_model(name)
    classes, wanted = num_classes_of(found), num_classes_of(model)
    if classes != wanted:
        raise ValueError(f"the rival {name} has {classes} classes and the model {wanted}: they answer other questions.")
    return found


def without_unread(model: nn.Module) -> nn.Module | None:
    """The model whose last block leaves out the MLP of patches, if nothing reads what it makes of them; else None.

    The answers stay the same. No method may be credited with this.
    """
    spec = read_backbone(model).spec
    if spec.reads_patches:
        return None
    return reduce_tokens(copy.deepcopy(model), Ward(patches=(*[spec.num_patches] * spec.depth, 1)))


def _some(model: nn.Module | None) -> nn.Module:
    if model is None:
        raise ValueError("nothing is left unread: the model's head reads the patches, so there is no such rival.")
    return model
