"""A second view of one block: the same children, parameters, buffers and hooks under the same names."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from .attention import Attention
from .block_reader import BlockReader, Padding
from .exits import TRAINING_ONLY
from .hooks import DISPATCH, StandIn, dispatch_like, is_watched
from .listening import OutputCollector
from .method import Method
from .rotary import Rotation, positions
from .spec import ViTSpec
from .tokens import Tokens

WEIGHTS = "method"  # name under which a block holds what the method learns
OWN = ("block", "reader", "spec", "layer", "kept", "acting", "collector", "_compiled_call_impl", *DISPATCH)
V = TypeVar("V", bound="BlockView")

Seen = tuple[Tokens, Attention | None]  # the tokens that leave attention, and what of it a method wants to see
Mixed = tuple[Tensor, Seen]  # what attention gives, and the rest


class Acting(NamedTuple):
    """A method, without and with the weights of one block."""

    method: Method
    bound: Method | None  # None in a replica of nn.DataParallel, whose weights differ each time


class Passing:
    """The tokens around a call, while hooks see features only."""

    def __init__(self, entering: Tensor | Tokens):
        self.entering = entering
        self.leaving: Tensor | Tokens = entering


class BlockView(nn.Module):
    """Tokens in and out, features for the block's hooks.

    A view is also of the block's class (`blank_view`), so code that finds blocks by their class finds views.
    """

    block: nn.Module
    reader: BlockReader
    spec: ViTSpec
    layer: int
    kept: nn.Module | None  # what the method learns, also while it is not registered
    acting: Acting
    collector: OutputCollector | None  # for compiled forwards, which cannot ask a context variable

    def _run(self, x: Tensor | Tokens, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | Tokens:
        """Compute one block, without its hooks."""
        raise NotImplementedError

    @property
    def weights(self) -> nn.Module | None:
        """What the method learns in this block."""
        return self._modules.get(WEIGHTS, self.kept)

    def set_method(self, method: Method) -> None:
        """Use this built method from the next forward on, with the weights of this block."""
        self.__dict__["acting"] = Acting(method, method.with_weights(self.weights))

    def attach(self) -> None:
        """Register what the method learns as a child of the block."""
        if self.kept is not None:
            self._modules[WEIGHTS] = self.kept

    def release(self) -> None:
        """Bring the block up to date with this view, without what the method learns."""
        self.__dict__["kept"] = self._modules.pop(WEIGHTS, self.kept)
        self.block.__dict__.update({name: value for name, value in self.__dict__.items() if name not in OWN})
        dispatch_like(self.block, self)

    def __call__(self, x: Tensor | Tokens, *args: Any, **kwargs: Any) -> Tensor | Tokens:
        """One block. The first accepts features [B, N, C] and the last returns them. Hooks always see features."""
        if not is_watched(self):
            return self._run(x, args, kwargs)
        passing = Passing(x)
        features = x.x_BNC if isinstance(x, Tokens) else x
        out: Tensor = nn.Module.__call__(self, features, *args, passing=passing, **kwargs)
        return passing.leaving.with_features(out) if isinstance(passing.leaving, Tokens) else out

    def forward(self, x: Tensor | Tokens, *args: Any, passing: Passing | None = None, **kwargs: Any) -> Any:
        """One block, without its hooks."""
        if passing is None:
            return self._run(x, args, kwargs)
        if isinstance(passing.entering, Tokens) and isinstance(x, Tensor):
            x = _on_device(passing.entering, x.device).with_features(x)  # hooks may have changed or moved the features
        passing.leaving = self._run(x, args, kwargs)
        return passing.leaving.x_BNC if isinstance(passing.leaving, Tokens) else passing.leaving

    def residuals(self, tokens: Tokens) -> BlockReader | Padding:
        """The reader, or one that pads: drop-path would take packed images for a single one."""
        if tokens.lengths is None or not self.training:
            return self.reader
        drops = any(getattr(module, "drop_prob", None) for module in self.modules())
        return Padding(self.reader, tokens.lengths) if drops else self.reader

    def project_tokens(
        self, method: Method, rotation: Rotation | None, tokens: Tokens, x_BNC: Tensor | None = None
    ) -> Attention:
        """Queries, keys and values of the tokens. x_BNC: what they are made of, such as the norm; None: made here."""
        x_BNC = self.reader.enter(self, tokens.x_BNC) if x_BNC is None else x_BNC
        attention = self.reader.attention(self, x_BNC)
        bias = attention.bias
        if method.size_in_attention and tokens.size_BN is not None:
            bias = tokens.size_BN.log()[:, None, None].to(attention.q_BHND.dtype)
        attention = attention._replace(bias=bias, lengths=tokens.lengths, input_BNC=x_BNC)
        attention = attention._replace(density=method.attention_density, mask=method.mask(tokens.live_BN))
        if rotation is None:
            return attention
        return self.reader.apply_rope(self, attention, rotation.rows(positions(tokens)))

    def own_forward(self, *args: Any, **kwargs: Any) -> Any:
        """The block's own forward, features in and out."""
        return super().forward(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if not hasattr(self.weights, TRAINING_ONLY):
            unneeded = f"{prefix}{WEIGHTS}.{TRAINING_ONLY}."
            for key in [key for key in state_dict if key.startswith(unneeded)]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _replicate_for_data_parallel(self: V) -> V:
        replica: V = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica.__dict__["acting"] = self.acting._replace(bound=None)  # its weights come later
        return replica

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copy by the two classes, since the view's own class cannot be imported. A copy has no collector."""
        return blank_view, (type(self).__bases__[0], type(self.block)), self.__dict__ | {"collector": None}


def hooked_attention(module: nn.Module, reader: BlockReader, x_BNC: Tensor, mix: Callable[[Tensor], Mixed]) -> Mixed:
    """Call mix(x_BNC) in place of a block's attention, with the hooks of that attention around it."""
    seen: list[Seen] = []

    def compute(x_BNC: Tensor, *_: Tensor, **__: Any) -> Any:
        out_BNC, rest = mix(x_BNC)
        seen.append(rest)
        return (out_BNC, None) if reader.pairs else out_BNC

    out = StandIn(module, compute)(*[x_BNC] * reader.inputs)
    return out[0] if reader.pairs else out, seen[-1]


def _on_device(tokens: Tokens, device: torch.device) -> Tokens:
    """The same tokens on another device."""
    if tokens.x_BNC.device == device:
        return tokens
    fields = tokens._asdict().items()
    moved: dict[str, Any] = {name: value.to(device) for name, value in fields if isinstance(value, Tensor)}
    aux = None if tokens.aux is None else tuple(each._replace(value=each.value.to(device)) for each in tokens.aux)
    return tokens._replace(**moved, aux=aux, memory=tuple(value.to(device) for value in tokens.memory))


@cache
def _view_class(view: type[BlockView], block: type[nn.Module]) -> type[BlockView]:
    names = {"__module__": block.__module__, "__qualname__": block.__qualname__}
    return type(block.__name__, (view, block), names)


def blank_view(view: type[V], block: type[nn.Module]) -> V:
    """An empty view of a block of this class."""
    made: type[V] = _view_class(view, block)  # type: ignore[arg-type, assignment]  # mypy takes Module for unhashable
    return made.__new__(made)


def check_features(x: object) -> None:
    """ValueError if a block is called with anything but features or tokens."""
    if isinstance(x, Tensor) or type(x) is Tokens:
        return
    if isinstance(x, tuple):
        raise ValueError("reentrant checkpointing splits tokens into tensors: set use_reentrant=False.")
    raise ValueError(
        f"a block of a reduced model takes features as a tensor, not a {type(x).__name__}. torch.fx cannot trace a "
        "reduced model, because its shapes decide what it computes. Use vitrim.features for the features of blocks, "
        "vitrim.export_model for a graph, or restore(model) first."
    )
