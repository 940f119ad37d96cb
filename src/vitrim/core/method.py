"""What a token-reduction method is: a frozen value of settings, acting at three named moments of a block."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, ClassVar, TypeVar, cast

from torch import Tensor, nn

from . import schedule
from .amount import KEEP_RATE, Amount
from .attention import Attention
from .exits import Criterion, Exits
from .renamed import bridge
from .spec import ViTSpec
from .tokens import Tokens

M = TypeVar("M", bound="Method")


@dataclass(frozen=True, kw_only=True)
class Method:
    """Base of all methods. Subclasses are frozen dataclasses: settings as fields, no state.

    A method overrides `num_kept`, which fixes all token counts, and one or more of the four hooks. One that learns
    makes its weights in `make_weights`; they live in the block where they act, and its hooks find them in
    `self.weights`. exits: heads that are trained along (`Exits`); beside any method, and no setting of its own.
    """

    name: ClassVar[str]
    weights: ClassVar[nn.Module | None] = None  # of the block at work; None where the method has none there

    exits: Exits | None = field(default=None, repr=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bridge(cls, "acts", "is_active")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(each.default, bool) and not isinstance(value, bool):
                raise ValueError(f"{self.name}: {each.name} is True or False, not {value!r}.")
        if self.exits is not None and not isinstance(self.exits, Exits):
            raise ValueError(
                f"{self.name}: exits are heads to train along, say Exits(layers=(3, 6)), not {self.exits!r}."
            )

    def __str__(self) -> str:
        return repr(self) if self.exits is None else f"{self!r} with {self.exits!r}"

    @property
    def merges(self) -> bool:
        """Whether a token may come to stand for several patches."""
        return False

    @property
    def fuses(self) -> bool:
        """Whether patches may share a token that do not resemble each other."""
        return False

    @property
    def varies(self) -> bool:
        """Whether each image keeps a number of its own, at most `num_kept`."""
        return False

    @property
    def by_position(self) -> bool:
        """Whether what becomes of a patch depends, by design, on where it stands in the sequence."""
        return False

    @property
    def amount(self) -> Amount | None:
        """The setting that says how much is reduced; None where no single one does."""
        return None

    @property
    def has_keep_rate(self) -> bool:
        """Whether one share of patches to keep sets how much is reduced."""
        return self.amount == KEEP_RATE

    @property
    def size_in_attention(self) -> bool:
        """Whether attention adds log(size) to the logits of each key (ToMe's proportional attention)."""
        return False

    def build(self, spec: ViTSpec) -> Method:
        """This method with every default resolved for one model; ValueError where it does not fit.

        What a method overrides; `built_for` is what to call.
        """
        return self

    def built_for(self: M, spec: ViTSpec) -> M:
        """This method and the exits beside it with every default resolved for one model; ValueError without a fit."""
        built = cast(M, self.build(spec))
        return (
            built
            if self.exits is None
            else replace(built, exits=self.exits.build(self.name, built.reducing_layers(spec), spec))
        )

    def reducing_layers(self, spec: ViTSpec) -> tuple[int, ...]:
        """Where this built method reduces, 0-based; its `layers`, if it has any, count at whatever rate."""
        layers, num_patches = set(getattr(self, "layers", ())), spec.num_patches
        for layer in range(spec.depth):
            left = self.num_kept(layer, num_patches)
            layers |= {layer} if left < num_patches else set()
            num_patches = left
        return tuple(sorted(layers))

    def num_kept(self, layer: int, num_patches: int) -> int:
        """Patch tokens that leave block `layer` (0-based) when num_patches enter it."""
        return num_patches

    def extra_macs(self, layer: int, num_patches: int, spec: ViTSpec) -> int:
        """Multiply-adds that the reduction itself costs in block `layer`, for one image."""
        return 0

    def make_weights(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        """What this method learns in block `layer`: registered there, under the keys `<blocks>.<layer>.method.*`.

        What only training needs goes under the name `exit`: such keys are ignored where nothing needs them.
        """
        return None

    def learned_in(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        """What is learned in block `layer`, the head of an exit there included."""
        weights = self.make_weights(layer, spec)
        return weights if self.exits is None else self.exits.beside(weights, layer, spec)

    def with_weights(self: M, weights: nn.Module | None) -> M:
        """This method with the weights of one block at hand."""
        if weights is None and self.weights is None:
            return self
        bound = copy.copy(self)
        object.__setattr__(bound, "weights", weights)  # no field: weights are no setting
        return bound

    def at(self: M, value: Any) -> M:
        """The same settings at another amount; ValueError for a method without one."""
        if self.amount is None:
            raise ValueError(f"{self.name}: no single setting says how much it reduces.")
        return replace(self, **{self.amount.setting: value})

    def at_keep_rate(self: M, keep_rate: float | Sequence[float]) -> M:
        """The same settings at another keep rate; ValueError for a method without one."""
        if not self.has_keep_rate:
            raise ValueError(f"{self.name} has no keep rate, so none can be set or warmed up.")
        return self.at(keep_rate)

    def before_block(self, layer: int, tokens: Tokens) -> Tokens:
        """Called with the input of block `layer`."""
        return tokens

    def is_active(self, layer: int, num_patches: int) -> bool:
        """Whether block `layer` calls `after_attention` when num_patches enter it.

        An inactive block frees queries, keys and values earlier. If no block is active, the model runs as it was.
        """
        return True

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
        """Extra terms of the training loss by name, weighted, each a scalar; they are added to the criterion's.

        collected: what this method passed to `Tokens.collect`. criterion: maps logits [B, classes] to a loss.
        """
        return {}

    def losses_of(self, tokens: Tokens, logits_BK: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        """The losses for what was collected in `tokens`, which left the last block; {} if nothing was."""
        collected = tokens.collected(self.name)
        own = self.losses(collected, logits_BK, criterion) if collected else {}
        exits = {} if self.exits is None else self.exits.losses_of(tokens, logits_BK, criterion)
        if both := own.keys() & exits.keys():
            raise ValueError(f"{self.name} and the exits beside it both have losses called {', '.join(sorted(both))}.")
        return own | exits


bridge(Method, "acts", "is_active")


def plain_settings(method: Method) -> dict[str, Any]:
    """A method's settings by name, and those of the exits beside it, if there are any, as one more."""
    own = {each.name: getattr(method, each.name) for each in fields(method) if each.name != "exits"}
    return own if method.exits is None else own | {"exits": asdict(method.exits)}


def is_decorated(cls: type[Method]) -> bool:
    """Whether the class is a dataclass of its own, or of a method's, and so knows its settings."""
    return any("__dataclass_params__" in vars(base) for base in cls.__mro__[: cls.__mro__.index(Method)])


K = TypeVar("K", bound="KeepRateMethod")


@dataclass(frozen=True, kw_only=True)
class KeepRateMethod(Method):
    """Base of methods that keep a share of the patches in a few blocks.

    keep_rate: share of the patches that enter a reducing block, one number or one per layer; above 0, at most 1.
    layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
    """

    keep_rate: float | Sequence[float] = 0.7
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        schedule.check_reducing(self.layers, self.name)
        schedule.check_shares(self.keep_rate, self.name)

    def build(self: K, spec: ViTSpec) -> K:
        layers = schedule.default_layers(spec.depth) if self.layers is None else self.layers
        layers = schedule.check_layers(layers, spec.depth, self.name)
        return replace(self, layers=layers, keep_rate=schedule.check_rates(self.keep_rate, len(layers), self.name))

    @property
    def amount(self) -> Amount | None:
        return KEEP_RATE

    def rate(self, layer: int) -> float:
        """Keep rate of block `layer`; 1 where it is no reducing layer."""
        assert isinstance(self.layers, tuple) and isinstance(self.keep_rate, tuple), "build() comes first"
        return self.keep_rate[self.layers.index(layer)] if layer in self.layers else 1.0

    def num_attentive(self, layer: int, num_patches: int) -> int:
        """Patches that block `layer` keeps as they are: ceil(keep_rate * num_patches)."""
        return schedule.ceil_share(self.rate(layer), num_patches)

    def num_kept(self, layer: int, num_patches: int) -> int:
        return self.num_attentive(layer, num_patches)

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.rate(layer) < 1 and self.num_attentive(layer, num_patches) < num_patches
