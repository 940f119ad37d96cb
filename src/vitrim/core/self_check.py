"""Check a reader against its block on random input.

The check runs in fp32 on the block's own device, whatever autocast, default device or inference mode is set. It calls
no hooks and leaves the global generator alone.
"""

from __future__ import annotations

from collections import OrderedDict
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .block_reader import BlockReader
from .hooks import HOOKS

NUM_PATCHES = 17


def check_reader(block: nn.Module, reader: BlockReader, channels: int, num_prefix: int = 0) -> float:
    """Relative difference between the residual updates of a block and of its reader, on random input.

    Updates are compared and not outputs, because a small LayerScale hides a wrong reader in the output. The check uses
    a copy in at least fp32, since small updates vanish in half precision. It returns 0 for weights on the meta device
    and for blocks that cannot be read.
    """
    weight = next(block.parameters())
    if weight.is_meta or reader.unreadable:
        return 0.0
    kind = weight.device.type
    with torch.inference_mode(False), torch.no_grad(), torch.autocast(kind, enabled=False), torch.device(weight.device):
        copied = bare_copy(block, torch.promote_types(weight.dtype, torch.float32))
        return _difference(copied, reader, channels, num_prefix)


def _difference(block: nn.Module, reader: BlockReader, channels: int, num_prefix: int) -> float:
    weight = next(block.parameters())
    place: Any = {"device": weight.device, "dtype": weight.dtype}
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.device("cpu"):
        x = torch.randn(2, num_prefix + NUM_PATCHES, channels, generator=generator)
        beside = reader.example(block, NUM_PATCHES, generator)
    x, beside = x.to(**place), tree_map(lambda table: table.to(**place), beside)
    rotation = reader.rotation(**beside)
    wanted = reader.own_output(block, x, rotation) - x
    attention = reader.attention(block, reader.enter(block, x))
    if rotation is not None:
        attention = reader.apply_rope(block, attention, rotation.rows(None))
    read = reader.add_attention(block, x, reader.leave(block, attention.output()))
    got = reader.add_mlp(block, read) - x
    return float((got - wanted).norm() / wanted.norm().clamp(min=1e-30))


def bare_copy(module: nn.Module, dtype: torch.dtype, known: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """A copy in eval mode, with tensors of its own in that dtype and no hooks. Other attributes are shared.

    deepcopy fails on some attributes, such as a lock or a tensor with its graph (torch's pruning leaves those).
    """
    known = {} if known is None else known
    if module not in known:
        copied = known[module] = module.__new__(type(module))
        copied.__dict__.update({name: _own(value, dtype) for name, value in module.__dict__.items()})
        bound = {name: v for name, v in module.__dict__.items() if isinstance(v, MethodType) and v.__self__ is module}
        copied.__dict__.update({name: MethodType(method.__func__, copied) for name, method in bound.items()})
        copied.__dict__.update({name: OrderedDict() for name in HOOKS}, training=False)
        weights = ((name, _own(weight, dtype)) for name, weight in module._parameters.items())
        copied._parameters = {name: w if w is None else nn.Parameter(w, requires_grad=False) for name, w in weights}
        copied._buffers = {name: _own(buffer, dtype) for name, buffer in module._buffers.items()}
        copied._modules = {
            name: None if child is None else bare_copy(child, dtype, known) for name, child in module._modules.items()
        }
    return known[module]


def _own(value: Any, dtype: torch.dtype) -> Any:
    """Copy a tensor without its graph, and cast floats. Return anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().to(dtype if value.is_floating_point() else value.dtype)
