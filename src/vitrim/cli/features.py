"""`vitrim features`: maps of patch features, as a picture or a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from . import files, options
from .models import load_and_fit
from .options import DEFAULT_MODEL
from .reduction import DRAWN, Reduction, reducing
from .values import LARGEST, whole

if TYPE_CHECKING:
    from torch import Tensor

TENSORS = ".safetensors"


@reducing
def features(
    images: files.Pictures,
    output: Annotated[
        Path,
        typer.Option(help="Picture (.png, .svg or .pdf) or feature maps (.safetensors).", show_default=False),
    ],
    model: options.Model = DEFAULT_MODEL,
    checkpoint: options.Checkpoint = None,
    reduction: Reduction = DRAWN,
    layer: Annotated[int, typer.Option(parser=whole(-LARGEST), help="Block whose output to show. -1: the last.")] = -1,
    norm: Annotated[bool, typer.Option("--norm/--no-norm", help="Apply the model's final norm.")] = True,
    fill: Annotated[str, typer.Option(help="Fill dropped patches by drift, last, nearest or zero.")] = "drift",
    shared: Annotated[
        str | None, typer.Option(help="Fill merged patches by offset, token or fill. Default: by method")
    ] = None,
    limit: files.OfFolder = 4,
    seed: options.Seed = 0,
    img_size: options.ImgSize = None,
) -> None:
    """Compare the features of every patch with all tokens and with fewer.

    Writes a picture of their main components as colours, or the feature maps themselves.
    """
    import torch

    from .. import dense
    from ..api import reduce_tokens
    from ..measure.folder import prepared_files
    from ..measure.model_input import eval_transform
    from ..measure.preparation import as_seen
    from ..panels import SUFFIXES

    files.check_output(output, *SUFFIXES, TENSORS)
    wanted = reduction.configurations()
    images = files.chosen(images, limit)
    net, fitting = load_and_fit(model, checkpoint, img_size, wanted, seed)
    options.show_notes(fitting)
    transform, x_BCHW = eval_transform(net), prepared_files(net, images)
    maps, rules = {}, {"fill": cast(Any, fill), "shared": cast(Any, shared)}
    with torch.inference_mode():
        for name, method in {"all tokens": None, **fitting.named}.items():
            reduced = net if method is None else reduce_tokens(net, method)
            maps[name] = dense.features(reduced, x_BCHW, layer, norm=norm, **rules).maps[0]
    if output.suffix.lower() == TENSORS:
        _save(maps, images, output)
    else:
        from ..draw_features import draw_features

        seen = [as_seen(x_CHW, transform) for x_CHW in x_BCHW]
        draw_features(seen, {name: each.float().numpy() for name, each in maps.items()}, output)
    typer.echo(f"wrote {output}.")


def _save(maps: Mapping[str, Tensor], images: Sequence[Path], output: Path) -> None:
    """Save maps [images, C, rows, columns] by method, with the file names in the metadata."""
    import json

    from safetensors.torch import save

    from ..store import replace_file

    replace_file(output, save(dict(maps), {"images": json.dumps([path.name for path in images])}))
