"""The base of all methods, and the base of those with a keep rate."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from . import schedule
from .amount import KEEP_RATE, Amount
from .exits import Criterion, Exits
from .interface import MethodInterface
from .mask import Mask
from .renamed import alias, bridge
from .spec import ViTSpec
from .tokens import Tokens

M = TypeVar("M", bound="Method")

bridge(MethodInterface, "acts", "is_active")
for _old, _new in (("tell", "collect"), ("told", "collected"), ("carry", "aux")):
    alias(Tokens, _old, _new)


@dataclass(frozen=True, kw_only=True)
class Method(MethodInterface):
    """Base of all methods. Subclasses are frozen dataclasses: settings as fields, no state.

    exits: heads to train along with any method (`Exits`).
    """

    exits: Exits | None = field(default=None, repr=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        bridge(cls, "acts", "is_active")

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(each.default, bool) and not isinstance(value, bool):
                raise ValueError(f"{self.name}: {each.name} must be True or False, not {value!r}.")
        if self.exits is not None and not isinstance(self.exits, Exits):
            raise ValueError(f"{self.name}: exits must be an Exits, such as Exits(layers=(3, 6)), not {self.exits!r}.")

    def __str__(self) -> str:
        return repr(self) if self.exits is None else f"{self!r} with {self.exits!r}"

    @property
    def after_mlp(self) -> bool:
        """Whether `after_attention` is called after the MLP instead, as for a score that needs the MLP's output."""
        return getattr(self, "scorer", None) == "shift"

    @property
    def before_attention(self) -> bool:
        """Whether the output of a block's attention has the reduced tokens already, as `before_block` can make it."""
        return False

    @property
    def first_layer(self) -> int:
        """The first block where it can reduce: 1 if it reads the attention of the block before."""
        return 0

    @property
    def forms_matrix(self) -> bool:
        """Whether the whole attention matrix of a reducing block is formed: memory grows with the square of tokens."""
        return self.attention_density < 1

    @property
    def attention_density(self) -> float:
        """Share of each head's attention entries that are kept, the largest, in every block."""
        return 1.0

    @property
    def propagates(self) -> bool:
        """Whether a patch can flow into several tokens. A trace calls it dropped, or shows the token it is most in."""
        return False

    @property
    def trains_by_masks(self) -> bool:
        """Whether training masks tokens, where inference removes them. It forms attention matrices then."""
        return getattr(self, "target", None) is not None

    @property
    def brings_back(self) -> bool:
        """Whether patches that went, or share a token, can have one of their own again in a later block."""
        return False

    @property
    def needs_training(self) -> bool:
        """Whether the method's own weights mean nothing until they are trained."""
        return False

    @property
    def has_keep_rate(self) -> bool:
        """Whether a keep rate sets how much is reduced."""
        return self.amount == KEEP_RATE

    def mask(self, live_BN: Tensor | None) -> Mask | None:
        """How attention weighs keys while tokens are masked in training (core/masking.py); None if none is."""
        return None if live_BN is None else Mask(live_BN)

    def settled(self, weights: Sequence[nn.Module | None]) -> Method:
        """The method that training ends in, given what each block learned; settings can take it over."""
        return self

    def built_for(self: M, spec: ViTSpec) -> M:
        """Resolve every default for one model, those of the exits included. ValueError if something does not fit it."""
        built = cast(M, self.build(spec))
        if not isinstance(built, Method):
            raise TypeError(f"{self.name}: build must return a method, not {type(built).__name__}.")
        if self.exits is None:
            return built
        return replace(built, exits=self.exits.build(self.name, built.reducing_layers(spec), spec))

    def fits(self: M, spec: ViTSpec) -> M:
        """This built method, if its counts can be kept in every block. Else `num_kept` raises ValueError."""
        num_patches = spec.num_patches
        for layer in range(spec.depth):
            num_patches = self.num_kept(layer, num_patches)
        return self

    def reducing_layers(self, spec: ViTSpec) -> tuple[int, ...]:
        """The 0-based blocks where a built method reduces. All of its `layers` count, even at a keep rate of 1."""
        layers, num_patches = set(getattr(self, "layers", ())), spec.num_patches
        for layer in range(spec.depth):
            left = self.num_kept(layer, num_patches)
            layers |= {layer} if left < num_patches else set()
            num_patches = left
        return tuple(sorted(layers))

    def learned_in(self, layer: int, spec: ViTSpec) -> nn.Module | None:
        """New weights for block `layer`, with the exit head there."""
        weights = self.make_weights(layer, spec)
        if not isinstance(weights, nn.Module | None):
            raise TypeError(f"{self.name}: make_weights must return a module or None, not {type(weights).__name__}.")
        return weights if self.exits is None else self.exits.beside(weights, layer, spec)

    def with_weights(self: M, weights: nn.Module | None) -> M:
        """A copy whose hooks find these weights as `self.weights`."""
        if weights is None and self.weights is None:
            return self
        bound = copy.copy(self)
        object.__setattr__(bound, "weights", weights)  # not a field: weights are no setting
        return bound

    def at(self: M, value: Any) -> M:
        """The same settings at another amount. ValueError if the method has no amount."""
        if self.amount is None:
            raise ValueError(f"{self.name}: no single setting says how much it reduces.")
        return replace(self, **{self.amount.setting: value})

    def at_keep_rate(self: M, keep_rate: float | Sequence[float]) -> M:
        """The same settings at another keep rate. ValueError if the method has none."""
        if not self.has_keep_rate:
            raise ValueError(f"{self.name} has no keep rate, so none can be set or warmed up.")
        return self.at(keep_rate)

    def losses_of(self, tokens: Tokens, logits_BK: Tensor, criterion: Criterion) -> dict[str, Tensor]:
        """The losses of the method and its exits, from what they collected in the tokens that left the last block."""
        collected = tokens.collected(self.name)
        own = self.losses(collected, logits_BK, criterion) if collected else {}
        exits = {} if self.exits is None else self.exits.losses_of(tokens, logits_BK, criterion)
        if both := own.keys() & exits.keys():
            raise ValueError(f"{self.name} and its exits both have losses called {', '.join(sorted(both))}.")
        return own | exits


