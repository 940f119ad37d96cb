"""The loop over blocks, with a method acting inside it.

`TokenStack` takes the place of a model's list of blocks and nothing else: class, parameter names, embedding, norm
and head of the model stay as they are. It is a Sequential of `TokenBlock`s; the first turns features into `Tokens`,
the last turns them back, so code that walks the list block by block (gradient checkpointing) works unchanged.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from . import ops
from .attention import Attention, longest_in_steps
from .block_reader import BlockReader, PaddingReader
from .hooks import warn_about_hooks
from .method import Method, ViTSpec, check_opaque, check_shared
from .rotary import Rotation
from .tokens import Tokens

WEIGHTS = "method"  # name under which a block holds what the method learns
TRAINING_ONLY = "exit"  # name, inside that, of what inference can do without


class Snapshot(NamedTuple):
    """Where the patches live after one block."""

    layer: int
    tokens: Tokens


class TokenBlock(nn.Module):
    """A second view of one block: same children and parameters under the same names, but Tokens in and out."""

    block: nn.Module
    reader: BlockReader
    acting: Method  # under another name than WEIGHTS, where the module must be found
    weights: nn.Module | None
    recorder: list[Snapshot] | None
    records_all: bool
    outbox: list[Tokens] | None
    traced: bool

    def __init__(self, block: nn.Module, reader: BlockReader, method: Method, spec: ViTSpec, layer: int):
        super().__init__()
        # The very dicts are shared, so that .to(), load_state_dict and optimisers act on both views at once.
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[name] = block.__dict__[name]
        # Plain attributes, set past nn.Module: registered, they would add keys to the state_dict.
        weights = _make_weights(method, layer, spec, block)
        self.__dict__.update(block=block, reader=reader, weights=weights, outbox=None, traced=False)
        self.__dict__.update(recorder=None, records_all=False)
        self.__dict__.update({name: getattr(block, name) for name in reader.shared if hasattr(block, name)})
        self.spec, self.layer = spec, layer
        self.training = block.training
        self.act(method)

    def act(self, method: Method) -> None:
        """From now on this built method acts here, with the weights of this block."""
        self.__dict__["acting"] = method.with_weights(self.weights)

    def attach(self) -> None:
        """Register what the method learns as a child of the block."""
        if self.weights is not None:
            self._modules[WEIGHTS] = self.weights

    def release(self) -> None:
        """Leave the block to itself, in this view's mode and without what the method learns."""
        self.block.training = self.training
        self.block._modules.pop(WEIGHTS, None)
        for name in self.reader.shared:
            if name in self.__dict__ and self.__dict__[name] != getattr(self.block, name, None):
                setattr(self.block, name, self.__dict__[name])

    def forward(self, x: Tensor | Tokens, *args: Any, **kwargs: Any) -> Tensor | Tokens:
        """One block. The first accepts features [B, N, C], the last returns them."""
        if args or kwargs:
            self.reader.check_call(*args, **kwargs)
        rotation = self.reader.rotation(*args, **kwargs)
        tokens = x if isinstance(x, Tokens) else self._start(x, positioned=rotation is not None)
        source_before = tokens.source_BP
        tokens = self.reader.run(self, self._step, tokens, rotation)
        if self.recorder is not None and (self.records_all or tokens.source_BP is not source_before):
            self.recorder.append(Snapshot(self.layer, tokens))
        return self._leave(tokens) if self.layer == self.spec.depth - 1 else tokens

    def _start(self, x_BNC: Tensor, positioned: bool) -> Tokens:
        if isinstance(x_BNC, tuple):
            raise ValueError("reentrant checkpointing takes tokens apart: checkpoint with use_reentrant=False.")
        whole = not torch.compiler.is_compiling() and self._keeps_all(x_BNC.shape[1] - self.spec.num_prefix)
        return Tokens(
            x_BNC,
            self.spec.num_prefix,
            traced=self._spreads or self.recorder is not None or self.traced,
            carry=None if self.outbox is None else (),
            positioned=positioned,
            whole=whole,
            steps_up_to=0 if whole else longest_in_steps(x_BNC),
        )

    def _keeps_all(self, num_patches: int) -> bool:
        """Whether no block acts on its tokens."""
        return not any(self.acting.acts(layer, num_patches) for layer in range(self.spec.depth))

    def _step(self, tokens: Tokens, rotation: Rotation | None = None) -> Tokens:
        # At batch 1 a small model waits for Python: nothing is asked here that can be known before.
        block, reader, method = self.block, self.reader, self.acting
        if reader.opaque:
            return tokens.with_features(block.forward(tokens.x_BNC))
        tokens = method.before_block(self.layer, tokens)
        if tokens.whole and not reader.is_exact(block):
            # Nothing is reduced anywhere, and only the block's own kernels give its own numbers to the last bit.
            return method.after_block(self.layer, tokens.with_features(reader.whole(block, tokens.x_BNC, rotation)))
        attention = reader.attention(block, tokens.x_BNC)
        if rotation is not None or tokens.size_BN is not None or tokens.lengths is not None:
            attention = self._fit(attention, tokens, rotation)
        mixed_BHND = attention.output(steps_up_to=tokens.steps_up_to)
        if not method.acts(self.layer, tokens.num_patches):
            del attention  # early: what is freed now may be the memory of what comes
            tokens = tokens.with_features(self._residuals(tokens).add_attention(block, tokens.x_BNC, mixed_BHND))
        else:
            x = self._residuals(tokens).add_attention(block, tokens.x_BNC, mixed_BHND)
            tokens = method.after_attention(self.layer, tokens.with_features(x), attention)
            del attention, x  # queries, keys, values and the longer sequence need not outlive the MLP's peak
        del mixed_BHND
        tokens = tokens.with_features(self._residuals(tokens).add_mlp(block, tokens.x_BNC))
        return method.after_block(self.layer, tokens)

    def _fit(self, attention: Attention, tokens: Tokens, rotation: Rotation | None) -> Attention:
        """The attention of tokens that are packed, that have positions, or that stand for several patches."""
        attention = attention._replace(lengths=tokens.lengths)
        if rotation is not None:
            attention = self.reader.turn(self.block, attention, rotation.rows(tokens.turned_BK))
        if self.acting.size_in_attention and tokens.size_BN is not None:
            attention = attention._replace(bias=tokens.size_BN.log()[:, None, None].to(attention.q_BHND.dtype))
        return attention

    def _residuals(self, tokens: Tokens) -> BlockReader:
        """What adds the residuals. Drop-path would take packed images for a single one, so they are padded for it."""
        if tokens.lengths is None or not self.training:
            return self.reader
        drops = any(getattr(module, "drop_prob", None) for module in self.block.modules())
        return PaddingReader(self.reader, tokens.lengths) if drops else self.reader

    def _leave(self, tokens: Tokens) -> Tensor:
        tokens = self.acting.finish(tokens)
        if self.outbox is not None:
            self.outbox[:] = [tokens]
        return (ops.spread(tokens) if self._spreads else tokens).padded_BNC

    @property
    def _spreads(self) -> bool:
        """Whether the head gets all patches back: one that pools them would count merged ones, or padding, wrongly."""
        return self.spec.pools_patches and (self.acting.merges or self.acting.varies)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if not hasattr(self.weights, TRAINING_ONLY):
            unneeded = f"{prefix}{WEIGHTS}.{TRAINING_ONLY}."
            for key in [key for key in state_dict if key.startswith(unneeded)]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)


