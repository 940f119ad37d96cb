"""One block of a reduced model: the block's own attention and MLP, with a method between them.

The first block turns features into `Tokens`, and the last turns them back.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import ops
from .attention import max_chunked_tokens
from .block_view import BlockView, Mixed, check_features, hooked_attention
from .hooks import has_hooks
from .listening import listeners_of
from .method import Method
from .rotary import Rotation
from .run import Run
from .spec import ViTSpec
from .tokens import Tokens


class TokenBlock(BlockView):
    """A block that passes tokens on."""

    def _run(self, x: Tensor | Tokens, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | Tokens:
        """Compute one block, without its hooks. args, kwargs: what the library passes beside the features."""
        check_features(x)
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
        return self._end(tokens) if self.layer == self.spec.depth - 1 else tokens

    def _start(self, x_BNC: Tensor, uses_rope: bool) -> Tokens:
        """Settle once what holds for a whole forward."""
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
        # At batch 1 a small model waits for Python, so whatever can be known before is not asked here.
        reader, run = self.reader, tokens.run
        if reader.unreadable:
            return tokens.with_features(self.own_forward(tokens.x_BNC))
        known, bound = self.acting
        method: Method = bound if known is run.method and bound is not None else run.method.with_weights(self.weights)
        tokens = method.before_block(self.layer, tokens)
        if run.keeps_all and not reader.is_exact(self):
            # No block reduces, and only the block's own kernels give bit-identical outputs.
            return method.after_block(self.layer, tokens.with_features(reader.own_output(self, tokens.x_BNC, rotation)))
        out_BNC, (tokens, seen) = self._attend(tokens, rotation, method)
        tokens = tokens.with_features(self.residuals(tokens).add_attention(self, tokens.x_BNC, out_BNC))
        del out_BNC
        if seen is not None and not method.after_mlp:  # free the attention before the MLP, where memory peaks
            tokens, seen = method.after_attention(self.layer, tokens, seen), None
        mlp_input_BNC = tokens.x_BNC
        tokens = tokens.with_features(self.residuals(tokens).add_mlp(self, mlp_input_BNC))
        if seen is not None:
            tokens = method.after_attention(self.layer, tokens, seen._replace(mlp_input_BNC=mlp_input_BNC))
        return method.after_block(self.layer, tokens)

    def _attend(self, tokens: Tokens, rotation: Rotation | None, method: Method) -> Mixed:
        """The output of the block's attention, and what it came from if the method is active here."""
        module, x_BNC = self._modules[self.reader.attention_name], self.reader.enter(self, tokens.x_BNC)
        if module is None or not has_hooks(module):
            return self._mix(x_BNC, tokens, rotation, method)
        return hooked_attention(module, self.reader, x_BNC, lambda x_BNC: self._mix(x_BNC, tokens, rotation, method))

    def _mix(self, x_BNC: Tensor, tokens: Tokens, rotation: Rotation | None, method: Method) -> Mixed:
        is_active = method.is_active(self.layer, tokens.num_patches)  # else the memory of attention is free early
        project = partial(self.project_tokens, method, rotation)
        tokens, attention = method.within_attention(self.layer, tokens, project(tokens, x_BNC), project)
        mixed_BHND = attention.output(max_chunked_tokens=tokens.run.max_chunked_tokens)
        return self.reader.leave(self, mixed_BHND), (tokens, attention if is_active else None)

    def _end(self, tokens: Tokens) -> Tensor:
        run: Run = tokens.run
        tokens = run.method.finish(tokens)
        for follower in run.followers:
            follower.finish(tokens)
        return (ops.unmerge(tokens) if _unmerges(run.method, self.spec) else tokens).padded_BNC


def _unmerges(method: Method, spec: ViTSpec) -> bool:
    """Whether the head gets every patch back. A head that pools them would count merged ones, or padding, wrongly."""
    return spec.pools_patches and (method.merges or method.varies)
