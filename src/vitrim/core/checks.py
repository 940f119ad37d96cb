"""Whether a method can act in the blocks of a model, and learn there."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .exits import Exits
from .method import Method
from .spec import ViTSpec


def check_reducible(method: Method, spec: ViTSpec) -> None:
    """ValueError where a built method would act in one of the blocks that only run as a whole.

    What acts shows in the count that it keeps, in what it costs, or in what it learns.
    """
    first = spec.first_reducible_layer
    for layer in range(first):
        patches = spec.num_patches
        reduces = method.num_kept(layer, patches) != patches or method.extra_macs(layer, patches, spec) > 0
        is_active = reduces or method.make_weights(layer, spec) is not None
        name = method.name if is_active else Exits.name
        if is_active or method.learned_in(layer, spec) is not None:
            raise ValueError(
                f"{name} would act in block {layer}, and blocks 0 to {first - 1} of {spec.name} only run as a "
                f"whole: let it act from block {first} on, by its layers, or by a list that starts with {first} zeros "
                f"where it takes one number per block, as in r={[0] * first + [4] * (spec.depth - first)}."
            )


def check_shared(method: Method, learning: Sequence[nn.Module]) -> None:
    """ValueError where a method would learn two things under one name: in a block that stands in two places."""
    if len({id(block) for block in learning}) < len(learning):
        raise ValueError(
            f"{method.name} learns something of its own in each block, and one block stands in several places: give "
            "each place a copy (copy.deepcopy), or take a method that learns nothing."
        )
