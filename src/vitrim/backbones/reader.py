"""Find the blocks of a model of any library, and check that they are read correctly."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from ..core.block_reader import BlockReader
from ..core.hooks import is_dispatched
from ..core.notice import VitrimError
from ..core.self_check import check_reader
from ..core.spec import ViTSpec
from ..core.stack import TokenStack
from ..facts import FACTS
from ..heads import check_module

# The module that defines a model's class -> the module in this package that reads it.
READERS = {
    "vitrim.models.lvvit": "lvvit",
    "vitrim.models.multiscale": "multiscale",
    **{library: library for library in FACTS},
}

Guard = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]


class UnsupportedModel(VitrimError, ValueError):
    """The model, or one of its blocks, cannot be read."""


@dataclass(frozen=True)
class BlocksLocation:
    """Where a model keeps its blocks."""

    parent: nn.Module
    attribute: str  # the blocks are parent.<attribute>
    refused: Mapping[str, str] = field(default_factory=dict)  # methods of the parent that would fail, and why
    guards: Sequence[tuple[nn.Module, Guard]] = ()  # modules, and checks of their arguments before each forward

    def install(self, stack: TokenStack) -> None:
        """Replace the blocks by the stack, and let calls that would silently go wrong raise errors."""
        setattr(self.parent, self.attribute, stack)
        stack.attach()
        for name, reason in self.refused.items():
            self.parent.__dict__[name] = partial(_refuse, name, reason)
        for module, guard in self.guards:
            module.register_forward_pre_hook(guard, with_kwargs=True)

    def remove(self, stack: TokenStack) -> None:
        """Put the original blocks back, in the stack's training mode."""
        setattr(self.parent, self.attribute, stack.release())
        for name in [name for name, value in self.parent.__dict__.items() if _is_refusal(value)]:
            del self.parent.__dict__[name]
        for module, guard in self.guards:
            for key in [key for key, hook in module._forward_pre_hooks.items() if hook is guard]:
                del module._forward_pre_hooks[key], module._forward_pre_hooks_with_kwargs[key]


class Installed(NamedTuple):
    """A stack and its location."""

    location: BlocksLocation
    stack: TokenStack


@dataclass(frozen=True)
class Backbone:
    """The blocks of a model and how to read them."""

    library: str
    location: BlocksLocation
    blocks: nn.Module  # the container, with one child per block
    readers: Sequence[BlockReader]  # one per block
    spec: ViTSpec

    def errors(self) -> list[float]:
        """The error of each block's reader, see `check_reader`."""
        pairs = zip(blocks_in(self.blocks), self.readers, strict=True)
        return [check_reader(block, reader, self.spec.channels, self.spec.num_prefix) for block, reader in pairs]

    def pooling(self, pools_patches: bool | None) -> Backbone:
        """The same backbone for a head that pools patch tokens or does not; None leaves the decision to the library."""
        if pools_patches is None:
            return self
        if not isinstance(pools_patches, bool):
            raise ValueError(f"pools_patches must be True, False or None, not {pools_patches!r}.")
        if not pools_patches and self.spec.pools_patches and self.spec.num_classes > 0:
            raise ValueError(f"the head of {self.spec.name} pools patch tokens: leave pools_patches out.")
        return replace(self, spec=replace(self.spec, pools_patches=pools_patches))


def find_stack(model: nn.Module) -> Installed | None:
    """The TokenStack of a model, or of the model inside a wrapper; None if it is not reduced.

    A supported model that contains another one, such as a student with its teacher, counts itself.
    """
    check_module(model)
    library = _library(model)
    location = None if library is None else library.locate(model)
    if location is not None:
        stack = getattr(location.parent, location.attribute)
        return Installed(location, stack) if isinstance(stack, TokenStack) else None
    inner = (find_stack(child) for child in model.children())
    return next((found for found in inner if found is not None), None)


@contextmanager
def restored(model: nn.Module) -> Iterator[nn.Module]:
    """The model without reduction while the with block runs."""
    found = find_stack(model)
    if found is None:
        yield model
        return
    found.location.remove(found.stack)
    try:
        yield model
    finally:
        found.location.install(found.stack)


