"""The loop over blocks, with a method acting inside it.

`TokenStack` takes the place of a model's list of blocks and nothing else: class, parameter names, embedding, norm
and head of the model stay as they are. It is a Sequential of `TokenBlock`s; the first turns features into `Tokens`,
the last turns them back, so code that walks the list block by block (gradient checkpointing) works unchanged.
"""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from . import ops
from .attention import Attention
from .method import Method, ViTSpec, check_opaque
from .tokens import Tokens


class BlockReader(ABC):
    """How to read one class of blocks of one library. Stateless; one instance serves all blocks of the class."""

    @abstractmethod
    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        """Norm, projection and split of the block's input."""

    @abstractmethod
    def add_attention(self, block: Any, x_BNC: Tensor, mixed_BHND: Tensor) -> Tensor:
        """x plus the attention residual (output projection, LayerScale and drop-path included)."""

    @abstractmethod
    def add_mlp(self, block: Any, x_BNC: Tensor) -> Tensor:
        """x plus the MLP residual (norm, LayerScale and drop-path included)."""


class OpaqueReader(BlockReader):
    """For a block that only runs as a whole, whatever sequence it takes. Such blocks come first, and no method acts."""

    def attention(self, block: Any, x_BNC: Tensor) -> Attention:
        raise RuntimeError(f"the attention of a {type(block).__name__} cannot be read: the block only runs as a whole.")

    add_attention = add_mlp = attention  # type: ignore[assignment]


WEIGHTS = "method"  # name under which a block holds what the method learns
TRAINING_ONLY = "exit"  # name, inside that, of what inference can do without


class Snapshot(NamedTuple):
    """Where the patches live after one reducing block."""

    layer: int
    tokens: Tokens


class TokenBlock(nn.Module):
    """A second view of one block: same children and parameters under the same names, but Tokens in and out."""

    block: nn.Module
    reader: BlockReader
    acting: Method  # under another name than WEIGHTS, where the module must be found
    weights: nn.Module | None
    recorder: list[Snapshot] | None
    outbox: list[Tokens] | None
    traced: bool

    def __init__(self, block: nn.Module, reader: BlockReader, method: Method, spec: ViTSpec, layer: int):
        super().__init__()
        # The very dicts are shared, so that .to(), load_state_dict and optimisers act on both views at once.
        for name in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            self.__dict__[name] = block.__dict__[name]
        # Plain attributes, set past nn.Module: registered, they would add keys to the state_dict.
        weights, weight = method.make_weights(layer, spec), next(block.parameters())
        if weights is not None:
            weights = weights.to(weight.device, weight.dtype).train(block.training)
        self.__dict__.update(block=block, reader=reader, weights=weights, recorder=None, outbox=None, traced=False)
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

    def forward(self, x: Tensor | Tokens, attn_mask: None = None, is_causal: bool = False) -> Tensor | Tokens:
        """One block. The first accepts features [B, N, C], the last returns them."""
        if attn_mask is not None or is_causal:
            raise ValueError("a model with reduced tokens takes no attention mask: its tokens move; restore it first.")
        if isinstance(x, tuple) and not isinstance(x, Tokens):
            raise ValueError("reentrant checkpointing takes tokens apart: checkpoint with use_reentrant=False.")
        tokens = x if isinstance(x, Tokens) else self._start(x)
        source_before = tokens.source_BP
        tokens = self._step(tokens)
        if self.recorder is not None and tokens.source_BP is not source_before:
            self.recorder.append(Snapshot(self.layer, tokens))
        return self._leave(tokens) if self.layer == self.spec.depth - 1 else tokens

    def _start(self, x_BNC: Tensor) -> Tokens:
        spreads = self.spec.pools_patches and self.acting.merges
        traced = spreads or self.recorder is not None or self.traced
        return Tokens(x_BNC, self.spec.num_prefix, traced=traced, carry=None if self.outbox is None else ())

    def _step(self, tokens: Tokens) -> Tokens:
        if isinstance(self.reader, OpaqueReader):
            return tokens._replace(x_BNC=self.block.forward(tokens.x_BNC))
        tokens = self.acting.before_block(self.layer, tokens)
        attention = self.reader.attention(self.block, tokens.x_BNC)
        if self.acting.size_in_attention and tokens.size_BN is not None:
            attention = attention._replace(bias=tokens.size_BN.log()[:, None, None].to(attention.q_BHND.dtype))
        x = self.reader.add_attention(self.block, tokens.x_BNC, attention.output())
        tokens = self.acting.after_attention(self.layer, tokens._replace(x_BNC=x), attention)
        del attention, x  # queries, keys, values and the longer sequence need not outlive the MLP's peak
        return self.acting.after_block(self.layer, tokens._replace(x_BNC=self.reader.add_mlp(self.block, tokens.x_BNC)))

    def _leave(self, tokens: Tokens) -> Tensor:
        tokens = self.acting.finish(tokens)
        if self.outbox is not None:
            self.outbox.append(tokens)
        if self.spec.pools_patches and self.acting.merges:
            tokens = ops.spread(tokens)
        return tokens.x_BNC

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if not hasattr(self.weights, TRAINING_ONLY):
            unneeded = f"{prefix}{WEIGHTS}.{TRAINING_ONLY}."
            for key in [key for key in state_dict if key.startswith(unneeded)]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)


