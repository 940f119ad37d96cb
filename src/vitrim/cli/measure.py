"""`vitrim evaluate`, `vitrim benchmark` and `vitrim macs`: measure one thing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..text import grouped
from . import options, terminal
from .models import load_reduced
from .options import DEFAULT_MODEL
from .reduction import COMPARED, ONE, Reduction, reducing
from .values import Several

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn

    from ..compare.configuration import Configuration
    from ..compare.fitting import Fit
    from ..measure.benchmark import Timing

BATCH_SIZES = Several((1, 32))


@reducing
def evaluate(
    model: options.Model = DEFAULT_MODEL,
    checkpoint: options.Checkpoint = None,
    data: options.Data = None,
    reduction: Reduction = ONE,
    limit: options.Limit = None,
    batch_size: options.BatchSize = 32,
    device: options.Device = "cpu",
    amp: options.Amp = False,
    int8: options.Int8 = False,
    skip_bad: options.SkipBad = False,
    seed: options.Seed = 0,
    img_size: options.ImgSize = None,
) -> None:
    """Measure top-1 and top-5 of a model on a folder of images, with or without token reduction.

    A folder written by save_pretrained keeps its saved reduction, unless --method is given.
    """
    from ..measure.folder import evaluate_folder
    from ..quantize import check_torchao, quantize_int8

    if int8:
        check_torchao()
    wanted = reduction.configuration()
    with options.image_folder(model, data) as folder:
        net, name = load_reduced(model, checkpoint, img_size, wanted, seed)
        if int8:
            net, name = quantize_int8(net), f"{name}, int8"
        with terminal.progress_bar("images") as progress:
            score = evaluate_folder(
                net,
                folder,
                limit=limit,
                batch_size=batch_size,
                device=device,
                amp=amp,
                skip_bad=skip_bad,
                progress=progress,
            )
    skipped = f", {len(score.skipped)} skipped: {', '.join(score.skipped)}" if score.skipped else ""
    typer.echo(
        f"{name}: top-1 {score.top1:.2f} %, top-5 {score.top5:.2f} % of {score.num_images} images "
        f"({score.num_images / score.seconds:.3g} images/s, decoding included){skipped}"
    )
    options.note(score.assumption)


@reducing
def benchmark(
    model: options.Model = DEFAULT_MODEL,
    reduction: Reduction = COMPARED,
    batch_sizes: options.BatchSizes = BATCH_SIZES,
    rounds: options.Rounds = 30,
    device: options.Device = "cpu",
    dtype: options.Dtype = "fp32",
    compile_: options.Compile = False,
    int8: options.Int8 = False,
    img_size: options.ImgSize = None,
    floor: Annotated[
        bool,
        typer.Option(help="Also time each method's floor: the same number of tokens in every block, taken by a slice."),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the numbers to this .json file.")] = None,
) -> None:
    """Measure the speed of methods, in turns with the unreduced model.

    Weights and images are random. With --floor, the column "of floor" says how long a method takes relative to a
    slice that leaves as many tokens. What lies above 1 is the cost of scoring, matching and merging.
    """
    import copy

    from ..api import reduce_tokens
    from ..compare.environment import environment
    from ..compare.fitting import fit
    from ..loading.build import build_model
    from ..measure.benchmark import clone_sharing_weights
    from ..measure.budget.floor import Floor
    from ..measure.forwards import check_device
    from ..measure.macs import count_macs
    from ..quantize import quantize_int8

    found = reduction.configurations()
    if json_file is not None and not json_file.resolve().parent.is_dir():
        raise ValueError(f"--json: there is no folder {json_file.parent} for {json_file.name}.")
    used, net = check_device(device), build_model(model, img_size=img_size)
    fitting = fit(net, found, check=_fixed)
    models = {"unreduced": net}
    methods = dict(fitting.named)
    if floor:
        methods |= {_floor(name): Floor(method=method) for name, method in fitting.named.items()}
    models |= {name: reduce_tokens(clone_sharing_weights(net), method) for name, method in methods.items()}
    if int8:
        models |= {f"{name}, int8": quantize_int8(copy.deepcopy(each)) for name, each in models.items()}
    gmacs_of = {name: count_macs(each) / 1e9 for name, each in models.items()}
    rows: list[dict[str, Any]] = []
    for size in batch_sizes:
        with terminal.progress_bar(f"rounds at batch {size}") as progress:
            timings = _timings(models, size, rounds, used, dtype, compile_, progress)
        rows += [_speed(name, size, gmacs_of, timings) for name in timings]
    about = {"model": model, "dtype": dtype, "compiled": compile_, "environment": environment(used)}
    _show_speeds(rows, fitting)
    _write_json(json_file, about, rows, fitting)


def _timings(
    models: dict[str, nn.Module],
    batch_size: int,
    rounds: int,
    device: torch.device,
    dtype: str,
    compile_: bool,
    progress: Callable[[int, int], None],
) -> dict[str, Timing]:
    from ..measure.benchmark import benchmark
    from ..measure.model_input import input_size_of

    return benchmark(
        models,
        input_size_of(models["unreduced"]),
        batch_size=batch_size,
        rounds=rounds,
        device=device,
        dtype=cast(Any, dtype),
        compile=compile_,
        progress=progress,
    )


def _fixed(configuration: Configuration, *_: object) -> None:
    """Raise ValueError for an input-adaptive method."""
    if configuration.varies:
        raise ValueError(
            f"{configuration.method} is input-adaptive: measure its cost on real images with trained weights, by "
            "`vitrim compare`."
        )


def _write_json(path: Path | None, about: dict[str, Any], rows: list[dict[str, Any]], fitting: Fit) -> None:
    import json

    from ..measure.turns import columns
    from ..store import replace_file

    if path is not None:
        record = {
            **about,
            "assumption": fitting.assumption,
            "rows": [columns(row) for row in rows],
            "refused": [vars(x) for x in fitting.refused],
        }
        replace_file(path, json.dumps(record, indent=1) + "\n")


def _floor(name: str) -> str:
    """The name of a model's floor."""
    return f"floor of {name}"


