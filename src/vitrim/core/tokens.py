"""The one value that flows from block to block.

Shape letters: B batch, N tokens, P patches at the start, K kept, M removed, C channels, H heads, D channels per head.
In images and logits: I images, H height, W width, K classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from . import packing


class AuxOutput(NamedTuple):
    """A tensor that a method collects for its loss."""

    method: str  # the method's name
    value: Tensor  # [B, ...]


class Tokens(NamedTuple):
    """Features and their bookkeeping: a plain pytree, so that compile, export and checkpointing see inside.

    Methods change tokens through `vitrim.core.ops` alone, which keeps the bookkeeping in step.

    If the images of a batch keep different numbers of tokens, the tokens are *packed*: x_BNC is [1, T, C], the rows of
    all images one after another, size_BN is [1, T], and `lengths` has each image's number of rows. Everything else
    stays [B, ...], padded to the longest image.
    """

    x_BNC: Tensor  # features; the prefix (class, distillation, register tokens) first
    num_prefix: int  # length of the prefix, which is never reduced
    size_BN: Tensor | None = None  # patches that each token stands for (None: not counted yet)
    traced: bool = False  # whether the next two are filled in
    source_BP: Tensor | None = None  # index of the token that holds each patch, -1 if dropped (None: its own)
    weight_BP: Tensor | None = None  # weight of each patch in that token (None: 1)
    aux: tuple[AuxOutput, ...] | None = None  # tensors that methods collect for their losses (None: not wanted)
    uses_rope: bool = False  # whether attention rotates patch tokens by their positions, see core/rotary.py
    position_BK: Tensor | None = None  # these positions, -1 for no position (None: not changed yet)
    lengths: packing.Lengths | None = None  # tokens of each image, prefix included, if packed (None: all have N)
    live_BN: Tensor | None = None  # weight of each key in attention, 0 if masked, see core/masking.py (None: 1)
    memory: tuple[Tensor, ...] = ()  # what a method keeps from block to block, [B, ...] each
    run: Any = None  # the forward that they are part of, a `core.run.Run`

    def with_features(self, x_BNC: Tensor) -> Tokens:
        """The same tokens with other features. Faster than `_replace`, and every block calls it."""
        return Tokens(x_BNC, *self[1:])

    def collect(self, method: str, value: Tensor) -> Tokens:
        """Add a tensor to `aux` under the method's name. Without `aux`, do nothing."""
        return self if self.aux is None else self._replace(aux=(*self.aux, AuxOutput(method, value)))

    def collected(self, method: str) -> tuple[Tensor, ...]:
        """The tensors that the method of this name collected."""
        return tuple(value for name, value in self.aux or () if name == method)

    @property
    def num_tokens_B(self) -> packing.Lengths:
        """Tokens of each image, prefix included."""
        return (self.x_BNC.shape[1],) * self.x_BNC.shape[0] if self.lengths is None else self.lengths

    @property
    def num_patches(self) -> int:
        """Patch tokens of an image; of the longest one if packed."""
        num_tokens = self.x_BNC.shape[1] if self.lengths is None else max(self.lengths)
        if isinstance(num_tokens, Tensor):  # under torch.jit.trace; methods plan with numbers
            num_tokens = int(num_tokens)
        return num_tokens - self.num_prefix

    @property
    def first_BC(self) -> Tensor:
        """The first token of each image, which is the class token if there is one."""
        if self.lengths is None:
            return self.x_BNC[:, 0]
        return self.x_BNC[0].index_select(0, packing.starts(self.lengths, self.x_BNC.device))

    @property
    def padded_BNC(self) -> Tensor:
        """The features, padded with zeros if packed."""
        return self.x_BNC if self.lengths is None else packing.pad(self.x_BNC[0], self.lengths)

    @property
    def patches_BNC(self) -> Tensor:
        """The features without the prefix, [B, N - num_prefix, C], padded with zeros if packed."""
        return self.padded_BNC[:, self.num_prefix :]
