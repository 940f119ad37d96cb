"""Whether every exported artefact gives the same bits in every run, and eager's numbers: all routes, all fixed methods.

    python benchmarks/export_stability.py --routes onnx openvino --runs 100

Each artefact is loaded for 1, 2 and 4 threads and run that often at batch 1, 7 and 32 on the same images: all runs must
give the very same bits, and be within the tolerance of eager. The model is the one that comes with vitrim, on its own
test images, or a timm model with random weights (--model). Rows are appended to
results/export_stability_torch<version>_<date>.csv. What stands in the newest such file by the same versions is left
out; --again measures it anew, and the last row counts. Exits with 1 if a row does not hold, or if an artefact is
refused that export_table.py could write.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from export_table import AMOUNTS, KEEP, VARIANTS
from torch import Tensor, nn

import vitrim
from rows import RESULTS, append, last_of, newest, read
from vitrim.export.card import versions
from vitrim.export.route import ROUTES, Route, Runner, find_route

DEFAULT = "vitrim_fashion_tiny"
THREADS, BATCH_SIZES = (1, 2, 4), (1, 7, 32)
REFUSED = "refused"
TOLERANCE = 1e-4


def main() -> None:
    options = parse()
    everything = [name for name in (*vitrim.list_methods(), *VARIANTS) if name != "attention_mass"]
    there = set() if options.again else measured(options.results)
    held = True
    for route in options.routes:
        for method in options.methods or ["unreduced", *everything]:
            if (options.model, method, route, software(find_route(route))) in there:
                print(f"{options.model}  {method}  {route}  measured before")
                continue
            rows = attempt(options.model, method, find_route(route), options.runs)
            for row in rows:
                print(*row.values(), sep="  ", flush=True)
            held = held and all(row["holds"] in ("yes", expected(method, route)) for row in rows)
            append("export_stability", rows, options.results)
    sys.exit(0 if held else 1)


def measured(results: Path) -> set[tuple[str, ...]]:
    """Model, method, route and versions of the rows of the newest file, of any day."""
    files = sorted(results.glob("export_stability_torch*.csv"), key=lambda path: path.stem[-10:])
    rows = read(files[-1]) if files else []
    return {tuple(row[key] for key in ("model", "method", "route", "versions")) for row in rows}


def expected(method: str, route: str) -> str:
    """What a row may say beside "yes": "refused" where export_table.py could not write that method by that route."""
    rows = last_of(newest("export_torch*.csv")[1], "method", "route")
    return next((REFUSED for row in rows if (row["method"], row["route"]) == (method, route) and row["refused"]), "yes")


def software(route: Route) -> str:
    """The libraries that a route takes, with their versions."""
    return " ".join(f"{library} {version}" for library, version in versions(route).items())


def attempt(name: str, method: str, route: Route, runs: int) -> list[dict[str, object]]:
    """Rows of one artefact, one for each number of threads and batch size; or one that says why there is none."""
    about = {"model": name, "method": method, "route": route.name}
    by = software(route)
    model, images = reduced(name, method), some_images(name, max(BATCH_SIZES))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{route.suffix}"
        try:
            vitrim.export_model(model, path, to=route.name, images=images, batch_sizes=(1, 7))
        except ValueError as error:
            return [{**about, **dict.fromkeys(NUMBERS, ""), "holds": REFUSED, "refused": str(error), "versions": by}]
        for threads in THREADS:
            torch.set_num_threads(threads)
            runner = route.load(path)
            for batch_size in BATCH_SIZES:
                found = repeated(model, runner, images[:batch_size], runs)
                numbers = dict(zip(NUMBERS, (threads, batch_size, runs, *found), strict=True))
                holds = "yes" if found[0] == 0 and float(found[1]) <= TOLERANCE else "no"
                rows.append({**about, **numbers, "holds": holds, "refused": "", "versions": by})
        torch.set_num_threads(1)
    return rows


NUMBERS = ("threads", "batch", "runs", "other_runs", "worst_difference")


def repeated(model: nn.Module, runner: Runner, x_BCHW: Tensor, runs: int) -> tuple[int, str]:
    """How many runs gave other bits than the first, and the worst difference from eager over all of them."""
    with torch.inference_mode():
        expected = model(x_BCHW)
        outputs = [runner(x_BCHW.contiguous()).clone() for _ in range(runs)]
    worst = max((output - expected).abs().max().item() for output in outputs)
    return sum(not torch.equal(output, outputs[0]) for output in outputs), f"{worst:.1e}"


def reduced(name: str, method: str) -> nn.Module:
    """The model with the method of that name or variant."""
    torch.manual_seed(0)
    if name == DEFAULT:
        model = vitrim.load_model(name)
    else:
        import timm

        model = timm.create_model(name).eval()
    if method == "unreduced":
        return model
    plain = method.partition(",")[0]
    return vitrim.reduce_tokens(model, plain, **{**AMOUNTS.get(plain, KEEP), **VARIANTS.get(method, {})}).eval()


def some_images(name: str, count: int) -> Tensor:
    """So many: the model's own, or random ones."""
    if name != DEFAULT:
        return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    from vitrim.cli.options import image_folder
    from vitrim.measure.evaluate import eval_transform
    from vitrim.measure.images import list_files, open_image

    transform = eval_transform(vitrim.load_model(name))
    with image_folder(name, None) as folder:
        return torch.stack([transform(open_image(path, 1)) for path in list_files(folder, count)])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--routes", nargs="+", choices=ROUTES, default=list(ROUTES))
    parser.add_argument("--model", default=DEFAULT)
    parser.add_argument("--methods", nargs="+", help="names and variants as in export_table.py; all by default")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--again", action="store_true", help="measure what has rows already")
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
