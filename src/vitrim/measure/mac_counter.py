"""Counting with torch's FlopCounterMode, extended to all attention kernels and int8 products.

An operation that multiplies but cannot be counted is an error: nobody would notice the missing part of the count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from threading import get_ident
from typing import Any

import torch
from torch import Size, Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..core.attention import COUNTED

# Attention kernels that FlopCounterMode ignores (the first one up to torch 2.14: DeiT-S would count 4.24 G).
UNCOUNTED_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_fused_attention_overrideable",
)
# Products whose first input is rows of features: its last dimension is the length of each product.
UNCOUNTED_PRODUCTS = {
    "aten": ("mv", "dot", "_int_mm", "mkldnn_linear", "_weight_int8pack_mm", "_weight_int4pack_mm_for_cpu"),
    "quantized": ("linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic", "linear_dynamic_fp16"),
}
UNCOUNTED_CONVOLUTIONS = ("conv1d", "conv1d_relu", "conv2d", "conv2d_relu", "conv2d_dynamic", "conv2d_add")
PRODUCT = re.compile(r"mm|mv|dot|conv|linear|gemm|matmul|attention|attn|lstm|gru|rnn")
INPUTS = ("in_features", "infeatures", "in_channels")  # names of the input length in layers that multiply
MOST_NAMED = 3


@contextmanager
def counting(model: nn.Module) -> Iterator[FlopCounterMode]:
    """Count the operations inside this context. The fused kernel of nn.MultiheadAttention, which hides them, is off.

    Raises ValueError at the end if something multiplied but was not counted: an operation, by its name, or a layer with
    an attribute such as `in_features` that ran without adding to the count.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_formulas())
    operations, layers = _Unknown(counter.flop_registry), _Silent(counter)
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    counted = COUNTED.set(True)
    try:
        # Gradients are on: without them, the hooks of FlopCounterMode fail on parameters passed to a module.
        with torch.enable_grad(), layers.listening(model), operations, counter:
            yield counter
    finally:
        COUNTED.reset(counted)
        torch.backends.mha.set_fastpath_enabled(before)
    missed = [*operations.names, *layers.names]
    if missed:
        more = f" and {len(missed) - MOST_NAMED} more" if len(missed) > MOST_NAMED else ""
        raise ValueError(
            f"multiply-adds of {', '.join(missed[:MOST_NAMED])}{more} cannot be counted, so the count would be too "
            "small: count the same model in floating point, with layers of torch."
        )


class _Unknown(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collect operations without a formula whose names suggest that they multiply.

    Enter it before the counter, which decomposes operations first.
    """

    supports_higher_order_operators = True

    def __init__(self, formulas: Any):
        super().__init__()  # type: ignore[no-untyped-call]
        self.formulas, self.names = formulas, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = getattr(func, "_overloadpacket", func)
        name = str(packet)
        if packet not in self.formulas and PRODUCT.search(name.lower()) and name not in self.names:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


class _Silent:
    """Collect layers that take features and ran, but added nothing to the count."""

    def __init__(self, counter: FlopCounterMode):
        self.counter, self.names, self.thread = counter, list[str](), get_ident()

    @contextmanager
    def listening(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as cleanup:
            for name, module in model.named_modules():
                takes_features = any(hasattr(module, attribute) for attribute in INPUTS)
                if takes_features and not isinstance(module, torch.jit.ScriptModule):  # takes no hooks
                    self._listen(name or type(module).__name__, module, cleanup)
            yield

    def _listen(self, name: str, module: nn.Module, cleanup: ExitStack) -> None:
        counted: list[int] = []

        def enter(*_: object) -> None:
            if get_ident() == self.thread:  # other threads may use the model meanwhile
                counted.append(self.counter.get_total_flops())

        def leave(_: nn.Module, __: object, out: object) -> None:
            if get_ident() != self.thread:
                return
            empty = isinstance(out, Tensor) and out.numel() == 0
            if self.counter.get_total_flops() == counted.pop() and not empty and name not in self.names:
                self.names.append(name)

        cleanup.callback(module.register_forward_pre_hook(enter).remove)
        cleanup.callback(module.register_forward_hook(leave).remove)


def _formulas() -> dict[Any, Any]:
    def attention(q: Size, k: Size, v: Size, *_: object, **__: object) -> int:
        B, H, queries, D = q
        return 2 * B * H * queries * k[2] * (D + v[3])

    def product(x: Size, *_: object, out_shape: Size, **__: object) -> int:
        return 2 * prod(out_shape) * x[-1]

    def convolution(_: Size, packed: Any, *__: object, out_shape: Size, **___: object) -> int:
        return 2 * prod(out_shape) * prod(packed.unpack()[0].shape[1:])

    wanted: list[tuple[str, str, Callable[..., int]]] = [("aten", name, attention) for name in UNCOUNTED_ATTENTION]
    wanted += [(space, name, product) for space, names in UNCOUNTED_PRODUCTS.items() for name in names]
    wanted += [("quantized", name, convolution) for name in UNCOUNTED_CONVOLUTIONS]
    found = ((getattr(getattr(torch.ops, space), name, None), formula) for space, name, formula in wanted)
    return {op: formula for op, formula in found if op is not None}
