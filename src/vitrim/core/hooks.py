"""Hooks on the parts of a model that are taken apart."""

from __future__ import annotations

import warnings

from torch import nn

from .notice import VitrimWarning


def warn_about_hooks(blocks: list[nn.Module], name: str) -> None:
    """Of blocks, or their attention, that have hooks which do not run."""
    hooked = [i for i, block in enumerate(blocks) if any(_has_hooks(part) for part in (block, _attention_of(block)))]
    if hooked:
        warnings.warn(
            f"{name}: forward hooks on blocks {hooked}, or on their attention, do not run while tokens are reduced.",
            VitrimWarning,
            stacklevel=4,
        )


def _has_hooks(module: nn.Module | None) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def _attention_of(block: nn.Module) -> nn.Module | None:
    return next((child for name, child in block.named_children() if name.startswith(("attn", "attention"))), None)
