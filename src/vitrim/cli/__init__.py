"""The command line. Each command imports what it needs when it runs, so that --help stays fast."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from ..version import __version__
from .anytime import anytime
from .border import DEBUG, OneLineErrors
from .cls_quality import cls_quality
from .compare import compare
from .export import export
from .features import features
from .measure import benchmark, evaluate, macs
from .report import report
from .show import doctor, draw, methods
from .train import EXTRA, TrainCommand, train
from .tune import tune

app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make Vision Transformers faster by carrying fewer tokens.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vitrim {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", hidden=True)] = False,
) -> None:
    if debug:
        os.environ[DEBUG] = "1"
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


MEASURING = (tune, compare, evaluate, benchmark, anytime, macs, cls_quality)
for command in (*MEASURING, report, export, draw, features, doctor, methods):
    app.command()(command)
app.command(cls=TrainCommand, context_settings=EXTRA)(train)
