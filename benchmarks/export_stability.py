"""Whether exported models return the same bits in every run, and agree with eager."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import vitrim
from vitrim.export.route import ROUTES, Runner, find_route
from vitrim.measure.folder import prepared_folder
from vitrim.models.embedded import MODEL_NAME, demo_images

from .experiment import Cell, Experiment
from .export import every_method, place, reduced
from .rows import Row, last_of, newest

ABOUT = """Whether exported models return the same bits in every run, and agree with eager.

Each exported model is loaded with 1, 2 and 4 threads, and run --runs times at batch 1, 7 and 32 on the same images. All
runs must return the same bits, within the tolerance of eager. The model is the packaged one, on its own test images, or
a timm model with random weights (--model). Exits with 1 if a row fails, or if an export is refused that
`python -m benchmarks export` could do.
"""
TOLERANCE = 1e-4
REFUSED = "refused"
VARYING = [name for name in vitrim.list_methods() if vitrim.create_method(name).varies]  # refused by every route
NUMBERS = ("threads", "batch", "runs", "other_runs", "worst_difference")


def measure(cell: Cell) -> Iterator[dict[str, object]]:
    """Yield a row for each number of threads and batch size, or one row for a refusal."""
    route = find_route(cell.route)
    model, images = model_with(cell.model, cell.method), some_images(cell.model, max(2, *cell.batch))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{route.suffix}"
        try:
            vitrim.export_model(model, path, to=cell.route, images=images, batch_sizes=(1, min(7, len(images))))
        except ValueError as error:
            yield {**dict.fromkeys(NUMBERS, ""), "holds": REFUSED, "refused": str(error)}
            return
        before = torch.get_num_threads()
        for threads in cell.threads:
            torch.set_num_threads(threads)
            runner = route.load(path)
            for batch in cell.batch:
                others, worst = repeated(model, runner, images[:batch], cell.runs)
                numbers = (threads, batch, cell.runs, others, f"{worst:.1e}")
                holds = "yes" if others == 0 and worst <= TOLERANCE else "no"
                yield {**dict(zip(NUMBERS, numbers, strict=True)), "holds": holds, "refused": ""}
        torch.set_num_threads(before)


def repeated(model: nn.Module, runner: Runner, x_BCHW: Tensor, runs: int) -> tuple[int, float]:
    """Count the runs with other bits than the first, and find the largest difference from eager."""
    with torch.inference_mode():
        expected = model(x_BCHW)
        outputs = [runner(x_BCHW.contiguous()).clone() for _ in range(runs)]
    worst = max((output - expected).abs().max().item() for output in outputs)
    return sum(not torch.equal(output, outputs[0]) for output in outputs), worst


def model_with(name: str, method: str) -> nn.Module:
    """Make a model reduced by a method or variant."""
    torch.manual_seed(0)
    return reduced(vitrim.load_model(name) if name == MODEL_NAME else timm.create_model(name).eval(), method)


@cache
def some_images(name: str, count: int) -> Tensor:
    """Return `count` images: those of the packaged model, or random ones."""
    if name != MODEL_NAME:
        return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        return prepared_folder(vitrim.load_model(name), demo_images(Path(folder) / "images"), count)


def holds(row: Row) -> bool:
    """Whether a row passes. A refusal passes if `export` was refused too."""
    if row["holds"] != REFUSED:
        return row["holds"] == "yes"
    tried = last_of(newest("export_torch*.csv")[1], "method", "route")
    return any((each["method"], each["route"]) == (row["method"], row["route"]) and each["refused"] for each in tried)


EXPERIMENT = Experiment(
    about=ABOUT,
    file="export_stability",
    axes={
        "model": (MODEL_NAME,),
        "route": tuple(ROUTES),
        "method": [name for name in every_method() if name not in VARYING],
    },
    together={"threads": (1, 2, 4), "batch": (1, 7, 32)},
    options={"runs": 100},
    choices={"route": ROUTES, "method": every_method()},
    place=place,
    settles=lambda row, cell: not row["runs"] or int(row["runs"]) >= cell.runs,
    holds=holds,
    measure=measure,
)