def _speed(name: str, batch: int, gmacs_of: dict[str, float], timings: dict[str, Timing]) -> dict[str, Any]:
    gmacs, timing, floor = gmacs_of[name], timings[name], timings.get(_floor(name))
    row = {"model": name, "batch": batch, "gmacs": gmacs, "mac_ratio": gmacs_of["unreduced"] / gmacs, **vars(timing)}
    return row if floor is None else row | {"time_of_floor": floor.speed_over(timing)}


def _show_speeds(rows: list[dict[str, Any]], fitting: Fit) -> None:
    numbers = ["batch", "GMACs", "ratio", "images/s", "ms", "speed-up", "10th to 90th percentile", "MiB"]
    floors = any("time_of_floor" in row for row in rows)
    numbers += ["of floor", "10th to 90th percentile"] if floors else []
    table = terminal.table("model", numbers=numbers, last="" if fitting.refused else None)
    for row in rows:
        over_floor = row.get("time_of_floor")
        table.add_row(
            row["model"],
            str(row["batch"]),
            f"{row['gmacs']:.3f}",
            f"{row['mac_ratio']:.2f}x",
            f"{row['images_per_s']:.4g}",
            f"{row['latency_ms']:.4g}",
            f"{row['speedup']:.3f}x",
            row["speedup"].range,
            f"{row['peak_memory_mb']:.0f}",
            *(("", "") if over_floor is None else (f"{over_floor:.3f}", over_floor.range))[: 2 * floors],
        )
    for refusal in fitting.refused:
        table.add_row(" ".join(refusal.key), *[""] * len(numbers), terminal.plain(refusal.not_measured))
    terminal.show(table)
    options.note(fitting.assumption)


@reducing
def macs(
    model: options.Model = DEFAULT_MODEL,
    reduction: Reduction = COMPARED,
    img_size: options.ImgSize = None,
) -> None:
    """Count multiply-adds, by formula and in a forward pass, and tokens after each block. Loads no weights."""
    from ..api import reduce_tokens
    from ..backbones.reader import read_backbone
    from ..compare.fitting import fit
    from ..loading.build import build_model
    from ..measure.budget.formula import reduced_macs, token_counts
    from ..measure.macs import count_macs

    found = reduction.configurations()
    net = build_model(model, img_size=img_size)
    fitting = fit(net, found, check=_fixed)
    spec, full = read_backbone(net).spec, count_macs(net)
    table = terminal.table(
        "method", "setting", numbers=("GMACs by formula", "counted", "ratio"), last="tokens after each block"
    )
    table.add_row("unreduced", "", *(f"{full / 1e9:.4f}",) * 2, "1.000", grouped(token_counts(spec, None)))
    for key, method in fitting.methods.items():
        counted = count_macs(reduce_tokens(net, method))
        formula = reduced_macs(full, spec, method)
        numbers = (f"{formula / 1e9:.4f}", f"{counted / 1e9:.4f}", f"{full / counted:.3f}")
        table.add_row(*key, *numbers, grouped(token_counts(spec, method)))
    for refusal in fitting.refused:
        table.add_row(*refusal.key, "", "", "", terminal.plain(refusal.not_measured))
    terminal.show(table)
    options.note(fitting.assumption)
