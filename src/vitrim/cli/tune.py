"""`vitrim tune`: the best setting for a model, images, and this machine."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, terminal
from .border import keeping
from .options import DEFAULT_MODEL, MEASURING, WHAT
from .values import number, whole

if TYPE_CHECKING:
    from ..tuning.outcome import Tuned

GOAL = "Goal (one of them)"
SILENCE_SECONDS = 5.0  # between two lines of progress

Goal = float | None


def tune(
    output: Annotated[
        Path,
        typer.Option(
            help="Folder for report.html, tuned.json and the reduced model. If the search is stopped, the same command "
            "goes on from there."
        ),
    ],
    model: options.Model = DEFAULT_MODEL,
    checkpoint: options.Checkpoint = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            "--data",
            help="Folder of images like those that the model will see. Labels are not needed.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    speedup: Annotated[
        Goal,
        typer.Option(
            parser=number(1, above=True),
            help="So many times the speed of the unreduced model, measured here: 1.5",
            rich_help_panel=GOAL,
        ),
    ] = None,
    latency_ms: Annotated[
        Goal,
        typer.Option(
            parser=number(0, above=True),
            help="At most so many milliseconds for a batch of --batch-size images: 20",
            rich_help_panel=GOAL,
        ),
    ] = None,
    gmacs: Annotated[
        Goal,
        typer.Option(
            parser=number(0, above=True),
            help="At most so many 1e9 multiply-adds for an image: 0.8. `vitrim macs` tells the model's own.",
            rich_help_panel=GOAL,
        ),
    ] = None,
    max_loss: Annotated[
        Goal,
        typer.Option(
            parser=number(0, above=True),
            help="As fast as possible while losing at most so many points of accuracy: 0.5. Without labels: while at "
            "most 0.5 % of the answers change.",
            rich_help_panel=GOAL,
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            help="What --speedup and --max-loss count as cost: time, measured here, or macs, multiply-adds.",
            rich_help_panel=MEASURING,
        ),
    ] = "time",
    limit: Annotated[
        int,
        typer.Option(
            parser=whole(1),
            help="At most so many images, evenly spread over the classes. The search sees half of them; the figures "
            "are of the other half.",
            rich_help_panel=WHAT,
        ),
    ] = 1024,
    search: Annotated[
        int | None,
        typer.Option(parser=whole(2), help="Let the search see so many images, not half.", rich_help_panel=WHAT),
    ] = None,
    skip_bad: options.SkipBad = False,
    minutes: Annotated[
        float,
        typer.Option(
            parser=number(0, above=True),
            help="Minutes after which the search ends. The final measurement takes a few more.",
            rich_help_panel=MEASURING,
        ),
    ] = 10.0,
    tries: Annotated[
        int,
        typer.Option(
            parser=whole(0),
            help="End the search earlier, after so many changes to the best schedules.",
            rich_help_panel=MEASURING,
        ),
    ] = 200,
    batch_size: options.BatchSize = 1,
    device: options.Device = "cpu",
    dtype: options.Dtype = "fp32",
    compile_: options.Compile = False,
    route: Annotated[
        str,
        typer.Option(
            help="What will run the model: eager (torch), onnx or openvino. Times are measured there.",
            rich_help_panel=MEASURING,
        ),
    ] = "eager",
    seed: options.Seed = 0,
    img_size: options.ImgSize = None,
    replace: Annotated[bool, typer.Option("--replace", help="Remove another run found in --output.")] = False,
) -> None:
    """Find the setting that meets a goal and changes the model's answers least: no training, no labels.

    It tries methods and schedules on half of the images, and holds the best against other methods, smaller images and
    fewer blocks on the other half. Give one goal. Example: `vitrim tune --model deit_tiny_patch16_224 --images photos
    --speedup 1.5 --output fast`. Then `--model fast` is the reduced model in every other command.
    """
    from ..loading.build import load_model
    from ..tuning.output import Output
    from ..tuning.run import tune as find_schedule
    from ..tuning.target import target_of

    goals = {"speedup": speedup, "latency_ms": latency_ms, "gmacs": gmacs, "max_loss": max_loss}
    target_of(**goals)
    Output(output).check()
    searching = {"limit": limit, "num_search": search, "skip_bad": skip_bad, "minutes": minutes, "tries": tries}
    running = {"batch_size": batch_size, "device": device, "dtype": dtype, "compile": compile_, "route": route}
    asked: dict[str, Any] = {**goals, **searching, **running, "by": by, "seed": seed, "name": model}
    with (
        options.image_folder(model, images) as folder,
        keeping(f"what was found so far is kept in {output}; the same command goes on from there."),
    ):
        net = load_model(model, checkpoint, img_size=img_size)
        found = find_schedule(
            net,
            folder,
            **asked,
            output=output,
            replaces=replace,
            rebuild=lambda size: load_model(model, checkpoint, img_size=size),
            progress=partial(_tell, [0.0]),
        )
    _show(found)
    typer.echo(f"The report is {output / 'report.html'}. The reduced model is {output}:")
    typer.echo(f"vitrim evaluate --model {output} --data FOLDER")
    typer.echo(f"vitrim export --model {output} --to {'onnx' if route == 'eager' else route} --images FOLDER")


def _tell(last: list[float], text: str) -> None:
    """A line of progress, at most one in five seconds, unless something new begins."""
    now = time.monotonic()
    if now - last[0] >= SILENCE_SECONDS or "tried" not in text:
        last[0] = now
        typer.echo(text, err=True)


def _show(found: Tuned) -> None:
    """The answer, and the table."""
    rows = terminal.table("what", numbers=("speed-up", "p10 to p90", "GMACs", found.what_is_lost, "95 % interval"))
    for row in found.rows:
        low, high = row.interval
        numbers = (f"{row.speedup.median:.2f}x", row.speedup.range, f"{row.gmacs:.4f}")
        rows.add_row(row.name, *numbers, f"{row.lost:.2f}", f"{low:.2f} to {high:.2f}")
    rows.columns[0].no_wrap = False
    terminal.show(rows, spare=("p10 to p90", "GMACs"))
    for note in found.notes:
        options.note(note)
    typer.echo(found.answer)
    typer.echo(found.use)
