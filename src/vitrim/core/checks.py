"""Whether a method can be active, and learn, in the blocks of a model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from .exits import Exits
from .method import Method
from .spec import ViTSpec


def check_reducible(method: Method, spec: ViTSpec) -> None:
    """ValueError if a built method reduces, costs or learns something in a block that cannot be read."""
    first = spec.first_reducible_layer
    for layer in range(first):
        patches = spec.num_patches
        reduces = method.num_kept(layer, patches) != patches or method.extra_macs(layer, patches, spec) > 0
        is_active = reduces or method.make_weights(layer, spec) is not None
        name = method.name if is_active else Exits.name
        if is_active or method.learned_in(layer, spec) is not None:
            raise ValueError(
                f"{name} is active in block {layer}, but blocks 0 to {first - 1} of {spec.name} cannot be reduced: "
                f"start at block {first}, with `layers`, or with {first} zeros in a list of one number per block, "
                f"such as r={[0] * first + [4] * (spec.depth - first)}."
            )


def check_shared(method: Method, learning: Sequence[nn.Module]) -> None:
    """ValueError if a method learns in a block that the model uses twice."""
    if len({id(block) for block in learning}) < len(learning):
        raise ValueError(
            f"{method.name} learns weights for each block, and the model uses one block in several places: give each "
            "place a copy (copy.deepcopy), or choose a method that learns nothing."
        )
