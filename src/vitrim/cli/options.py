"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.schedule import SEEDS
from .values import LIST, Several, whole

if TYPE_CHECKING:
    from torch import nn

    from ..compare.fitting import Fit
    from ..measure.batches import ImageBatches

DEFAULT_MODEL = "vitrim_fashion_tiny"
WHAT, MEASURING = "Model and images", "Measuring"

LABELLED = "Folder with labels.csv, or with one sub-folder of images per class."


def what(*names: str, **settings: Any) -> Any:
    """An option on the model and its images."""
    return typer.Option(*names, rich_help_panel=WHAT, **settings)


def measuring(*names: str, **settings: Any) -> Any:
    """An option on how to measure."""
    return typer.Option(*names, rich_help_panel=MEASURING, **settings)


NAME = (
    "Name of a timm model, torchvision:NAME, transformers:NAME, open_clip:NAME, or a folder written by "
    "save_pretrained. The default is the small model in the package."
)
Model = Annotated[str, what(help=NAME)]
ModelArgument = Annotated[
    str, typer.Argument(help="Name of a timm model, or a folder written by save_pretrained.", show_default=True)
]
Checkpoint = Annotated[Path | None, what(help="Weights, .safetensors or .pth. Default: the pretrained ones.")]
Data = Annotated[Path | None, what(help=LABELLED)]
Images = Annotated[Path | None, what("--images", "--data", help=LABELLED)]
ImgSize = Annotated[int | None, what(parser=whole(1), help="Image size in pixels, if not the model's own.")]
Limit = Annotated[int | None, what(parser=whole(1), help="Number of images, evenly spread over the classes.")]
SkipBad = Annotated[bool, what("--skip-bad", help="Skip and count files that are not images.")]

BatchSize = Annotated[int, measuring(parser=whole(1), help="Images per batch.")]
BatchSizes = Annotated[Several, measuring(parser=whole(1, several=True), metavar=LIST, help="Images per batch: 1,32")]
Rounds = Annotated[int, measuring(parser=whole(1), help="Rounds of timing. Use more on a noisy machine.")]
Device = Annotated[str, measuring(help="cpu, cuda or cuda:1.")]
Dtype = Annotated[str, measuring(help="fp32, bf16 or fp16.")]
Amp = Annotated[bool, measuring("--amp", help="Measure accuracy under autocast. Timing uses --dtype.")]
Compile = Annotated[bool, measuring("--compile", help="Time models under torch.compile.")]
Int8 = Annotated[bool, measuring("--int8", help="Quantize linear layers to int8 by torchao. compare measures both.")]
Rivals = Annotated[
    str | None,
    measuring(
        help="What one would do instead, as rows of the table: a smaller input, only the first blocks, another model, "
        'int8, or no work that nobody reads: "resolution=208,176; depth=10; model=NAME; int8; unread".',
    ),
]
Seed = Annotated[int, measuring(parser=whole(0, SEEDS[-1]), help="Seed of random methods.")]


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
