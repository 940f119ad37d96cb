"""Cost of packed batches: images with different numbers of tokens, relative to the time that their MACs imply."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import timm
import torch

import vitrim
from vitrim.core.method import Method
from vitrim.core.selection import keep_where
from vitrim.core.tokens import Tokens
from vitrim.measure.benchmark import DTYPES, clone_sharing_weights
from vitrim.measure.model_input import input_size_of

from .experiment import Cell, Experiment

ABOUT = """Cost of packed batches: images with different numbers of tokens, relative to what their MACs imply.

From the first block on, the images of a batch keep --fewest to --most patches, evenly spread and shuffled. The implied
time is that of the unreduced batch times MACs(packed) / MACs(unreduced), both counted image by image. Both models take
turns in one process. `over_unreduced` is the packed time divided by the unreduced one: if the longest image keeps all
its patches, padding to it costs at least the unreduced time. Weights are random, since speed does not depend on them.
"""


@dataclass(frozen=True, kw_only=True)
class Given(Method):
    """Keep the first num_patches[i] patches of image i, before the first block."""

    name = "given"

    num_patches: tuple[int, ...]

    @property
    def varies(self) -> bool:
        return True

    def before_block(self, layer: int, tokens: Tokens) -> Tokens:
        if layer > 0:
            return tokens
        kept_B1 = torch.tensor(self.num_patches, device=tokens.x_BNC.device).unsqueeze(1)
        return keep_where(tokens, torch.arange(tokens.num_patches, device=kept_B1.device) < kept_B1)


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    base = timm.create_model(cell.model).eval()
    spread = torch.linspace(cell.fewest, cell.most, cell.batch).round().long()
    counts = tuple(spread[torch.randperm(cell.batch, generator=torch.Generator().manual_seed(0))].tolist())
    macs_of = {
        n: vitrim.count_macs(vitrim.reduce_tokens(clone_sharing_weights(base), Given(num_patches=(n,))))
        for n in set(counts)
    }
    share = sum(macs_of[n] for n in counts) / (vitrim.count_macs(base) * cell.batch)
    models = {"unreduced": base, "packed": vitrim.reduce_tokens(clone_sharing_weights(base), Given(num_patches=counts))}
    size = input_size_of(base)
    timings = vitrim.benchmark(models, size, batch_size=cell.batch, rounds=cell.rounds, dtype=cell.dtype)
    time = timings["unreduced"].speed_over(timings["packed"])  # of the packed batch, relative to the unreduced one
    yield {
        "patches": f"{min(counts)} to {max(counts)}",
        "macs_share": share,
        "ms": timings["packed"].latency_ms,
        "over_unreduced": time.median,
        "over_implied": time.times(1 / share),
        "rounds": timings["packed"].rounds,
    }


EXPERIMENT = Experiment(
    about=ABOUT,
    file="packed_{on}_{dtype}",
    axes={"model": ("deit_tiny_patch16_224", "deit_small_patch16_224"), "batch": (32,), "dtype": ("fp32",)},
    options={"fewest": 20, "most": 196, "rounds": 30},
    choices={"dtype": DTYPES},
    settles=lambda row, cell: row["patches"] == f"{cell.fewest} to {cell.most}",
    measure=measure,
)
