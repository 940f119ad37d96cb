"""`vitrim export`: write a model for another runtime, and compare it with eager before it is kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from . import options, terminal
from .models import load_reduced
from .options import DEFAULT_MODEL
from .reduction import ONE, Reduction, reducing
from .values import Several, number, whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..compare.configuration import Configuration
    from ..core.method import Method
    from ..core.spec import ViTSpec
    from ..export.export_model import ExportReport

BATCH_SIZES = Several((1, 7))
NUM_IMAGES = 200  # enough to include near ties of scores


@reducing
def export(
    to: Annotated[str, typer.Option(help="Format: torch-export, onnx, openvino, aoti or executorch.")],
    model: options.Model = DEFAULT_MODEL,
    checkpoint: options.Checkpoint = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", "--data", help="Folder of images to compare on. Needs no labels."),
    ] = None,
    reduction: Reduction = ONE,
    output: Annotated[Path | None, typer.Option(help="File to write. Default: named after model and method.")] = None,
    batch_sizes: options.BatchSizes = BATCH_SIZES,
    opset: Annotated[int | None, typer.Option(parser=whole(1), help="ONNX opset, 18 to 23. Default: 18")] = None,
    tolerance: Annotated[float, typer.Option(parser=number(0), help="Largest allowed difference of a logit.")] = 1e-4,
    num_apart: Annotated[
        int,
        typer.Option(parser=whole(), help="Images that may differ by more, because of near ties of scores."),
    ] = 0,
    rounds: Annotated[
        int,
        typer.Option(
            parser=whole(), help="Rounds of timing against eager and the exported unreduced model. 0: no timing."
        ),
    ] = 10,
    limit: Annotated[
        int, typer.Option(parser=whole(1), help="Number of images for the comparison, evenly spread over the folder.")
    ] = NUM_IMAGES,
    img_size: options.ImgSize = None,
    seed: options.Seed = 0,
) -> None:
    """Write a model for another runtime, compare it with eager on images, and time it.

    The command fails, and keeps no file, if outputs differ by more than the tolerance. A folder written by
    save_pretrained keeps its saved reduction, unless --method is given.
    """
    from ..export.export_model import Settings, export_model
    from ..export.route import find_route
    from ..measure.images import list_files

    route = find_route(to) if opset is None else find_route(to).at_opset(opset)
    if (absent := route.missing()) is not None:
        raise ValueError(f"{absent}.")
    wanted = reduction.configuration()
    sizes = list(batch_sizes)
    if limit < max(2, *sizes):
        raise ValueError(f"--limit {limit} is too few images for --batch-sizes {','.join(map(str, sizes))}.")
    path = output or Path(f"{'-'.join(_plain(part) for part in (model, reduction.methods) if part)}{route.suffix}")
    asked: dict[str, Any] = {"batch_sizes": sizes, "tolerance": tolerance, "num_apart": num_apart, "rounds": rounds}
    Settings(route=route, path=path, **asked).check()
    if images is None and model != DEFAULT_MODEL:
        raise ValueError("pass --images FOLDER: images on which to compare the exported model with eager.")
    if images is not None:
        list_files(images, limit)  # fail before weights are downloaded

    def check(_: Configuration, method: Method, __: ViTSpec) -> None:
        if (refusal := route.refusal(method)) is not None:
            raise ValueError(f"{refusal}.")

    net, _ = load_reduced(model, checkpoint, img_size, wanted, seed, check)
    images_ICHW = _images(net, model, images, limit, max(sizes))
    with terminal.progress_bar("rounds") as progress:
        report = export_model(net, path, to=cast(Any, to), opset=opset, images=images_ICHW, progress=progress, **asked)
    _show(report)


def _images(net: nn.Module, model: str, folder: Path | None, limit: int, least: int) -> Tensor:
    from ..measure.folder import prepared_folder

    with options.image_folder(model, folder) as found:
        images_ICHW = prepared_folder(net, found, limit)
    if len(images_ICHW) < max(2, least):
        raise ValueError(f"{folder} holds {len(images_ICHW)} images, and --batch-sizes asks for {max(2, least)}.")
    return images_ICHW


def _plain(model: str) -> str:
    """Turn the name of a model or method into part of a file name."""
    return re.sub(r"[^\w.-]+", "_", Path(model).name)


def _show(report: ExportReport) -> None:
    for found in report.differences:
        apart = f"; {found.num_apart} differ by more than the tolerance" if found.num_apart else ""
        typer.echo(
            f"{report.path}, batch {found.batch_size}: logits within {found.largest:.2g} of eager, "
            f"the same first choice for {found.num_agreeing} of {found.num_images} images{apart}"
        )
    for speed in report.speeds:
        other = "eager" if speed.over == "eager" else "the exported unreduced model"
        typer.echo(
            f"{report.path}, batch {speed.batch_size}: {speed.latency_ms:.4g} ms, {speed.speedup:.3f}x the speed of "
            f"{other} ({speed.speedup.range}, {speed.other_latency_ms:.4g} ms)"
        )
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