def plain_settings(method: Method) -> dict[str, Any]:
    """A method's settings by name. Those of its exits are one more entry."""
    own = {each.name: getattr(method, each.name) for each in fields(method) if each.name != "exits"}
    return own if method.exits is None else own | {"exits": asdict(method.exits)}


def is_decorated(cls: type[Method]) -> bool:
    """Whether the class, or a base of it below `Method`, is a dataclass."""
    return any("__dataclass_params__" in vars(base) for base in cls.__mro__[: cls.__mro__.index(Method)])


K = TypeVar("K", bound="KeepRateMethod")


@dataclass(frozen=True, kw_only=True)
class KeepRateMethod(Method):
    """Base of methods that keep a share of the patches in a few blocks.

    keep_rate: share of the patches that enter a reducing block, one number or one per layer; above 0, at most 1.
    layers: reducing blocks, 0-based and increasing; None means a quarter of the depth apart (3, 6, 9 of 12).
    r: patches that go in each of these blocks, one number or one per layer, in place of a keep rate.
    """

    keep_rate: float | Sequence[float] = KEEP_RATE.usual
    layers: Sequence[int] | None = None
    r: int | Sequence[int] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        schedule.check_reducing(self.layers, self.name)
        schedule.check_shares(self.keep_rate, self.name)
        schedule.check_removed(self.r, self.name)
        if self.r is not None and self.keep_rate not in (KEEP_RATE.usual, type(self).keep_rate, ()):
            raise ValueError(f"{self.name}: r says how many patches go: leave keep_rate out.")

    def build(self: K, spec: ViTSpec) -> K:
        layers = schedule.default_layers(spec.depth) if self.layers is None else self.layers
        layers = schedule.check_layers(layers, spec.depth, self.name)
        if self.r is None:
            return replace(self, layers=layers, keep_rate=schedule.check_rates(self.keep_rate, len(layers), self.name))
        return replace(self, layers=layers, r=schedule.check_each(self.r, len(layers), self.name)).fits(spec)

    @property
    def amount(self) -> Amount | None:
        return KEEP_RATE if self.r is None else None  # patches are set one by one

    def num_removed(self, layer: int, num_patches: int) -> int:
        """How many patches go in block `layer` where r says so. ValueError if none would be left."""
        assert isinstance(self.layers, tuple) and isinstance(self.r, Sequence), "build() comes first"
        removed = self.r[self.layers.index(layer)] if layer in self.layers else 0
        if removed >= num_patches:
            raise ValueError(
                f"{self.name}: r = {removed} in block {layer} is too large: {num_patches} patches enter it, and one "
                "must be left."
            )
        return removed

    def rate(self, layer: int) -> float:
        """Keep rate of block `layer`; 1 if it is not a reducing block."""
        assert isinstance(self.layers, tuple) and isinstance(self.keep_rate, tuple), "build() comes first"
        return self.keep_rate[self.layers.index(layer)] if layer in self.layers else 1.0

    def num_attentive(self, layer: int, num_patches: int) -> int:
        """Patches that block `layer` keeps unchanged: ceil(keep_rate * num_patches)."""
        assert isinstance(self.layers, tuple), "build() comes first"
        if self.r is not None:
            return num_patches - self.num_removed(layer, num_patches)
        if layer not in self.layers or (rate := self.rate(layer)) == 1:
            return num_patches
        return schedule.ceil_share(rate, num_patches)

    def num_kept(self, layer: int, num_patches: int) -> int:
        return self.num_attentive(layer, num_patches)

    def is_active(self, layer: int, num_patches: int) -> bool:
        return self.num_attentive(layer, num_patches) < num_patches
