"""What a packed batch costs: images that keep different numbers of tokens, against the time that their MACs imply.

    python benchmarks/packed.py --models deit_tiny_patch16_224 deit_small_patch16_224 --rounds 30

The images of a batch keep --fewest to --most patches, evenly spread and in shuffled order, from the first block on,
through the engine. The time implied is that of the unreduced batch times MACs(packed) / MACs(unreduced), both counted
image by image on a forward. All models take turns in one process; `over_implied` is the median over rounds of the ratio
within the round. `over_unreduced` is the packed time over the unreduced one: where the longest image keeps all its
patches, padding to it costs at least the unreduced time. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import timm
import torch

import vitrim
from rows import RESULTS, append, cpu_name, written
from vitrim.core.method import Method
from vitrim.core.selection import keep_where
from vitrim.core.tokens import Tokens
from vitrim.measure.benchmark import benchmark, twin
from vitrim.measure.macs import count_macs


@dataclass(frozen=True, kw_only=True)
class Given(Method):
    """Image i of a batch keeps its first num_patches[i] patches, from before the first block on."""

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


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.models:
        base = timm.create_model(name).eval()
        for batch_size in options.batch_sizes:
            rows.append(measure(name, base, batch_size, options))
            print(*rows[-1].values(), sep="  ", flush=True)
    append(f"packed_cpu{options.threads}_{options.dtype}", rows, options.results)


def measure(name: str, base: torch.nn.Module, batch_size: int, options: argparse.Namespace) -> dict[str, object]:
    """One row: a model at a batch size."""
    spread = torch.linspace(options.fewest, options.most, batch_size).round().long()
    counts = tuple(spread[torch.randperm(batch_size, generator=torch.Generator().manual_seed(0))].tolist())
    packed = vitrim.reduce_tokens(twin(base), Given(num_patches=counts))
    full = count_macs(base)
    macs_of = {n: count_macs(vitrim.reduce_tokens(twin(base), Given(num_patches=(n,)))) for n in set(counts)}
    share = sum(macs_of[n] for n in counts) / (full * batch_size)
    models = {"unreduced": base, "packed": packed}
    timings = benchmark(models, batch_size=batch_size, rounds=options.rounds, dtype=options.dtype)
    timing = timings["packed"]
    time = timings["unreduced"].speed_over(timing)  # of the packed model, in the unreduced one's
    return {
        "model": name,
        "batch": batch_size,
        "patches": f"{min(counts)} to {max(counts)}",
        "dtype": options.dtype,
        "macs_share": f"{share:.3f}",
        "ms": f"{timing.latency_ms:.1f}",
        **written({"over_unreduced": time.median, "over_implied": time.times(1 / share)}),
        "rounds": timing.rounds,
        "threads": options.threads,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "cpu": cpu_name(),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["deit_tiny_patch16_224", "deit_small_patch16_224"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32])
    parser.add_argument("--fewest", type=int, default=20)
    parser.add_argument("--most", type=int, default=196)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
