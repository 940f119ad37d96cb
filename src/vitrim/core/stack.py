"""The blocks of a reduced model.

`TokenStack` replaces a model's list of blocks and nothing else: class, parameter names, embedding, norm and head stay.
It is a Sequential of `TokenBlock`s. The first turns features into `Tokens` and the last turns them back, so code that
walks the list block by block, such as gradient checkpointing, works unchanged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import torch
from torch import nn

from . import listening
from .block_reader import BlockReader
from .block_view import Acting, blank_view
from .checks import check_reducible, check_shared
from .hooks import dispatch_like
from .listening import OutputCollector, Recorder, Snapshot
from .method import Method
from .renamed import alias
from .spec import ViTSpec
from .token_block import TokenBlock
from .tokens import Tokens

UNSHARED = ("_modules", "_compiled_call_impl")  # attributes that the stack does not take over
__all__ = ["Snapshot", "TokenBlock", "TokenStack"]


def _refuse_to_cut(*_: Any, **__: Any) -> NoReturn:
    raise RuntimeError("the blocks of a reduced model cannot be taken apart: restore(model) first.")


class Cut(nn.ModuleList):
    """Some of the blocks, for example to freeze them. It cannot be called."""

    forward = _refuse_to_cut


class TokenStack(nn.Sequential):
    """The blocks of a model, with ever fewer tokens. [B, N, C] -> [B, N', C]."""

    def __init__(self, blocks: nn.Module, readers: Sequence[BlockReader], method: Method, spec: ViTSpec):
        names, layers = zip(*blocks._modules.items(), strict=True)  # named_children() skips a repeated block
        check_reducible(method, spec)
        views = (
            _view(block, reader, method, spec, i) for i, (block, reader) in enumerate(zip(layers, readers, strict=True))
        )
        super().__init__(OrderedDict(zip(names, views, strict=True)))
        check_shared(method, [view.block for view in cast("list[TokenBlock]", self) if view.kept is not None])
        self.__dict__.update({name: value for name, value in blocks.__dict__.items() if name not in UNSHARED})
        self.__dict__["original"] = blocks  # not registered: its parameters are already here
        self.spec = spec

    def __prepare_scriptable__(self) -> None:
        """Called by torch.jit.script."""
        raise RuntimeError(
            "torch.jit.script cannot compile a reduced model: use torch.jit.trace or vitrim.export_model, or restore."
        )

    def extra_repr(self) -> str:
        return str(self.method)

    def __getitem__(self, index: Any) -> Any:
        return Cut(list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    __delitem__ = append = insert = extend = pop = _refuse_to_cut

    @property
    def method(self) -> Method:
        """The method at work, with every setting resolved for this model."""
        first = self[0]
        assert isinstance(first, TokenBlock)
        return first.acting.method

    def set_method(self, method: Method) -> None:
        """Use another method, or other settings, from the next forward on, with the weights that are there."""
        built = method.built_for(self.spec)
        check_reducible(built, self.spec)
        for block in self:
            cast(TokenBlock, block).set_method(built)

    def collect_outputs(self, outputs: list[Tokens] | None, *, traced: bool = False) -> None:
        """Put the tokens that leave the last block into a list, from this thread's next forward on. None stops it.

        The tokens include `aux`, and their sources if traced. They hold the graph of their forward, so clear the list
        after use. Compiled forwards of all threads are collected.
        """
        collector = None if outputs is None else OutputCollector(outputs, traced=traced)
        listening.stop(self.spec, OutputCollector)
        if collector is not None:
            listening.start(self.spec, collector)
        for block in self:
            block.__dict__["collector"] = collector

    def attach(self) -> None:
        """Register what the method learns in the blocks."""
        for block in self:
            cast(TokenBlock, block).attach()

    def record_into(self, snapshots: list[Snapshot] | None, *, every_block: bool = False) -> None:
        """Append a snapshot after every reducing block, or every block, from this thread's next forward on.

        None stops it.
        """
        listening.stop(self.spec, Recorder)
        if snapshots is not None:
            listening.start(self.spec, Recorder(snapshots, every_block=every_block))

    def release(self) -> nn.Module:
        """The original container of blocks, in this stack's training mode, without the method's weights."""
        original: nn.Module = self.__dict__["original"]
        original.__dict__.update({name: self.__dict__[name] for name in original.__dict__ if name not in UNSHARED})
        for block in self:
            cast(TokenBlock, block).release()
        return original


for _old, _new in {"act": "set_method", "publish_into": "collect_outputs"}.items():
    alias(TokenStack, _old, _new)


def _view(block: nn.Module, reader: BlockReader, method: Method, spec: ViTSpec, layer: int) -> TokenBlock:
    """A block as a TokenBlock with this built method."""
    made = blank_view(TokenBlock, type(block))
    # Both views share the same dicts, so that .to(), load_state_dict, optimisers and hooks act on both.
    made.__dict__.update(block.__dict__)
    # Set past nn.Module, because registered modules would add keys to the state_dict.
    kept = _make_weights(method, layer, spec, block)
    made.__dict__.update(block=block, reader=reader, spec=spec, layer=layer, kept=kept, collector=None)
    made.__dict__["_compiled_call_impl"] = None  # it would run the original block
    dispatch_like(made, block)
    made.__dict__["acting"] = Acting(method, method.with_weights(kept))
    return made


@torch.inference_mode(False)  # inference tensors could not be trained
def _make_weights(method: Method, layer: int, spec: ViTSpec, block: nn.Module) -> nn.Module | None:
    """New weights of the method for a block, with the device, dtype and mode of the block's own."""
    with torch.device("cpu"):  # a default device of meta would lose the values
        weights = method.learned_in(layer, spec)
    like = next(block.parameters())
    return None if weights is None else weights.to(like.device, like.dtype).train(block.training)
