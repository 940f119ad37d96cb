"""Token counts and multiply-adds by formula, for methods that are not input-adaptive.

N is the number of tokens, prefix included.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...core.checks import check_reducible
from ...core.method import Method
from ...core.spec import ViTSpec


def token_counts(spec: ViTSpec, method: Method | None, num_patches: int | None = None) -> tuple[int, ...]:
    """Count the tokens after each block, prefix included.

    Unreadable blocks all count with the tokens after the last of them, though they may carry more.

    Args:
        num_patches: patches that enter the first block. None: those of the spec.
    """
    built = None if method is None else method.built_for(spec)
    return tuple(spec.num_prefix + patches for _, patches in _patch_counts(spec, built, num_patches))


def block_macs(spec: ViTSpec, method: Method | None, num_patches: int | None = None) -> int:
    """Compute the multiply-adds of all blocks, and of a head on every token, for one image.

    The cost of the reduction itself is included. Without a method, nothing is reduced.
    """
    method = None if method is None else method.built_for(spec)
    counts = list(_patch_counts(spec, method, num_patches))
    total = spec.unreadable_macs + counts[-1][1] * spec.head_macs
    for layer, (before, after) in enumerate(counts):
        if layer < spec.first_reducible_layer:
            continue
        num_in, num_out = spec.num_prefix + before, spec.num_prefix + after
        num_in = num_out if method is not None and method.before_attention else num_in
        num_mlp = num_in if method is not None and method.after_mlp else num_out
        total += num_in * spec.attention_macs + 2 * num_in**2 * spec.attention_channels + num_mlp * spec.mlp_macs
        total += 0 if method is None else method.extra_macs(layer, before, spec)
    return total


def reduced_macs(model_macs: int, spec: ViTSpec, method: Method, num_patches: int | None = None) -> int:
    """Compute the multiply-adds of a reduced model from those of the unreduced one. Only `block_macs` changes."""
    return model_macs - block_macs(spec, None, num_patches) + block_macs(spec, method, num_patches)


def _patch_counts(spec: ViTSpec, method: Method | None, num_patches: int | None) -> Iterator[tuple[int, int]]:
    """Yield the number of patches before and after each block. method: built for the model."""
    before = spec.num_patches if num_patches is None else num_patches
    if spec.first_reducible_layer and before != spec.num_patches:
        raise ValueError(f"{spec.name} takes exactly {spec.num_patches} patches, not {before}.")
    if method is not None:
        check_reducible(method, spec)
        if method.varies:
            raise ValueError(
                f"{method.name} is input-adaptive, so no formula gives its tokens or multiply-adds: use "
                "count_macs(model, images_ICHW=...) for the mean over images."
            )
    for layer in range(spec.depth):
        after = before if method is None else method.num_kept(layer, before)
        yield before, after
        before = after
