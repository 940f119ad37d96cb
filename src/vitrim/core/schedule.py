"""How many tokens each block keeps, in plain integers, and checks of such settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeGuard

RATE_STEPS = 100_000  # keep rates are exact to five decimals, see `ceil_share`
PARTS = 10**12  # rates are counted in parts of 1; a millionth of a part is rounding
SEEDS = range(2**32)  # seeds that torch, NumPy and `pseudo_random` all accept


def default_layers(depth: int) -> tuple[int, ...]:
    """The papers' reducing blocks, 0-based: 3, 6, 9 of 12; 4, 8, 12 of 16; a quarter of the depth apart."""
    if depth < 4:
        raise ValueError(f"the default layers need at least 4 blocks, and this model has {depth}: give the layers.")
    return tuple(depth // 4 * i for i in (1, 2, 3))


def check_order(layers: Sequence[int], who: str) -> tuple[int, ...]:
    """The layers as a tuple. ValueError unless they are one or more whole numbers in increasing order."""
    given, layers = layers, tuple(layers) if isinstance(layers, Sequence) else ()
    if not layers or not all(is_whole(i) for i in layers):
        raise ValueError(f"{who}: layers must be one or more block indices such as (3, 6, 9), not {given!r}.")
    if list(layers) != sorted(set(layers)):
        raise ValueError(f"{who}: layers must be in increasing order without repeats, not {layers}.")
    return layers


def check_reducing(layers: Sequence[int] | None, who: str) -> None:
    """ValueError for layers that fit no model. None means the default, and a built method may have none at all."""
    if layers is not None and not (isinstance(layers, Sequence) and len(layers) == 0):
        check_order(layers, who)


def check_layers(layers: Sequence[int], depth: int, who: str) -> tuple[int, ...]:
    """The layers as a tuple. ValueError unless they are increasing block indices below depth."""
    layers = check_order(layers, who)
    if layers[0] < 0 or layers[-1] >= depth:
        raise ValueError(f"{who}: layers {layers} do not fit a model with blocks 0 to {depth - 1}.")
    return layers


def check_shares(share: float | Sequence[float], who: str, what: str = "keep rate") -> tuple[float, ...]:
    """One share or several, as a tuple. ValueError unless all are above 0 and at most 1."""
    shares = tuple(share) if isinstance(share, Sequence) and not isinstance(share, str) else (share,)
    for value in shares:
        if not is_number(value) or not 0 < value <= 1:
            raise ValueError(f"{who}: a {what} must be above 0 and at most 1, not {value!r}.")
    return shares


def check_rates(rate: float | Sequence[float], num_layers: int, who: str, what: str = "keep rate") -> tuple[float, ...]:
    """One share in (0, 1] for each reducing layer. ValueError if there are too few or too many."""
    shares = check_shares(rate, who, what)
    rates = shares if isinstance(rate, Sequence) else shares * num_layers
    many = f"{what}es" if what.endswith("s") else f"{what}s"
    if len(rates) != num_layers:
        raise ValueError(f"{who}: {num_layers} reducing layers need {num_layers} {many}, not {len(rates)} of them.")
    return rates


def check_counts(counts: object, who: str, what: str) -> None:
    """ValueError unless the counts are None, or a sequence with a whole number of at least 1, or None, per block."""
    if counts is None:
        return
    if not isinstance(counts, Sequence):
        raise ValueError(f"{who}: {what} needs one entry for each block, not {counts!r}.")
    if not all(count is None or (is_whole(count) and count >= 1) for count in counts):
        raise ValueError(f"{who}: {what} must be whole numbers of at least 1, or None, not {tuple(counts)}.")


def check_removed(r: object, who: str) -> None:
    """ValueError unless r is None, or a whole number of at least 0, or a sequence of them."""
    several = tuple(r) if isinstance(r, Sequence) and not isinstance(r, str) else (r,)
    if r is not None and not all(is_whole(each) and each >= 0 for each in several):
        raise ValueError(f"{who}: r is a number of patches, at least 0, or one for each layer, not {r!r}.")


def check_each(count: int | Sequence[int], num_layers: int, who: str) -> tuple[int, ...]:
    """One r for each reducing layer. ValueError if there are too few or too many."""
    each = tuple(count) if isinstance(count, Sequence) else (count,) * num_layers
    if len(each) != num_layers:
        raise ValueError(
            f"{who}: {num_layers} reducing layers need {num_layers} numbers in r, not {len(each)} of them."
        )
    return each


def ceil_share(rate: float, count: int) -> int:
    """ceil(rate * count), at least 1. Exact for rates with up to five decimals, while 0.55 * 100 is above 55 in floats.

    It uses whole numbers, because torch.compile(dynamic=True) is slow to simplify formulas with floats.
    """
    return (round(rate * PARTS) * count + PARTS - PARTS // 10**6 - 1) // PARTS or 1


def round_share(rate: float, count: int) -> int:
    """rate * count to the nearest whole number, at least 1; in whole numbers, as `ceil_share` is."""
    return (round(rate * PARTS) * count + PARTS // 2) // PARTS or 1


def falling(num_patches: int, gone: Iterable[float], *, halves: bool = True, least: int = 1) -> tuple[int, ...]:
    """Patches that enter the first block, then patches that leave each, if these shares of them are gone by then.

    halves: whether a block removes at most half of what enters it. least: patches that have to stay.
    """
    counts = [num_patches]
    for share in gone:
        half = counts[-1] - counts[-1] // 2 if halves else 1
        counts.append(min(counts[-1], max(ceil_share(1 - share, num_patches), half, least)))
    return tuple(counts)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a setting is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a setting is a number; True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def linear_r(r: int, inflect: float, depth: int) -> tuple[int, ...]:
    """Tokens to remove per block, from r (1 - inflect) to r (1 + inflect) in equal steps, truncated (ToMe)."""
    low = int(r * (1 - inflect))
    step = (2 * r - 2 * low) / (depth - 1) if depth > 1 else 0.0
    return tuple(int(low + step * i) for i in range(depth))


def check_seed(seed: object, what: str) -> None:
    """ValueError unless the seed is a whole number in SEEDS. what: begins the error."""
    if not is_whole(seed) or seed not in SEEDS:
        given = f"one of {seed.bit_length()} bits" if is_whole(seed) and abs(seed) > 2**64 else repr(seed)
        raise ValueError(f"{what}: seed must be a whole number from 0 to {SEEDS[-1]}, not {given}.")