class TokenStack(nn.Sequential):
    """The blocks of a model, carrying ever fewer tokens. [B, N, C] -> [B, N', C]."""

    def __init__(self, blocks: nn.Module, readers: Sequence[BlockReader], method: Method, spec: ViTSpec):
        names, layers = zip(*blocks._modules.items(), strict=True)  # named_children() tells a shared block once
        check_opaque(method, spec)
        warn_about_hooks(list(layers), spec.name)
        views = (
            TokenBlock(block, reader, method, spec, i)
            for i, (block, reader) in enumerate(zip(layers, readers, strict=True))
        )
        super().__init__(OrderedDict(zip(names, views, strict=True)))
        check_shared(method, [view.block for view in cast("list[TokenBlock]", self) if view.weights is not None])
        self.__dict__["original"] = blocks  # unregistered: its parameters are already here, under the same names
        self.spec = spec
        self.training = blocks.training

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            raise RuntimeError("blocks that pass tokens on cannot be cut apart: restore(model) first.")
        return super().__getitem__(index)

    @property
    def method(self) -> Method:
        """The method at work, with every setting resolved for this model."""
        first = self[0]
        assert isinstance(first, TokenBlock)
        return first.acting

    def act(self, method: Method) -> None:
        """Let this method act from now on, say at another keep rate, with the weights that are there."""
        built = method.build(self.spec)
        check_opaque(built, self.spec)
        for block in self:
            cast(TokenBlock, block).act(built)

    def publish_into(self, outbox: list[Tokens] | None, *, traced: bool = False) -> None:
        """From the next forward on, the list holds what left the last block, `carry` included; None stops it.

        The tokens hold the graph of their forward: clear the list after use. traced: with their sources.
        """
        for block in self:
            block.__dict__.update(outbox=outbox, traced=traced)

    def attach(self) -> None:
        """Register what the method learns in the blocks."""
        for block in self:
            cast(TokenBlock, block).attach()

    def record_into(self, recorder: list[Snapshot] | None, *, every_block: bool = False) -> None:
        """From the next forward on, append a snapshot after every block, or every reducing one; None stops it."""
        for block in self:
            block.__dict__.update(recorder=recorder, records_all=every_block)

    def release(self) -> nn.Module:
        """The original container of blocks, in this stack's training mode, without what the method learns."""
        original: nn.Module = self.__dict__["original"]
        original.training = self.training
        for block in self:
            cast(TokenBlock, block).release()
        return original


@torch.inference_mode(False)  # inference tensors could not be trained
def _make_weights(method: Method, layer: int, spec: ViTSpec, block: nn.Module) -> nn.Module | None:
    """What the method learns in the block, where and as the block's own weights are."""
    with torch.device("cpu"):  # whatever the default device is: its values could not be moved from meta
        weights = method.make_weights(layer, spec)
    like = next(block.parameters())
    return None if weights is None else weights.to(like.device, like.dtype).train(block.training)