class TokenStack(nn.Sequential):
    """The blocks of a model, carrying ever fewer tokens. [B, N, C] -> [B, N', C]."""

    def __init__(self, blocks: nn.Module, readers: Sequence[BlockReader], method: Method, spec: ViTSpec):
        layers = list(blocks.children())
        check_opaque(method, spec)
        _warn_about_hooks(layers, spec.name)
        super().__init__(
            *(
                TokenBlock(block, reader, method, spec, i)
                for i, (block, reader) in enumerate(zip(layers, readers, strict=True))
            )
        )
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
        """From the next forward on, append the tokens that leave the last block, `carry` included; None stops it.

        They hold the graph of the forward: take them out and clear the list after each. traced: with their sources.
        """
        for block in self:
            block.__dict__.update(outbox=outbox, traced=traced)

    def attach(self) -> None:
        """Register what the method learns in the blocks."""
        for block in self:
            cast(TokenBlock, block).attach()

    def record_into(self, recorder: list[Snapshot] | None) -> None:
        """From the next forward on, append a snapshot after every reducing block; None stops it."""
        for block in self:
            block.__dict__["recorder"] = recorder

    def release(self) -> nn.Module:
        """The original container of blocks, in this stack's training mode, without what the method learns."""
        original: nn.Module = self.__dict__["original"]
        original.training = self.training
        for mine, block in zip(self, original.children(), strict=True):
            block.training = mine.training
            block._modules.pop(WEIGHTS, None)
        return original


def _warn_about_hooks(blocks: list[nn.Module], name: str) -> None:
    hooked = [i for i, block in enumerate(blocks) if any(_has_hooks(part) for part in (block, _attention_of(block)))]
    if hooked:
        warnings.warn(
            f"{name}: forward hooks on blocks {hooked}, or on their attention, do not run while tokens are reduced.",
            stacklevel=4,
        )


def _has_hooks(module: nn.Module | None) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def _attention_of(block: nn.Module) -> nn.Module | None:
    return next((child for name, child in block.named_children() if name.startswith(("attn", "attention"))), None)


@torch.no_grad()
def check_reader(block: nn.Module, reader: BlockReader, channels: int) -> float:
    """Relative difference between the residual updates of the block and of its reader, on random input.

    Updates, not outputs, are compared: under a small LayerScale a wrong reader hardly shows in the output. It is
    done on a copy, without the user's hooks, and not in half precision, where a small update vanishes. 0 where the
    weights are on the meta device, or the block is not taken apart.
    """
    weight = next(block.parameters())
    if weight.is_meta or isinstance(reader, OpaqueReader):
        return 0.0
    block = copy.deepcopy(block).eval().to(torch.promote_types(weight.dtype, torch.float32))
    for module in block.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 17, channels, generator=generator).to(weight.device, next(block.parameters()).dtype)
    wanted = block(x) - x
    read = reader.add_attention(block, x, reader.attention(block, x).output())
    got = reader.add_mlp(block, read) - x
    return float((got - wanted).norm() / wanted.norm().clamp(min=1e-30))