def read_backbone(model: nn.Module) -> Backbone:
    """Find and check the blocks of a model, reduced or not. UnsupportedModel if one cannot be read."""
    check_module(model)
    library = _library(model)
    if library is not None:
        with restored(model):
            backbone: Backbone = library.read(model)
            _self_check(backbone)
        return backbone
    inside = [name for name, part in model.named_modules() if (at := _library(part)) and at.locate(part)]
    supported = ", ".join(facts.reads for facts in FACTS.values())
    part = f"Pass the part inside: reduce_tokens(model.{inside[0]}, ...)." if inside else f"Supported: {supported}."
    raise UnsupportedModel(
        f"{type(model).__module__}.{type(model).__name__} is not a model that vitrim can read. {part}"
    )


def _library(model: nn.Module) -> Any:
    """The module in this package that reads the model's library, or None."""
    for cls in [cls for cls in type(model).__mro__ if issubclass(cls, nn.Module)]:  # other bases are mixins
        for home, reader in READERS.items():
            if cls.__module__ == home or cls.__module__.startswith(f"{home}."):
                return importlib.import_module(f".{reader}", __package__)
    return None


def check_pooling(stack: TokenStack, how: str) -> None:
    """ValueError if the model pools patches now, but did not when the tokens were merged."""
    if not stack.spec.pools_patches and (stack.method.merges or stack.method.varies):
        raise ValueError(
            f"{stack.spec.name} pools its patch tokens ({how}), but was reduced for a head that does not, so a merged "
            "token would count once: call reduce_tokens again, with pools_patches left out or True."
        )


def version(library: str) -> str:
    """A library with its installed version, such as 'timm 1.0.31'."""
    return f"{library} {importlib.import_module(library).__version__}"


def blocks_in(container: Any) -> list[Any]:
    """The blocks in order. A block in two places is listed twice, while children() lists it once."""
    blocks = list(container._modules.values())
    if not blocks:
        raise UnsupportedModel("the model has no blocks, so there are no tokens to reduce.")
    return blocks


def linear_macs(module: nn.Module) -> int:
    """Multiply-adds per token of a module's linear layers."""
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def _self_check(backbone: Backbone) -> None:
    for i, (block, error) in enumerate(zip(blocks_in(backbone.blocks), backbone.errors(), strict=True)):
        if math.isnan(error):
            raise UnsupportedModel(
                f"{backbone.spec.name}: the weights of block {i} are not finite, so it cannot be read."
            )
        if error > 1e-4:
            raise UnsupportedModel(
                f"{backbone.spec.name}: block {i} ({type(block).__name__}, {version(backbone.library)}) was read "
                f"wrongly: its residual update differs by {error:.1%}. The model is unchanged; please report this."
            )
        _check_forwards(backbone, i, block)


def _check_forwards(backbone: Backbone, index: int, block: nn.Module) -> None:
    """UnsupportedModel if a replaced forward of a block or its attention would not be called."""
    attention = backbone.readers[index].attention_name
    of_attention = getattr(block, attention, None)
    for what, module in (("", block), (f"'s {attention}", of_attention)):
        # accelerate also wraps the projections, so its wrapper around an attention without own weights is not needed.
        aligned = module is not None and is_dispatched(module) and (module is block or not module._parameters)
        if module is not None and not backbone.readers[index].unreadable and not aligned and _is_patched(module):
            raise UnsupportedModel(
                f"{backbone.spec.name}: block {index}{what} ({type(module).__name__}) has a forward that is not "
                f"{version(backbone.library)}'s, and a reduced model would not call it. Reduce the model first, or "
                "remove that forward."
            )


def _is_patched(module: nn.Module) -> bool:
    """Whether the forward was replaced on the module, or on its class by another library."""
    home, of_forward = (each.__module__.partition(".")[0] for each in (type(module), type(module).forward))
    return "forward" in vars(module) or of_forward != home


def _refuse(name: str, reason: str, *_: object, **__: object) -> None:
    raise RuntimeError(f"{name}() does not work while tokens are reduced: {reason}")


def _is_refusal(value: object) -> bool:
    return isinstance(value, partial) and value.func is _refuse
