"""`vitrim draw`, `vitrim doctor` and `vitrim methods`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from . import files, options, terminal
from .models import load_and_fit
from .options import DEFAULT_MODEL
from .reduction import DRAWN, Reduction, reducing
from .values import whole


@reducing
def draw(
    images: files.Pictures,
    output: Annotated[Path, typer.Option(help="Picture to write: .png, .svg or .pdf")],
    model: options.Model = DEFAULT_MODEL,
    checkpoint: options.Checkpoint = None,
    reduction: Reduction = DRAWN,
    columns: Annotated[
        int | None,
        typer.Option(parser=whole(1), help="Pictures per method, spread over its reducing blocks."),
    ] = None,
    limit: files.OfFolder = 4,
    seed: options.Seed = 0,
    img_size: options.ImgSize = None,
) -> None:
    """Draw which patches the methods keep, fuse and merge in your images, side by side."""
    from ..api import reduce_tokens
    from ..compare.pictures import Sample, trace_samples
    from ..draw import draw_tokens
    from ..measure.folder import prepared_files
    from ..measure.model_input import eval_transform
    from ..measure.preparation import as_seen
    from ..panels import SUFFIXES

    files.check_output(output, *SUFFIXES)
    wanted = reduction.configurations()
    images = files.chosen(images, limit)
    net, fitting = load_and_fit(model, checkpoint, img_size, wanted, seed)
    options.show_notes(fitting)
    transform, inputs = eval_transform(net), prepared_files(net, images)
    samples = [
        Sample(path.name, "", x_CHW, as_seen(x_CHW, transform)) for path, x_CHW in zip(images, inputs, strict=True)
    ]
    traces = {name: trace_samples(reduce_tokens(net, method), samples)[0] for name, method in fitting.named.items()}
    draw_tokens([sample.image for sample in samples], traces, output, max_layers=columns)
    typer.echo(f"wrote {output}.")


def doctor(
    model: Annotated[str, typer.Argument(help="Name of a timm model.")],
    img_size: options.ImgSize = None,
) -> None:
    """Show how vitrim reads a model, or why it cannot. Downloads nothing."""
    from ..backbones.reader import read_backbone, version
    from ..loading.build import build_model
    from ..measure.macs import count_macs
    from ..measure.model_input import input_size_of

    net = build_model(model, img_size=img_size)
    backbone = read_backbone(net)
    spec, blocks = backbone.spec, list(backbone.blocks.children())
    readers = dict.fromkeys(
        f"{type(block).__name__}, by {type(reader).__name__}"
        for block, reader in zip(blocks, backbone.readers, strict=True)
    )
    scoring = "class attention" if spec.has_cls else "no class token: use --scorer received, norm or shift"
    facts = {
        "model": f"{model}, a {type(net).__name__} of {version(backbone.library)}",
        "blocks": f"{spec.depth} x {'; '.join(readers)}",
        "self-check": f"residual updates agree to {max(backbone.errors()):.1e}",
        "input": "x".join(map(str, input_size_of(net))),
        "tokens": f"{spec.num_patches} patches, {spec.num_prefix} prefix",
        "scores": scoring,
        "head": _head(spec),
        "GMACs": f"{count_macs(net) / 1e9:.3f}",
    }
    table = terminal.table("", last="")
    for name, fact in facts.items():
        table.add_row(f"[bold]{name}", fact)
    table.show_header = False
    terminal.show(table)


def _head(spec: Any) -> str:
    if spec.pools_patches and spec.num_classes == 0:
        return "none: the output has all patches"
    return "pools the patches, merged ones weighted by size" if spec.pools_patches else "reads prefix tokens only"


def methods() -> None:
    """List the methods and their settings."""
    import inspect
    from functools import partial

    from ..methods import makers, settings_of

    table = terminal.table("name", last="description and settings")
    made: Any
    for name, made in sorted(makers().items()):
        if isinstance(made, partial):
            what = f"{made.func.__name__} with " + ", ".join(f"{key}={value!r}" for key, value in made.keywords.items())
        else:
            what = (inspect.getdoc(made) or "").partition("\n")[0]
        settings = ", ".join(f"{key}={default!r}" for key, default in settings_of(name).items())
        table.add_row(name, f"{what}\n[dim]{settings}[/dim]")
    terminal.show(table)
