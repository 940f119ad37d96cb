"""One block, with a method acting inside it."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from . import ops
from .attention import Attention, max_chunked_tokens
from .block_reader import BlockReader, PaddingReader
from .exits import TRAINING_ONLY
from .hooks import DISPATCH, StandIn, dispatch_like, has_hooks, is_watched
from .listening import OutputCollector, listeners_of
from .method import Method
from .rotary import Rotation
from .run import Run
from .spec import ViTSpec
from .tokens import Tokens

WEIGHTS = "method"  # name under which a block holds what the method learns
OWN = ("block", "reader", "spec", "layer", "kept", "acting", "collector", "_compiled_call_impl", *DISPATCH)


class Acting(NamedTuple):
    """A method, and the same with the weights of one block at hand."""

    method: Method
    bound: Method | None  # None where the weights are other ones each time: in a replica for nn.DataParallel


class Passing:
    """What goes through a block beside its features, so that hooks see features alone."""

    def __init__(self, entering: Tensor | Tokens):
        self.entering = entering
        self.leaving: Tensor | Tokens = entering


class TokenBlock(nn.Module):
    """A second view of one block: same children, parameters and hooks under the same names, but Tokens in and out.

    It is of the block's class as well (`blank_view`), so that code which looks blocks up by their class finds it.
    """

    block: nn.Module
    reader: BlockReader
    spec: ViTSpec
    layer: int
    kept: nn.Module | None  # what the method learns, also while it is not registered
    acting: Acting
    collector: OutputCollector | None  # who hears compiled forwards, which know no threads

    @property
    def weights(self) -> nn.Module | None:
        """What the method learns here."""
        return self._modules.get(WEIGHTS, self.kept)

    def set_method(self, method: Method) -> None:
        """From the next forward on this built method acts here, with the weights of this block."""
        self.__dict__["acting"] = Acting(method, method.with_weights(self.weights))

    def attach(self) -> None:
        """Register what the method learns as a child of the block."""
        if self.kept is not None:
            self._modules[WEIGHTS] = self.kept

    def release(self) -> None:
        """Leave the block to itself, in this view's mode and without what the method learns."""
        self.__dict__["kept"] = self._modules.pop(WEIGHTS, self.kept)
        self.block.__dict__.update({name: value for name, value in self.__dict__.items() if name not in OWN})
        dispatch_like(self.block, self)

    def __call__(self, x: Tensor | Tokens, *args: Any, **kwargs: Any) -> Tensor | Tokens:
        """One block. The first accepts features [B, N, C], the last returns them. Hooks see features of all."""
        if not is_watched(self):
            return self._run(x, args, kwargs)
        passing = Passing(x)
        features = x.x_BNC if isinstance(x, Tokens) else x
        out: Tensor = nn.Module.__call__(self, features, *args, passing=passing, **kwargs)
        return passing.leaving.with_features(out) if isinstance(passing.leaving, Tokens) else out

    def forward(self, x: Tensor | Tokens, *args: Any, passing: Passing | None = None, **kwargs: Any) -> Any:
        """One block, its hooks left out."""
        if passing is None:
            return self._run(x, args, kwargs)
        if isinstance(passing.entering, Tokens) and isinstance(x, Tensor):
            x = passing.entering.to(x.device).with_features(x)  # as the hooks have left and placed them
        passing.leaving = self._run(x, args, kwargs)
        return passing.leaving.x_BNC if isinstance(passing.leaving, Tokens) else passing.leaving

    def own_forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block itself computes, features in and out."""
        return super().forward(*args, **kwargs)

    def _run(self, x: Tensor | Tokens, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | Tokens:
        _check_features(x)
        if args or kwargs:
            self.reader.check_call(*args, **kwargs)
        rotation = self.reader.rotation(*args, **kwargs)
        tokens = x if isinstance(x, Tokens) else self._start(x, uses_rope=rotation is not None)
        source_before = tokens.source_BP
        tokens = self.reader.run(self, self._step, tokens, rotation)
        assert tokens.run is not None
        if tokens.aux is not None and tokens.run.method.exits is not None:
            tokens = tokens.run.method.exits.collect(self.layer, tokens, self.weights)
        for follower in tokens.run.followers:
            tokens = follower.after_block(self, tokens, tokens.source_BP is not source_before)
        return self._leave(tokens) if self.layer == self.spec.depth - 1 else tokens

    def _start(self, x_BNC: Tensor, uses_rope: bool) -> Tokens:
        """What is settled once for a whole forward."""
        method, spec, compiling = self.acting.method, self.spec, torch.compiler.is_compiling()
        listeners = listeners_of(spec) if not compiling else () if self.collector is None else (self.collector,)
        num_patches = x_BNC.shape[1] - spec.num_prefix
        keeps_all = not compiling and not any(method.is_active(layer, num_patches) for layer in range(spec.depth))
        return Tokens(
            x_BNC,
            spec.num_prefix,
            traced=_unmerges(method, spec) or any(listener.traced for listener in listeners),
            aux=() if any(listener.collects for listener in listeners) else None,
            uses_rope=uses_rope,
            run=Run(
                method,
                keeps_all,
                max_chunked_tokens=0 if keeps_all else max_chunked_tokens(x_BNC),
                followers=tuple([listener.begin(x_BNC) for listener in listeners]),
            ),
        )

    def _step(self, tokens: Tokens, rotation: Rotation | None = None) -> Tokens:
        # At batch 1 a small model waits for Python: nothing is asked here that can be known before.
        reader, run = self.reader, cast(Run, tokens.run)
        if reader.unreadable:
            return tokens.with_features(self.own_forward(tokens.x_BNC))
        known, bound = self.acting
        method: Method = bound if known is run.method and bound is not None else run.method.with_weights(self.weights)
        tokens = method.before_block(self.layer, tokens)
        if run.keeps_all and not reader.is_exact(self):
            # Nothing is reduced anywhere, and only the block's own kernels give its own numbers to the last bit.
            return method.after_block(self.layer, tokens.with_features(reader.own_output(self, tokens.x_BNC, rotation)))
        out_BNC, attention = self._attend(tokens, rotation, method)
        if not method.is_active(self.layer, tokens.num_patches):
            del attention  # early: what is freed now may be the memory of what comes
            tokens = tokens.with_features(self._residuals(tokens).add_attention(self, tokens.x_BNC, out_BNC))
        else:
            x = self._residuals(tokens).add_attention(self, tokens.x_BNC, out_BNC)
            tokens = method.after_attention(self.layer, tokens.with_features(x), attention)
            del attention, x  # queries, keys, values and the longer sequence need not outlive the MLP's peak
        del out_BNC
        tokens = tokens.with_features(self._residuals(tokens).add_mlp(self, tokens.x_BNC))
        return method.after_block(self.layer, tokens)

    def _attend(self, tokens: Tokens, rotation: Rotation | None, method: Method) -> tuple[Tensor, Attention]:
        """What the block's attention returns, and what it was made of."""
        reader = self.reader
        module, x_BNC = self._modules[reader.attention_name], reader.enter(self, tokens.x_BNC)
        if module is None or not has_hooks(module):
            return self._mix(x_BNC, tokens, rotation, method)
        seen: list[Attention] = []

        def compute(x_BNC: Tensor, *_: Tensor, **__: Any) -> Any:
            out_BNC, attention = self._mix(x_BNC, tokens, rotation, method)
            seen.append(attention)
            return (out_BNC, None) if reader.pairs else out_BNC

        out = StandIn(module, compute)(*[x_BNC] * reader.inputs)
        return out[0] if reader.pairs else out, seen[-1]

    def _mix(self, x_BNC: Tensor, tokens: Tokens, rotation: Rotation | None, method: Method) -> Any:
        attention = self.reader.attention(self, x_BNC)
        if rotation is not None or tokens.size_BN is not None or tokens.lengths is not None:
            attention = self._fit(attention, tokens, rotation, method)
        return self.reader.leave(
            self, attention.output(max_chunked_tokens=cast(Run, tokens.run).max_chunked_tokens)
        ), attention

    def _fit(self, attention: Attention, tokens: Tokens, rotation: Rotation | None, method: Method) -> Attention:
        """The attention of tokens that are packed, that have positions, or that stand for several patches."""
        attention = attention._replace(lengths=tokens.lengths)
        if rotation is not None:
            attention = self.reader.apply_rope(self, attention, rotation.rows(tokens.rope_position_BK))
        if method.size_in_attention and tokens.size_BN is not None:
            attention = attention._replace(bias=tokens.size_BN.log()[:, None, None].to(attention.q_BHND.dtype))
        return attention

    def _residuals(self, tokens: Tokens) -> BlockReader:
        """What adds the residuals. Drop-path would take packed images for a single one, so they are padded for it."""
        if tokens.lengths is None or not self.training:
            return self.reader
        drops = any(getattr(module, "drop_prob", None) for module in self.modules())
        return PaddingReader(self.reader, tokens.lengths) if drops else self.reader

    def _leave(self, tokens: Tokens) -> Tensor:
        run = cast(Run, tokens.run)
        tokens = run.method.finish(tokens)
        for follower in run.followers:
            follower.finish(tokens)
        return (ops.unmerge(tokens) if _unmerges(run.method, self.spec) else tokens).padded_BNC

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if not hasattr(self.weights, TRAINING_ONLY):
            unneeded = f"{prefix}{WEIGHTS}.{TRAINING_ONLY}."
            for key in [key for key in state_dict if key.startswith(unneeded)]:
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _replicate_for_data_parallel(self) -> TokenBlock:
        replica: TokenBlock = super()._replicate_for_data_parallel()  # type: ignore[no-untyped-call]
        replica.__dict__["acting"] = self.acting._replace(bound=None)  # its weights come later
        return replica

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A copy is of a class that is made, not found; nobody hears it."""
        return blank_view, (type(self.block),), self.__dict__ | {"collector": None}


@cache
def _view_of(cls: type[nn.Module]) -> type[TokenBlock]:
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (TokenBlock, cls), names)


def blank_view(cls: type[nn.Module]) -> TokenBlock:
    """A view of a block of that class, with nothing in it."""
    made: type[TokenBlock] = _view_of(cls)  # type: ignore[arg-type]  # mypy takes Module for unhashable
    return made.__new__(made)


def _unmerges(method: Method, spec: ViTSpec) -> bool:
    """Whether the head gets all patches back: one that pools them would count merged ones, or padding, wrongly."""
    return spec.pools_patches and (method.merges or method.varies)


def _check_features(x: object) -> None:
    if isinstance(x, Tensor) or type(x) is Tokens:
        return
    if isinstance(x, tuple):
        raise ValueError("reentrant checkpointing takes tokens apart: checkpoint with use_reentrant=False.")
    raise ValueError(
        f"while tokens are reduced, blocks take features as a tensor, and a {type(x).__name__} came. torch.fx cannot "
        "trace a reduced model, for what it computes depends on sizes: vitrim.features gives the features of blocks, "
        "and vitrim.export_model writes graphs; or restore(model) first."
    )
