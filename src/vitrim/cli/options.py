"""Options that several commands share."""

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
        help="Name of a timm model, torchvision:NAME, transformers:NAME, open_clip:NAME, or a folder written by "
        "save_pretrained. The default is the small model in the package.",
        rich_help_panel=WHAT,
    ),
]
ModelArgument = Annotated[
    str, typer.Argument(help="Name of a timm model, or a folder written by save_pretrained.", show_default=True)
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Weights, .safetensors or .pth. Default: the pretrained ones.", rich_help_panel=WHAT),
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
    int | None,
    typer.Option(parser=whole(1), help="Image size in pixels, if not the model's own.", rich_help_panel=WHAT),
]
Limit = Annotated[
    int | None,
    typer.Option(parser=whole(1), help="Number of images, evenly spread over the classes.", rich_help_panel=WHAT),
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Skip and count files that are not images.", rich_help_panel=WHAT)
]

BatchSize = Annotated[int, typer.Option(parser=whole(1), help="Images per batch.", rich_help_panel=MEASURING)]
BatchSizes = Annotated[
    Several, typer.Option(parser=wholes(1), metavar=LIST, help="Images per batch: 1,32", rich_help_panel=MEASURING)
]
Rounds = Annotated[
    int,
    typer.Option(
        parser=whole(1),
        help="Rounds of timing. Use more on a noisy machine.",
        rich_help_panel=MEASURING,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1.", rich_help_panel=MEASURING)]
Dtype = Annotated[str, typer.Option(help="fp32, bf16 or fp16.", rich_help_panel=MEASURING)]
Amp = Annotated[
    bool,
    typer.Option("--amp", help="Measure accuracy under autocast. Timing uses --dtype.", rich_help_panel=MEASURING),
]
Compile = Annotated[bool, typer.Option("--compile", help="Time models under torch.compile.", rich_help_panel=MEASURING)]
Int8 = Annotated[
    bool,
    typer.Option(
        "--int8", help="Quantize linear layers to int8 by torchao. compare measures both.", rich_help_panel=MEASURING
    ),
]
Rivals = Annotated[
    str | None,
    typer.Option(
        help="What one would do instead, as rows of the table: a smaller input, only the first blocks, another model, "
        'int8, or no work that nobody reads: "resolution=208,176; depth=10; model=NAME; int8; unread".',
        rich_help_panel=MEASURING,
    ),
]
Seed = Annotated[
    int,
    typer.Option(parser=whole(0, SEEDS[-1]), help="Seed of random methods.", rich_help_panel=MEASURING),
]


@contextmanager
def image_folder(model: str, data: Path | None) -> Iterator[Path]:
    """Yield the data folder. The default, for the packaged model only, is a temporary copy of the packaged images."""
    if data is not None:
        yield data
        return
    if model != DEFAULT_MODEL:
        raise ValueError("pass --data FOLDER: images with a labels.csv, or one sub-folder of images per class.")
    from ..models.embedded import demo_images
    from ..temporary import temporary_folder

    with temporary_folder() as folder:
        yield demo_images(folder / "fashion_mnist_1000")


def batches_for(
    net: nn.Module, folder: Path, limit: int | None, batch_size: int, skip_bad: bool, **settings: Any
) -> ImageBatches:
    """Load labelled images, as `load_images` with these settings. Print a note if the class order is assumed."""
    from ..measure.folder import load_images

    given = {"limit": limit, "batch_size": batch_size, "skip_bad": skip_bad, **settings}
    batches = load_images(net, folder, labels=True, **given)
    note(batches.images.assumption)
    return batches


def note(sentence: str) -> None:
    """Print a note on the numbers, unless it is empty."""
    if sentence:
        typer.echo(f"note: {sentence}")


def show_notes(fitting: Fit) -> None:
    """Print notes: the methods that do not fit the model, and the defaults that depend on it."""
    for refusal in fitting.refused:
        typer.echo(f"note: {' '.join(refusal.key)} is left out: {refusal.reason}", err=True)
    note(fitting.assumption)
