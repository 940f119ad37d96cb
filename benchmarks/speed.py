"""How much of each method's MAC ratio arrives on the clock: speed-up over the unreduced model, interleaved.

    python benchmarks/speed.py --models deit_tiny_patch16_224 --batch-sizes 1 32 --rounds 30

Weights are random: speed does not depend on them. Every model of a table takes its turn in every round of one process,
and a speed-up is the median over rounds of the ratio within the round, with the 10th and 90th percentile. Rows are
appended to results/speed_<device>_<dtype>_torch<version>_<date>.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch

import vitrim
from rows import RESULTS, append, cpu_name, written
from vitrim.measure.benchmark import benchmark, twin
from vitrim.measure.macs import count_macs

METHODS = {
    "nothing reduced (EViT 1.0)": vitrim.EViT(keep_rate=1.0),
    "EViT 0.7": vitrim.EViT(keep_rate=0.7),
    "EViT 0.7, no fusion": vitrim.EViT(keep_rate=0.7, fuse=False),
    "TM 0.7": vitrim.TokenMergence(keep_rate=0.7),
    "BAT 0.7": vitrim.BeyondAttentive(keep_rate=0.7),
    "ToMe r=11": vitrim.ToMe(r=11),
    "ToMe r=13": vitrim.ToMe(r=13),
    "EViT 0.5": vitrim.EViT(keep_rate=0.5),
}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.models:
        base = timm.create_model(name, img_size=options.img_size).eval()
        models = {"unreduced": base}
        for label in options.methods:
            method = METHODS[label]
            models[label] = vitrim.reduce_tokens(twin(base), method)
        size = (3, options.img_size, options.img_size)
        macs = {label: count_macs(model, size) for label, model in models.items()}
        for batch_size in options.batch_sizes:
            timings = benchmark(models, size, batch_size=batch_size, rounds=options.rounds, dtype=options.dtype)
            for label, timing in timings.items():
                ratio = macs["unreduced"] / macs[label]
                rows.append(
                    {
                        "model": name,
                        "img_size": options.img_size,
                        "method": label,
                        "batch": batch_size,
                        "dtype": options.dtype,
                        "gmacs": f"{macs[label] / 1e9:.4f}",
                        **written({"mac_ratio": ratio, "speedup": timing.speedup}),
                        "speedup_per_mac_ratio": f"{timing.speedup / ratio:.3f}",
                        "rounds": timing.rounds,
                        "peak_memory_mib": f"{timing.peak_memory_mb:.1f}",
                        "threads": options.threads,
                        "torch": torch.__version__,
                        "timm": timm.__version__,
                        "cpu": cpu_name(),
                    }
                )
                print(*list(rows[-1].values())[:12], sep="  ", flush=True)
    append(f"speed_cpu{options.threads}_{options.dtype}", rows, options.results)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["deit_tiny_patch16_224", "deit_small_patch16_224"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 1])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
