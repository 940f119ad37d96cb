"""`vitrim train`: train or fine-tune a model by a recipe."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from . import terminal
from .border import USER_ERROR, debugging, keeping, print_error

if TYPE_CHECKING:
    from ..train.loop import TrainingProgress
    from ..train.recipe import Recipe

EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


class TrainCommand(TyperCommand):
    """A command whose help lists the fields of a recipe."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the options, then every field with its default."""
        super().format_help(ctx, formatter)
        table = terminal.table("recipe field", "default", last="meaning")
        for name, default, comment in recipe_fields():
            table.add_row(f"--{name.replace('_', '-')}" if default else f"[bold]{name}", default, comment)
        terminal.show(table)


def recipe_fields() -> Iterator[tuple[str, str, str]]:
    """Yield name, default and comment of each field, from the source of Recipe. Titles have no default."""
    import inspect

    from ..train import recipe

    source = inspect.getsource(recipe.Recipe).partition('    """\n')[2].partition("    def ")[0]
    for line in source.splitlines():
        field = re.fullmatch(r"    (\w+): ([^=#]+?)(?: = (.+?))?(?:  # (.*))?", line)
        if field:
            default = {None: "(required)", "field(default_factory=dict)": "{}"}.get(field[3], field[3])
            yield field[1], default or "", field[4] or ""
        elif title := re.fullmatch(r"    # (.*)", line):
            yield title[1], "", ""


def train(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="Python file that defines RECIPE.")],
    data: Annotated[Path, typer.Option(help="Folder with train and val, each with one sub-folder per class.")],
    output: Annotated[Path, typer.Option(help="Folder of the run. The same recipe continues a stopped run.")],
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the recipe with all its fields and exit.")] = False,
) -> None:
    """Train or fine-tune a model by a recipe.

    Every field of the recipe is also an option: --lr 1e-4, --settings.keep_rate 0.5. The fields are listed below.

    On several GPUs or machines: torchrun --nproc-per-node 8 -m vitrim train RECIPE ...
    """
    from ..train.recipe import load_recipe

    wanted = _overridden(load_recipe(recipe), context.args)
    if show:
        for name, value in wanted.as_json().items():
            typer.echo(f"{name} = {value!r}")
        return
    _check_extra()
    from ..train.checkpoint import TrainingError
    from ..train.run_recipe import run_recipe

    chief = int(os.environ.get("RANK", "0")) == 0
    try:
        with keeping(f"checkpoints are kept in {output}; the same command continues from there."):
            summary = run_recipe(wanted, data, output, listener=_line if chief else None, cpu=cpu)
    except TrainingError as error:
        if debugging():
            raise
        print_error(str(error))
        raise typer.Exit(USER_ERROR) from error
    if chief:
        _show(summary, output)


def _overridden(recipe: Recipe, arguments: list[str]) -> Recipe:
    """Set fields of a recipe from the command line: --field value, --field=value, --settings.name value."""
    from ..train.recipe import read_text

    changes: dict[str, Any] = {}
    settings = dict(recipe.settings)
    pending = list(arguments)
    while pending:
        option, equals, value = pending.pop(0).partition("=")
        if not option.startswith("--") or (not equals and not pending):
            raise ValueError(f"set a field of the recipe as --field value, not as {option!r}.")
        name = option.removeprefix("--").replace("-", "_")
        value = value if equals else pending.pop(0)
        if name.startswith("settings."):
            settings[name.removeprefix("settings.")] = read_text(value)
        else:
            changes[name] = value
    if settings != recipe.settings:
        changes.setdefault("settings", settings)
    return recipe.override(changes)


def _check_extra() -> None:
    try:
        import accelerate  # noqa: F401
    except ImportError as error:
        raise ValueError('training needs the extra "train": pip install "vitrim[train]".') from error


def _line(progress: TrainingProgress) -> None:
    """Print update, loss, learning rate, keep rate, speed, time left and accuracy in one line."""
    parts = [
        f"{progress.step}/{progress.num_steps}",
        f"loss {progress.loss:.4f}",
        *(f"{name} {value:.4f}" for name, value in progress.parts.items() if len(progress.parts) > 1),
        f"lr {progress.lr:.2e}",
        *([f"keep rate {_rate(progress.keep_rate)}"] if progress.keep_rate is not None else []),
        f"{progress.images_per_s:.1f} images/s",
        f"{_duration(progress.seconds_left)} left",
        *(f"{name} {value:.2f} %" for name, value in progress.accuracy.items()),
    ]
    typer.echo("  ".join(parts))


def _rate(rate: float | tuple[float, ...]) -> str:
    rates = {f"{one:.3f}" for one in (rate if isinstance(rate, tuple) else (rate,))}
    return "/".join(sorted(rates))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _show(summary: dict[str, Any], output: Path) -> None:
    scores = ", ".join(f"{name} {summary[name]:.2f} %" for name in ("top1", "ema_top1") if name in summary)
    typer.echo(f"{scores} on {summary['val_images']} images; {summary['updates']} updates, {summary['seconds']:.0f} s")
    if summary["unreadable_images"]:
        typer.echo(f"{summary['unreadable_images']} images could not be read: see {output / 'warnings.txt'}")
    if "method" in summary:
        typer.echo(f"learned, at {summary['gmacs']:g} GMACs: {summary['method']}")
    typer.echo(f"the model is in {output / 'model'}, the curves in {output / 'curves.svg'}")
