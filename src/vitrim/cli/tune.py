"""`vitrim tune`: the best setting for a model, images, and this machine."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options, terminal
from .options import DEFAULT_MODEL, MEASURING, WHAT
from .values import number, whole

if TYPE_CHECKING:
    from ..tuning.outcome import Tuned

GOAL = "Goal (one of them)"
SILENCE_SECONDS = 5.0  # between two lines of progress

Goal = float | None


def tune(
    output: Annotated[Path, typer.Option(help="Folder for report.html, tuned.json and the model.")],
    model: options.Model = DEFAULT_MODEL,
    checkpoint: options.Checkpoint = None,
    images: Annotated[
        Path | None,
        typer.Option("--images", "--data", help="Folder of images; labels are not needed.", rich_help_panel=WHAT),
    ] = None,
    speedup: Annotated[
        Goal, typer.Option(parser=number(1, above=True), help="Times the speed.", rich_help_panel=GOAL)
    ] = None,
    latency_ms: Annotated[
        Goal, typer.Option(parser=number(0, above=True), help="Milliseconds of one batch.", rich_help_panel=GOAL)
    ] = None,
    gmacs: Annotated[
        Goal, typer.Option(parser=number(0, above=True), help="1e9 multiply-adds of an image.", rich_help_panel=GOAL)
    ] = None,
    max_loss: Annotated[
        Goal,
        typer.Option(
            parser=number(0, above=True),
            help="Points of accuracy that may be lost, or of answers changed without labels.",
            rich_help_panel=GOAL,
        ),
    ] = None,
    by: Annotated[
        str, typer.Option(help="Cost for --speedup and --max-loss: time or macs.", rich_help_panel=MEASURING)
    ] = "time",
    limit: Annotated[
        int, typer.Option(parser=whole(1), help="Use so many images: half to search.", rich_help_panel=WHAT)
    ] = 1024,
    search: Annotated[
        int | None, typer.Option(parser=whole(2), help="Search with so many of them, not half.", rich_help_panel=WHAT)
    ] = None,
    skip_bad: options.SkipBad = False,
    minutes: Annotated[
        float,
        typer.Option(parser=number(0, above=True), help="When the search ends.", rich_help_panel=MEASURING),
    ] = 10.0,
    tries: Annotated[
        int, typer.Option(parser=whole(0), help="Changes to the schedule to try.", rich_help_panel=MEASURING)
    ] = 200,
    batch_size: options.BatchSize = 1,
    device: options.Device = "cpu",
    seed: options.Seed = 0,
    img_size: options.ImgSize = None,
) -> None:
    """Find the schedule that meets a goal and changes the model's answers least: no training, no labels."""
    from ..loading.build import load_model
    from ..tuning.files import check_output, write
    from ..tuning.run import tune as find_schedule
    from ..tuning.target import target_of

    goals = {"speedup": speedup, "latency_ms": latency_ms, "gmacs": gmacs, "max_loss": max_loss}
    target_of(**goals)
    check_output(output)
    with options.image_folder(model, images) as folder:
        net = load_model(model, checkpoint, img_size=img_size)
        found = find_schedule(
            net,
            folder,
            **goals,
            by=by,
            skip_bad=skip_bad,
            limit=limit,
            num_search=search,
            minutes=minutes,
            tries=tries,
            batch_size=batch_size,
            device=device,
            seed=seed,
            rebuild=lambda size: load_model(model, checkpoint, img_size=size),
            name=model,
            progress=partial(_tell, [0.0]),
        )
    write(found, net, output)
    _show(found)
    typer.echo(f"{output / 'report.html'} is ready; {output} is a model for every --model, too.")


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
