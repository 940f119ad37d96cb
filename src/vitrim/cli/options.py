"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.schedule import SEEDS
from .values import SHARES, Numbers, Several, numbers, whole, wholes

if TYPE_CHECKING:
    from torch import nn

    from ..compare.configuration import Configuration
    from ..compare.fitting import Fit
    from ..measure.batches import ImageBatches

DEFAULT_MODEL = "vitrim_fashion_tiny"
DEFAULT_METHODS = "evit,token_mergence,beyond_attentive,tome"

LIST = "NUMBERS"

WHAT, HOW_MUCH, MEASURING = "Model and images", "Methods", "Measuring"

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

Methods = Annotated[
    str,
    typer.Option(
        help='Names, see `vitrim methods`, with settings if any: "evit,tome", or "evit fuse=false; tome r=8,13".',
        rich_help_panel=HOW_MUCH,
    ),
]


def amounts(parser: Numbers, text: str, *names: str) -> Any:
    """An option for a list of numbers that say how much is reduced, or where."""
    return typer.Option(*names, parser=parser, metavar=LIST, help=text, rich_help_panel=HOW_MUCH)


KeepRates = Annotated[Several | None, amounts(SHARES, "Shares of patches to keep: 0.9,0.7")]
KeepRate = Annotated[
    Several | None, amounts(SHARES, "Share of patches to keep, 0.7 if not given.", "--keep-rate", "--keep-rates")
]
Gmacs = Annotated[Several | None, amounts(numbers(0, above=True), "Targets in 1e9 multiply-adds: 3.0,2.5")]
Rs = Annotated[Several | None, amounts(wholes(), "Patches to merge per block, for tome: 8,13", "--r")]
Clamp = Annotated[
    bool,
    typer.Option("--clamp", help="Where --r is more than half of the patches, merge half.", rich_help_panel=HOW_MUCH),
]
Masses = Annotated[
    Several | None, amounts(SHARES, "Shares of the attention to keep, for attention_mass: 0.9,0.8", "--mass")
]
Layers = Annotated[Several | None, amounts(wholes(), "Reducing blocks, from 0; otherwise 3,6,9 of 12.")]
Scorer = Annotated[
    str | None,
    typer.Option(help="What ranks patches: cls, received or norm (no class token needed).", rich_help_panel=HOW_MUCH),
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


def chosen(
    methods: str,
    keep_rates: Several | None,
    gmacs: Several | None = None,
    r: Several | None = None,
    layers: Several | None = None,
    scorer: str | None = None,
    *,
    mass: Several | None = None,
    clamp: bool = False,
    default: Sequence[float] = (0.7,),
) -> tuple[Configuration, ...]:
    """The configurations that the options ask for; with no amount given, the default keep rates or masses."""
    from ..compare.configuration import configurations, needs_amount, suits, takes
    from ..compare.method_text import read_methods

    choices = read_methods(methods)
    wanted = list(dict.fromkeys(choice.method for choice in choices))
    own = {name: values for name, values in {"r": r, "mass": mass}.items() if values}
    free = [choice.method for choice in choices if needs_amount(choice)]
    if not keep_rates and not gmacs and not r and any(suits(method, "keep_rate") for method in free):
        keep_rates = Several(default)
    settings: dict[str, Any] = {} if scorer is None else {"scorer": scorer}
    if layers is not None:
        settings["layers"] = tuple(layers)
    if clamp:
        settings["clamp"] = True
    found = configurations(choices, keep_rates or (), gmacs or (), settings, **own)
    for name in settings:
        without = [method for method in wanted if not takes(method, name)]
        if without:
            typer.echo(f"note: --{name} does not apply to {', '.join(without)}.", err=True)
    return found


def configuration(
    method: str | None,
    keep_rate: Several | None,
    gmacs: Several | None,
    r: Several | None,
    layers: Several | None,
    scorer: str | None,
    *,
    mass: Several | None = None,
    clamp: bool = False,
) -> Configuration | None:
    """The only configuration that the options ask for, none without a method; ValueError for more than one."""
    if method is None:
        given: dict[str, object] = {
            "--keep-rate": keep_rate,
            "--gmacs": gmacs,
            "--r": r,
            "--mass": mass,
            "--layers": layers,
        }
        given |= {"--scorer": scorer, "--clamp": clamp or None}
        without = [name for name, value in given.items() if value is not None]
        if without:
            raise ValueError(f"without a --method there is no use for {' and '.join(without)}.")
        return None
    found = chosen(method, keep_rate, gmacs, r, layers, scorer, mass=mass, clamp=clamp)
    if len(found) > 1:
        raise ValueError("give one method and one of --keep-rate, --gmacs, --r and --mass.")
    return found[0]


@contextmanager
def image_folder(model: str, data: Path | None) -> Iterator[Path]:
    """The data folder; for the model in the package, if none is given, its own images, unpacked for the while."""
    if data is not None:
        yield data
        return
    if model != DEFAULT_MODEL:
        raise ValueError("pass --data FOLDER: images with a labels.csv, or one sub-folder of images per class.")
    from ..models.embedded import demo_images
    from ..whole import temporary_folder

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
