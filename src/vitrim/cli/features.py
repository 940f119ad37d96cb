"""`vitrim features`: maps of patch features, as a picture and as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from . import options, pictures
from .options import DEFAULT_MODEL
from .reduction import DRAWN, Reduction, reducing
from .values import LARGEST, whole

if TYPE_CHECKING:
    from torch import Tensor

TENSORS = ".safetensors"


@reducing
def features(
    images: pictures.Pictures,
    output: Annotated[
        Path,
        typer.Option(help="A picture, .png, .svg or .pdf, or the maps themselves, .safetensors.", show_default=False),
    ],
    model: options.Model = DEFAULT_MODEL,
    checkpoint: options.Checkpoint = None,
    reduction: Reduction = DRAWN,
    layer: Annotated[
        int, typer.Option(parser=whole(-LARGEST), help="Block whose output is taken; -1 is the last.")
    ] = -1,
    norm: Annotated[bool, typer.Option("--norm/--no-norm", help="Apply the model's final norm.")] = True,
    fill: Annotated[str, typer.Option(help="What dropped patches get: drift, last, nearest or zero.")] = "drift",
    shared: Annotated[
        str | None, typer.Option(help="What merged patches get: offset, token or fill; by the method if not given.")
    ] = None,
    limit: pictures.OfFolder = 4,
    seed: options.Seed = 0,
    img_size: options.ImgSize = None,
) -> None:
    """Features of every patch with all tokens and with fewer: their main components as colours, or a file of maps."""
    import torch

    from ..api import reduce_tokens
    from ..compare.fitting import fit
    from ..dense import features as features_of
    from ..loading.build import load_checked
    from ..measure.evaluate import eval_transform
    from ..measure.folder import prepared_files
    from ..measure.preparation import as_seen
    from ..picture_file import SUFFIXES

    wanted = (*SUFFIXES, TENSORS)
    if output.suffix.lower() not in wanted or not output.resolve().parent.is_dir():
        raise ValueError(f"--output is a {' or '.join(wanted)} file in a folder that exists, not {output}.")
    found = reduction.configurations()
    images = pictures.files(images, limit)
    net, fitting = load_checked(model, checkpoint, img_size, lambda net: fit(net, found, seed))
    options.tell(fitting)
    transform, x_BCHW = eval_transform(net), prepared_files(net, images)
    maps, rules = {}, {"fill": cast(Any, fill), "shared": cast(Any, shared)}
    with torch.inference_mode():
        for name, method in {"all tokens": None, **fitting.named}.items():
            reduced = net if method is None else reduce_tokens(net, method)
            maps[name] = features_of(reduced, x_BCHW, layer, norm=norm, **rules).maps[0]
    if output.suffix.lower() == TENSORS:
        _save(maps, images, output)
    else:
        from ..draw_features import draw_features

        seen = [as_seen(x_CHW, transform) for x_CHW in x_BCHW]
        draw_features(seen, {name: each.float().numpy() for name, each in maps.items()}, output)
    typer.echo(f"{output} is ready.")


def _save(maps: Mapping[str, Tensor], images: Sequence[Path], output: Path) -> None:
    """Maps [images, C, rows, columns] by method; the files' names, in that order, in the metadata."""
    import json

    from safetensors.torch import save

    from ..store import replace_file

    replace_file(output, save(dict(maps), {"images": json.dumps([path.name for path in images])}))
