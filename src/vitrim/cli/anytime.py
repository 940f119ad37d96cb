"""`vitrim anytime`: accuracy and measured speed of early exits."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from . import files, options, terminal
from .models import load_with_exits
from .reduction import ONE, Reduction, reducing
from .values import LIST, SHARES, Several, number, whole

if TYPE_CHECKING:
    from torch import nn

    from ..early_exit.calibration import AnytimeScore, ExitRecord
    from ..measure.batches import ImageBatches
    from ..measure.benchmark import Timing


@dataclass(frozen=True)
class Variant:
    """One way to run the model: at a threshold, or without exits."""

    setting: str
    model: nn.Module
    top1: float  # percent
    shares: tuple[float, ...] | None  # percent of images that leave at each exit, then at the end; None without exits
    gmacs: float  # mean per image


@reducing
def anytime(
    model: options.ModelArgument,
    checkpoint: options.Checkpoint = None,
    images: options.Images = None,
    reduction: Reduction = ONE,
    thresholds: Annotated[
        Several | None,
        typer.Option(
            "--thresholds",
            "--threshold",
            parser=number(0, several=True),
            metavar=LIST,
            help="Exit thresholds: 0.5,0.7,0.9",
        ),
    ] = None,
    by: Annotated[str, typer.Option(help="Exit criterion: confidence or entropy.")] = "confidence",
    target_drop: Annotated[
        float | None,
        typer.Option(
            parser=number(0, 100), help="Find the cheapest threshold that loses at most this many points of top-1."
        ),
    ] = None,
    static: Annotated[
        Several | None,
        typer.Option(parser=SHARES, metavar=LIST, help="Keep rates to run without exits: 0.7,0.5,0.3"),
    ] = None,
    limit: options.Limit = None,
    batch_size: options.BatchSize = 32,
    timing_images: Annotated[
        int, typer.Option(parser=whole(1), help="Number of images for timing, evenly spread.")
    ] = 128,
    rounds: options.Rounds = 10,
    device: options.Device = "cpu",
    dtype: options.Dtype = "fp32",
    amp: options.Amp = False,
    skip_bad: options.SkipBad = False,
    img_size: options.ImgSize = None,
    output: Annotated[Path | None, typer.Option(help="Also write the rows to this .csv file.")] = None,
) -> None:
    """Measure early exits: each image leaves at the first exit whose prediction is certain enough.

    The model must be trained with METR. The table compares thresholds with the model without exits, and with static
    keep rates of the same weights: accuracy, where images leave, mean multiply-adds, and speed on real images.
    """
    from ..early_exit.calibration import record_exits
    from ..measure.benchmark import benchmark

    wanted = thresholds or (() if target_drop is not None else (0.5, 0.7, 0.9))
    files.check_output(output, ".csv")
    if images is None:
        raise ValueError("pass --images FOLDER: images with a labels.csv, or one sub-folder of images per class.")
    net = load_with_exits(model, checkpoint, reduction, img_size)
    batches = options.batches_for(net, images, limit, batch_size, skip_bad)
    with terminal.progress_bar("images, all exits") as progress:
        record = record_exits(net, batches, by=cast(Any, by), device=device, amp=amp, progress=progress)
    scores = [record.at(value) for value in wanted]
    if target_drop is not None:
        scores.append(record.cheapest(max_drop=target_drop))
    rows = _without_exits(net, static or (), batches, device, amp, record)
    rows += [_with_exits(net, score) for score in scores]
    rows = list({row.setting: row for row in rows}.values())  # drop repeated settings
    sample_ICHW = batches.sample(timing_images)
    with terminal.progress_bar("rounds of timing") as progress:
        timings = benchmark(
            {row.setting: row.model for row in rows},
            images_ICHW=sample_ICHW,
            batch_size=batch_size,
            rounds=rounds,
            warmup=1,
            device=device,
            dtype=cast(Any, dtype),
            progress=progress,
        )
    _show(rows, timings, record)
    typer.echo(f"{len(record.right_IF)} images; speed on {len(sample_ICHW)} of them, against the model without exits.")
    if target_drop is not None:
        _show_cheapest(scores[-1], target_drop)
    files.write_csv(output, [_record(row, timings[row.setting], record) for row in rows])


def _without_exits(
    net: nn.Module, rates: Sequence[float], batches: ImageBatches, device: str, amp: bool, record: ExitRecord
) -> list[Variant]:
    """Measure the model without exits: as it is, and at other keep rates."""
    from ..backbones.reader import find_stack
    from ..measure.budget.adaptive import images_to_count_on
    from ..measure.evaluate import evaluate
    from ..measure.macs import count_macs

    macs = count_macs(net, images_ICHW=images_to_count_on(net, batches))
    rows = [Variant("no exits", net, record.at(math.inf).full_top1, None, macs / 1e9)]
    for rate in rates:
        other = copy.deepcopy(net)
        found = find_stack(other)
        assert found is not None
        found.stack.set_method(found.stack.method.at_keep_rate(rate))
        with terminal.progress_bar(f"images, keep {rate:g}") as progress:
            top1 = evaluate(other, batches, device=device, amp=amp, progress=progress).top1
        rows.append(Variant(f"no exits, keep {rate:g}", other, top1, None, count_macs(other) / 1e9))
    return rows


def _with_exits(net: nn.Module, score: AnytimeScore) -> Variant:
    from ..early_exit.model import anytime

    name = f"{score.by} {score.thresholds[0]:.4g}" if math.isfinite(score.thresholds[0]) else f"{score.by} never"
    return Variant(name, anytime(net, score.thresholds, score.by), score.top1, score.shares, score.macs / 1e9)


def _show(rows: Sequence[Variant], timings: dict[str, Timing], record: ExitRecord) -> None:
    left = [f"after {layer}" for layer in record.exits]
    numbers = ("top-1 %", *left, "at the end", "GMACs", "images/s", "speed-up", "10th to 90th percentile")
    table = terminal.table("setting", numbers=numbers)
    for row in rows:
        time = timings[row.setting]
        shares = [""] * (len(record.exits) + 1) if row.shares is None else [f"{share:.1f} %" for share in row.shares]
        speed = (f"{time.images_per_s:.4g}", f"{time.speedup:.2f}x", time.speedup.range)
        table.add_row(row.setting, f"{row.top1:.2f}", *shares, f"{row.gmacs:.3f}", *speed)
    terminal.show(table)


def _show_cheapest(chosen: AnytimeScore, target: float) -> None:
    typer.echo(
        f"{chosen.by} {chosen.thresholds[0]:.6g} is the cheapest threshold that loses at most {target:g} points of "
        "top-1. It was chosen and measured on the same images: expect slightly lower accuracy on new ones."
    )


def _record(row: Variant, time: Timing, record: ExitRecord) -> dict[str, object]:
    from ..measure.turns import columns

    names = [*(f"share_after_{layer}" for layer in record.exits), "share_at_the_end"]
    shares = [""] * len(names) if row.shares is None else list(row.shares)
    return {
        "setting": row.setting,
        "top1": row.top1,
        **dict(zip(names, shares, strict=True)),
        "gmacs": row.gmacs,
        "images_per_s": time.images_per_s,
        **columns({"speedup": time.speedup}),
        "rounds": time.rounds,
        "images": len(record.right_IF),
    }
