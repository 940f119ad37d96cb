"""`vitrim export`: a model for another runtime, compared and measured before it is kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from . import options, saved, terminal
from .options import DEFAULT_MODEL
from .reduction import ONE, Reduction, reducing
from .values import Several, number, whole

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..compare.configuration import Configuration
    from ..core.method import Method
    from ..export.route import Route
    from ..export.run import ExportReport

BATCH_SIZES = Several((1, 7))
NUM_IMAGES = 200  # enough to meet a near tie of scores, where there are any


@reducing
def export(
    to: Annotated[str, typer.Option(help="torch-export, onnx, openvino, aoti or executorch.")],
    model: options.Model = DEFAULT_MODEL,
    checkpoint: options.Checkpoint = None,
    images: Annotated[
        Path | None, typer.Option("--images", "--data", help="Folder of images to compare on; labels are not needed.")
    ] = None,
    reduction: Reduction = ONE,
    output: Annotated[Path | None, typer.Option(help="File to write; by default named after model and method.")] = None,
    batch_sizes: options.BatchSizes = BATCH_SIZES,
    opset: Annotated[
        int | None, typer.Option(parser=whole(1), help="Of an ONNX file, 18 to 23; 18 by default.")
    ] = None,
    tolerance: Annotated[float, typer.Option(parser=number(0), help="Largest difference allowed in a logit.")] = 1e-4,
    num_apart: Annotated[
        int,
        typer.Option(parser=whole(), help="Images that may differ by more: scores that all but tie fall either way."),
    ] = 0,
    rounds: Annotated[
        int,
        typer.Option(
            parser=whole(), help="Rounds of timing against eager and the exported unreduced model; 0 for none."
        ),
    ] = 10,
    limit: Annotated[
        int, typer.Option(parser=whole(1), help="Compare on so many images, evenly spread over the folder.")
    ] = NUM_IMAGES,
    img_size: options.ImgSize = None,
    seed: options.Seed = 0,
) -> None:
    """Write a model for another runtime, run it there, compare it with eager on images, and measure it.

    What differs by more than the tolerance is not kept, and the command fails. A folder of save_pretrained is
    exported as it was saved, unless --method asks for another reduction.
    """
    from ..export.route import find_route
    from ..export.run import Settings, export_model
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
        raise ValueError("pass --images FOLDER: images for the artefact to be compared on with eager.")
    if images is not None:
        list_files(images, limit)  # whether there are any shows before weights are fetched
    net = _reduced(model, checkpoint, img_size, wanted, seed, route)
    images_ICHW = _images(net, model, images, limit, max(sizes))
    with terminal.progress_bar("rounds") as progress:
        report = export_model(net, path, to=cast(Any, to), opset=opset, images=images_ICHW, progress=progress, **asked)
    _tell(report)


def _reduced(
    model: str, checkpoint: Path | None, img_size: int | None, wanted: Configuration | None, seed: int, route: Route
) -> nn.Module:
    """The model with what is asked for, or as it was saved; ValueError for a method that the route cannot write."""
    from ..api import reduce_tokens
    from ..compare.fitting import fit
    from ..loading.build import load_checked

    if wanted is None:
        return saved.load(model, checkpoint, img_size)[0]

    def check(net: nn.Module) -> tuple[Method, str]:
        fitting = fit(net, [wanted], seed)
        ((_, method),) = fitting.methods.items()
        if (refusal := route.refusal(method)) is not None:
            raise ValueError(f"{refusal}.")
        return method, fitting.assumption

    net, (method, assumption) = load_checked(model, checkpoint, img_size, check)
    options.note(assumption)
    return reduce_tokens(net, method)


def _images(net: nn.Module, model: str, folder: Path | None, limit: int, least: int) -> Tensor:
    from ..measure.folder import prepared_folder

    with options.image_folder(model, folder) as found:
        images_ICHW = prepared_folder(net, found, limit)
    if len(images_ICHW) < max(2, least):
        raise ValueError(f"{folder} holds {len(images_ICHW)} images, and --batch-sizes asks for {max(2, least)}.")
    return images_ICHW


def _plain(model: str) -> str:
    """A model's name, or a method's, as part of a file name."""
    return re.sub(r"[^\w.-]+", "_", Path(model).name)


def _apart(num_apart: int) -> str:
    return f"; {num_apart} differ by more than the tolerance" if num_apart else ""


def _tell(report: ExportReport) -> None:
    for found in report.differences:
        typer.echo(
            f"{report.path}, batch {found.batch_size}: logits within {found.largest:.2g} of eager, "
            f"the same first choice for {found.num_agreeing} of {found.num_images} images{_apart(found.num_apart)}"
        )
    for speed in report.speeds:
        what = "eager" if speed.over == "eager" else "the exported unreduced model"
        typer.echo(
            f"{report.path}, batch {speed.batch_size}: {speed.latency_ms:.4g} ms, {speed.speedup:.3f}x {what}'s speed "
            f"({speed.speedup.range}, {speed.other_latency_ms:.4g} ms)"
        )
    for note in report.notes:
        typer.echo(f"note: {note}", err=True)
