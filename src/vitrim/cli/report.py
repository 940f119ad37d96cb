"""`vitrim report`: make the report of a finished folder again, or one of several, as a page or as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from ..report.tables import Format

FORMATS = {"html": ".html", "latex": ".tex", "markdown": ".md", "csv": ".csv"}


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Folders of `vitrim compare`, or one of `vitrim tune`.", metavar="DIR..."),
    ],
    kind: Annotated[str, typer.Option("--format", help="html, or only the table: latex, markdown or csv.")] = "html",
    output: Annotated[
        Path | None,
        typer.Option(help="File to write. Default: report.html in the folder; a table goes to standard output."),
    ] = None,
) -> None:
    """Make a report again from its folder, or one report of several runs with the same model and images."""
    from ..store import replace_file
    from ..tuned_folder import is_tuned

    wanted = _format(kind)
    if wanted == "html" and output is None and len(folders) > 1:
        raise ValueError("a report of several folders needs a file to be written to: pass --output joined.html.")
    tuned = [folder for folder in folders if is_tuned(str(folder))]
    if tuned and len(folders) > 1:
        raise ValueError(
            f"{tuned[0]} is of vitrim tune, which stands alone: only runs of vitrim compare can be joined."
        )
    text, notes = _tuned(folders[0], wanted) if tuned else _compared(folders, wanted)
    for note in notes:
        options.note(note)
    path = folders[0] / "report.html" if wanted == "html" and output is None else output
    if path is None:
        typer.echo(text, nl=False)
        return
    replace_file(path, text)
    typer.echo(f"wrote {path}.")


def _format(kind: str) -> Format:
    if kind not in FORMATS:
        raise ValueError(f"--format is one of {', '.join(FORMATS)}, not {kind!r}.")
    return kind  # type: ignore[return-value]


def _compared(folders: Sequence[Path], kind: Format) -> tuple[str, list[str]]:
    from ..compare.joined import read_runs
    from ..compare.report import render
    from ..compare.table_file import table_text
    from ..compare.view import table
    from ..report.tables import written

    run, notes = read_runs(folders)
    if kind == "html":
        return render(run, folders, notes), []
    return table_text(run.rows, run.refused) if kind == "csv" else written(table(run), kind), notes


def _tuned(folder: Path, kind: Format) -> tuple[str, list[str]]:
    from ..report.tables import written
    from ..tuning.files import render
    from ..tuning.stored import found_in
    from ..tuning.view import table

    found = found_in(folder)
    return render(found) if kind == "html" else written(table(found), kind), []
