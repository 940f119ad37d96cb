"""Speed of exported models: reduced against unreduced by the same route, and against eager.

    python benchmarks/export_speed.py --routes onnx openvino --methods "EViT 0.7" "ToMe r=13" --batch-sizes 1 32

Each artefact is first compared with eager at the same batch sizes. Weights and images are random: speed does not depend
on them. Two ways take turns in one process; ratios are medians over rounds. Rows are appended to
results/export_speed_cpu<threads>_torch<version>_<date>.csv.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path

import timm
import torch
from speed import METHODS

import vitrim
from rows import RESULTS, append, cpu_name, written
from vitrim.export.card import versions
from vitrim.export.route import ROUTES, find_route


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    for route in options.routes:
        for method in options.methods:
            rows = measure(route, method, options)
            for row in rows:
                print(*row.values(), sep="  ", flush=True)
            append(f"export_speed_cpu{options.threads}", rows, options.results)


def measure(route: str, method: str, options: argparse.Namespace) -> list[dict[str, object]]:
    """Rows of one model by one route, one a batch size."""
    torch.manual_seed(0)
    base = timm.create_model(options.model).eval()
    model = vitrim.reduce_tokens(copy.deepcopy(base), METHODS[method])
    mac_ratio = vitrim.count_macs(base) / vitrim.count_macs(model)
    found = find_route(route)
    images = torch.randn(max(2, *options.batch_sizes), 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        report = vitrim.export_model(
            model,
            Path(folder) / f"model{found.suffix}",
            to=route,
            images=images,
            batch_sizes=options.batch_sizes,
            rounds=options.rounds,
        )
    speeds = {(speed.batch_size, speed.over): speed for speed in report.speeds}
    worst = max(each.largest for each in report.differences)
    software = " ".join(f"{name} {version}" for name, version in versions(found).items())
    rows: list[dict[str, object]] = []
    for batch_size in options.batch_sizes:
        over, eager = speeds[batch_size, "unreduced"], speeds[batch_size, "eager"]
        rows.append(
            {
                "route": route,
                "model": options.model,
                "method": method,
                "batch": batch_size,
                **written({"mac_ratio": mac_ratio, "speedup": over.speedup}),
                "speedup_per_mac_ratio": f"{over.speedup / mac_ratio:.3f}",
                "ms": f"{over.latency_ms:.2f}",
                **written({"over_eager": eager.speedup}),
                "worst_difference": f"{worst:.1e}",
                "rounds": over.rounds,
                "threads": options.threads,
                "versions": software,
                "cpu": cpu_name(),
            }
        )
    return rows


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=["onnx", "openvino"])
    parser.add_argument("--model", default="deit_tiny_patch16_224")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["EViT 0.7"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
