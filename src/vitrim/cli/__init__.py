"""The command line. Commands import what they need when they run, so that --help answers at once."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .. import __version__
from .anytime import anytime
from .cls_quality import cls_quality
from .compare import compare
from .export import export
from .features import features
from .measure import benchmark, evaluate, macs
from .show import doctor, draw, methods
from .train import EXTRA, TrainCommand, train

USER_ERROR, INTERRUPTED = 2, 130  # exit codes
UsageError: Any = typer.BadParameter.__base__  # typer has come with and without click; this is in both


class OneLineErrors(TyperGroup):
    """What a user can put right is told in one line; VITRIM_DEBUG=1 shows where it came from."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and exit with 2 after an error of the user, with 130 after Ctrl-C."""
        try:
            result = super().main(*args, **{**extra, "standalone_mode": False})
        except UsageError as error:
            _say(error.format_message())
            sys.exit(USER_ERROR)
        except (ValueError, OSError, MemoryError) as error:
            if os.environ.get("VITRIM_DEBUG"):
                raise
            _say(_message(error))
            sys.exit(USER_ERROR)
        sys.exit(result if isinstance(result, int) else 0)

    def invoke(self, *args: Any, **extra: Any) -> Any:
        """Run the command; Ctrl-C ends it with one line."""
        try:
            return super().invoke(*args, **extra)
        except KeyboardInterrupt as error:
            typer.echo(f"interrupted{f': {error}' if str(error) else '.'}", err=True)
            raise typer.Exit(INTERRUPTED) from error


def _say(message: str) -> None:
    typer.echo(f"error: {' '.join(message.split())}", err=True)


def _message(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory: use a smaller --batch-size."
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}."
    return str(error) or type(error).__name__


app = typer.Typer(
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Vision Transformers made faster by carrying fewer tokens.",
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
        os.environ["VITRIM_DEBUG"] = "1"
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (compare, evaluate, benchmark, anytime, macs, cls_quality, export, draw, features, doctor, methods):
    app.command()(command)
app.command(cls=TrainCommand, context_settings=EXTRA)(train)
