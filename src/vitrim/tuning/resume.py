"""Forwards that begin at a block. Candidates that agree on the first blocks share what these compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..backbones.reader import find_stack
from ..core.method import Method
from ..core.run import Run
from ..core.stack import TokenBlock, TokenStack
from ..core.tokens import Tokens
from ..measure.forwards import evaluating
from .answers import Answers
from .memory import Memory

MAX_BYTES = 3 * 1024**3  # of stored tokens; beyond it only every second or third block can be resumed at


class Resumable:
    """A reduced model and batches of images: its answers under any method, computed from any block on.

    memory: holds divergences that an earlier start of the search has computed.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Tensor], answers: Answers, memory: Memory | None = None):
        found = find_stack(model)
        assert found is not None, "reduce_tokens comes first"
        self.model, self.batches, self.answers = model, batches, answers
        self.memory = memory or Memory()
        self._kept: Method | None = None
        self._digests: dict[int, str] = {}
        self.stack: TokenStack = found.stack
        self.names = list(self.stack._modules)
        self._entering: list[dict[int, Tokens]] = [{} for _ in batches]  # of each batch, by block

    def divergence(self, method: Method, batch: int, wanted_BK: Tensor, start: int = 0) -> Tensor:
        """How far the answers for one batch are from the wanted ones, in fp32 on the CPU: [B]."""

        def compute() -> list[float]:
            found_BK = self.forward(method, batch, start)
            found: list[float] = self.answers.divergence(wanted_BK, found_BK.to(wanted_BK.device)).tolist()
            return found

        return torch.tensor(self.memory.value(f"divergence on {self._digest(batch)} under {method!r}", compute))

    def _digest(self, batch: int) -> str:
        """What tells the images of a batch from others."""
        if batch not in self._digests:
            bytes_of = self.batches[batch].contiguous().cpu().view(torch.uint8).numpy().data
            self._digests[batch] = sha256(bytes_of).hexdigest()[:12]
        return self._digests[batch]

    def forward(self, method: Method, batch: int, start: int = 0) -> Tensor:
        """The answers [B, K] for one batch under a built method that agrees with the kept one before block `start`."""
        if start > 0 and self._kept is not None and not self._entering[batch]:
            self._store(self._kept, batch)
        at = max((layer for layer in self._entering[batch] if layer <= start), default=0)
        skipped = {name: Passed(self.stack._modules[name]) for name in self.names[:at]}
        if at > 0:
            tokens = self._entering[batch][at]._replace(run=Run(method))
            skipped[self.names[0]] = Passed(self.stack._modules[self.names[0]], tokens)
        self._act(method)
        with swapped(self.stack, skipped), evaluating(self.model), torch.inference_mode():
            return self.answers.read(self.model(self.batches[batch]))

    def keep(self, method: Method) -> None:
        """Later forwards may begin with what enters any block under this built method. It is computed when needed."""
        self._kept = method
        for entering in self._entering:
            entering.clear()

    def _store(self, method: Method, batch: int) -> None:
        kept = {name: Kept(self.stack._modules[name], self._entering[batch], i) for i, name in self._stored(batch)}
        self._act(method)
        with swapped(self.stack, kept), evaluating(self.model), torch.inference_mode():
            self.model(self.batches[batch])

    def _act(self, method: Method) -> None:
        for block in self.stack:
            cast(TokenBlock, block).set_method(method)

    def _stored(self, batch: int) -> Iterator[tuple[int, str]]:
        """The blocks whose input is stored, by index and name: all, or as many as there is room for."""
        spec = self.stack.spec
        one = len(self.batches[batch]) * (spec.num_patches + spec.num_prefix) * spec.channels * 4
        step = -(-one * len(self.batches) * len(self.names) // MAX_BYTES) or 1
        return ((i, name) for i, name in enumerate(self.names) if i % step == 0 and i > 0)


class Passed(nn.Module):
    """Stands for a block that need not run: the first hands on what is known, the others what they are given."""

    def __init__(self, block: Any, tokens: Tokens | None = None):
        super().__init__()
        self.__dict__.update(block=block, tokens=tokens)

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        """The known tokens, or x."""
        return x if self.tokens is None else self.tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["block"], name)  # some models look at their blocks


class Kept(Passed):
    """A block whose input is stored on the way."""

    def __init__(self, block: Any, entering: dict[int, Tokens], layer: int):
        super().__init__(block)
        self.__dict__.update(entering=entering, layer=layer)

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """What the block computes."""
        self.entering[self.layer] = x._replace(run=None)
        return self.block(x, *args, **kwargs)


@contextmanager
def swapped(stack: TokenStack, modules: dict[str, Any]) -> Iterator[None]:
    """Some of the blocks replaced for as long as the with block runs."""
    own = dict(stack._modules)
    stack._modules.update(modules)
    try:
        yield
    finally:
        stack._modules.update(own)
