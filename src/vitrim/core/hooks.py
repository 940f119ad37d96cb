"""Hooks of modules whose parts run without a call of the module."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
FLAGS = (
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_is_full_backward_hook",
)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks. A compiled model asks once, as torch does, to avoid a guard in every run."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_watched(module: nn.Module) -> bool:
    """Whether a call runs more than the class's forward: a hook, a global hook, or another forward."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
        or _has_any_global_hook()  # type: ignore[no-untyped-call]
    )


DISPATCH = ("forward", "_old_forward", "_hf_hook")


def is_dispatched(module: nn.Module) -> bool:
    """Whether accelerate replaced the module's forward, to bring weights and inputs to one device."""
    return "_hf_hook" in module.__dict__ and isinstance(module.__dict__.get("forward"), partial)


def dispatch_like(module: nn.Module, other: nn.Module) -> None:
    """Give the module the same accelerate forward as the other."""
    for name in DISPATCH:
        module.__dict__.pop(name, None)
    if is_dispatched(other):
        around, own = other.__dict__["forward"].func, module.forward
        module.__dict__.update(_hf_hook=other.__dict__["_hf_hook"], _old_forward=own, forward=partial(around, module))


class StandIn(nn.Module):
    """Called in place of a module. Runs `compute` with the module's hooks, which get the module itself."""

    compute: Callable[..., Any]

    def __init__(self, module: nn.Module, compute: Callable[..., Any]):
        super().__init__()
        self.__dict__["compute"] = compute
        for name in HOOKS:
            hooks = getattr(module, name).items()
            self.__dict__[name] = OrderedDict((key, partial(_call_hook, hook, module)) for key, hook in hooks)
        self.__dict__.update({name: getattr(module, name) for name in FLAGS})

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.compute(*args, **kwargs)


def _call_hook(hook: Callable[..., Any], module: nn.Module, _: nn.Module, *what: Any) -> Any:
    return hook(module, *what)
