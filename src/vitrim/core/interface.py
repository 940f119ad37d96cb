"""What a token-reduction method is: settings, a few facts, and hooks that act at named moments of a block.

before_block -> attention -> after_attention -> MLP -> after_block    in every block
finish                                                                after the last block
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from .amount import Amount
from .attention import Attention
from .exits import Criterion
from .spec import ViTSpec
from .tokens import Tokens


class MethodInterface:
    """Everything that a method can override. `Method` adds what the library does with it."""

    name: ClassVar[str]
    weights: ClassVar[nn.Module | None] = None  # what the method learned in the block at work, if anything

    @property
    def amount(self) -> Amount | None:
        """The setting that says how much is reduced; None if no single setting does."""
        return None

    @property
    def merges(self) -> bool:
        """Whether a token can stand for several patches."""
        return False

    @property
    def drops(self) -> bool:
        """Whether patches may be dropped."""
        return not self.merges

    @property
    def fuses(self) -> bool:
        """Whether patches that do not resemble each other can share a token."""
        return False

    @property
    def varies(self) -> bool:
        """Whether the method is input-adaptive: each image keeps its own number of tokens, at most `num_kept`."""
        return False

    @property
    def by_position(self) -> bool:
        """Whether a patch's fate depends, by design, on its position in the sequence."""
        return False

    @property
    def size_in_attention(self) -> bool:
        """Whether attention adds log(size) to the logits of each key (ToMe's); the setting prop_attn says so."""
        return getattr(self, "prop_attn", False)

    def build(self, spec: ViTSpec) -> MethodInterface:
        """Resolve every default for one model. ValueError if the settings do not fit it."""
        return self

    def num_kept(self, layer: int, num_patches: int) -> int:
        """Patch tokens that leave block `layer` (0-based) when num_patches enter it. Fixes all token counts."""
        return num_patches

    def is_active(self, layer: int, num_patches: int) -> bool:
        """Whether block `layer` calls `after_attention`. An inactive one frees queries, keys and values earlier."""
        return True

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        """Multiply-adds of the reduction itself in block `layer`, for one image."""
        return 0

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        """The weights to learn in block `layer`: `self.weights` in hooks. A child named `exit` is for training only."""
        return None

    def before_block(self, layer: int, tokens: Tokens) -> Tokens:
        """Called with the input of block `layer`."""
        return tokens

    def within_attention(
        self, layer: int, tokens: Tokens, attention: Attention, project: Callable[[Tokens], Attention]
    ) -> tuple[Tokens, Attention]:
        """Called before queries, keys and values of block `layer` are mixed.

        Returns the tokens that leave the attention, and what gives their features. project: of other tokens.
        """
        return tokens, attention

    def after_attention(self, layer: int, tokens: Tokens, attention: Attention) -> Tokens:
        """Called between the attention and the MLP of block `layer`; x_BNC includes the residual."""
        return tokens

    def after_block(self, layer: int, tokens: Tokens) -> Tokens:
        """Called with the output of block `layer`."""
        return tokens

    def finish(self, tokens: Tokens) -> Tokens:
        """Called once, after the last block."""
        return tokens

    def losses(self, collected: tuple[Tensor, ...], logits_BK: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        """Weighted extra terms of the training loss by name, each a scalar.

        collected: what this method passed to `Tokens.collect`. criterion: maps logits [B, classes] to a loss.
        """
        return {}
