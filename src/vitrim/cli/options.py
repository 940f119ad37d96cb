"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.schedule import SEEDS
from .values import LIST, Several, whole, wholes

if TYPE_CHECKING:
    from torch import nn

    from ..compare.fitting import Fit
    from ..measure.batches import ImageBatches

DEFAULT_MODEL = "vitrim_fashion_tiny"
WHAT, MEASURING = "Model and images", "Measuring"

Model = Annotated[
    str,
    typer.Option(
        help="Name of a timm model, or torchvision:NAME, transformers:NAME, open_clip:NAME, or a folder of "
        "save_pretrained; the default is the small one in the package.",
        rich_help_panel=WHAT,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Weights, .safetensors or .pth; without it timm's pretrained ones.", rich_help_panel=WHAT),
]
Data = Annotated[
    Path | None,
    typer.Option(help="Folder with labels.csv, or with one sub-folder of images per class.", rich_help_panel=WHAT),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--images",
        "--data",
        help="Folder with labels.csv, or with one sub-folder of images per class.",
        rich_help_panel=WHAT,
    ),
]
ImgSize = Annotated[
    int | None, typer.Option(parser=whole(1), help="Resolution, if not the model's own.", rich_help_panel=WHAT)
]
Limit = Annotated[
    int | None,
    typer.Option(parser=whole(1), help="Use so many images, evenly spread over classes.", rich_help_panel=WHAT),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out files that are no images, and count them.", rich_help_panel=WHAT)
]

BatchSize = Annotated[int, typer.Option(parser=whole(1), help="Images at a time.", rich_help_panel=MEASURING)]
BatchSizes = Annotated[
    Several, typer.Option(parser=wholes(1), metavar=LIST, help="Images at a time: 1,32", rich_help_panel=MEASURING)
]
Rounds = Annotated[
    int,
    typer.Option(
        parser=whole(1),
        help="Rounds of timing; more make a noisy machine's numbers firm.",
        rich_help_panel=MEASURING,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.", rich_help_panel=MEASURING)]
Dtype = Annotated[str, typer.Option(help="fp32, bf16 or fp16.", rich_help_panel=MEASURING)]
Amp = Annotated[
    bool,
    typer.Option("--amp", help="Autocast while accuracy is measured; timing uses --dtype.", rich_help_panel=MEASURING),
]
Compile = Annotated[
    bool, typer.Option("--compile", help="Time models compiled by torch.compile.", rich_help_panel=MEASURING)
]
Int8 = Annotated[
    bool,
    typer.Option(
        "--int8", help="Linear layers in int8 by torchao, in compare beside floating point.", rich_help_panel=MEASURING
    ),
]
Seed = Annotated[
    int,
    typer.Option(parser=whole(0, SEEDS[-1]), help="For methods that draw numbers.", rich_help_panel=MEASURING),
]


@contextmanager
def image_folder(model: str, data: Path | None) -> Iterator[Path]:
    """The data folder; for the model in the package, if none is given, its own images, unpacked for the while."""
    if data is not None:
        yield data
        return
    if model != DEFAULT_MODEL:
        raise ValueError("pass --data FOLDER: images with a labels.csv, or one sub-folder of images per class.")
    from ..models.embedded import demo_images
    from ..temporary import temporary_folder

    with temporary_folder() as place:
        yield demo_images(place / "fashion_mnist_1000")


def batches_for(
    net: nn.Module, folder: Path, limit: int | None, batch_size: int, skip_bad: bool, **settings: Any
) -> ImageBatches:
    """The labelled images of a folder, prepared for the model; settings: of load_images. Tells an assumed order."""
    from ..measure.folder import load_images

    given = {"limit": limit, "batch_size": batch_size, "skip_bad": skip_bad, **settings}
    batches = load_images(net, folder, labels=True, **given)
    note(batches.images.assumption)
    return batches


def note(sentence: str) -> None:
    """Say what a user should know of the numbers; nothing if there is nothing to say."""
    if sentence:
        typer.echo(f"note: {sentence}")


def tell(fitting: Fit) -> None:
    """Say which of the methods are left out of a picture, and what was taken where nothing was asked for."""
    for refusal in fitting.refused:
        typer.echo(f"note: {' '.join(refusal.key)} is left out: {refusal.reason}", err=True)
    note(fitting.assumption)
