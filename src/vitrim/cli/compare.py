"""`vitrim compare`: measure many methods, and write a report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from . import options
from .border import keeping
from .options import DEFAULT_MODEL
from .reduction import COMPARED, Reduction, reducing

if TYPE_CHECKING:
    from ..compare.run_folder import Run


@reducing
def compare(
    output: Annotated[Path, typer.Option(help="Folder for the results. The same command continues a stopped run.")],
    model: options.Model = DEFAULT_MODEL,
    checkpoint: options.Checkpoint = None,
    data: options.Data = None,
    reduction: Reduction = COMPARED,
    rivals: options.Rivals = None,
    limit: options.Limit = None,
    batch_size: options.BatchSize = 32,
    rounds: options.Rounds = 10,
    device: options.Device = "cpu",
    dtype: options.Dtype = "fp32",
    amp: options.Amp = False,
    compile_: options.Compile = False,
    int8: options.Int8 = False,
    skip_bad: options.SkipBad = False,
    seed: options.Seed = 0,
    img_size: options.ImgSize = None,
    replace: Annotated[bool, typer.Option("--replace", help="Remove another run found in --output.")] = False,
) -> None:
    """Measure accuracy, multiply-adds and speed of many methods, and write a report.

    By default it uses the small model and the 1,000 images in the package.
    """
    from ..compare import run
    from ..compare.job import Job
    from ..rivals import read_rivals
    from .live import watcher_for_terminal

    found = reduction.configurations(default=(0.9, 0.7, 0.5))
    with options.image_folder(model, data) as folder, watcher_for_terminal() as watcher:
        job = Job(
            model=model,
            data=folder,
            output=output,
            configurations=found,
            rivals=() if rivals is None else read_rivals(rivals),
            checkpoint=checkpoint,
            img_size=img_size,
            limit=limit,
            batch_size=batch_size,
            rounds=rounds,
            device=device,
            dtype=cast(Any, dtype),
            amp=amp,
            compile=compile_,
            int8=int8,
            skip_bad=skip_bad,
            seed=seed,
            replaces=replace,
            command=shlex.join(["vitrim", *sys.argv[1:]]),
        )
        with keeping(f"finished rows are kept in {output}; the same command continues from there."):
            finished = run.compare(job, watcher)
    options.note(finished.assumption)
    _answer(finished)
    typer.echo(f"wrote {output / 'report.html'}, results.csv and results.json.{_skipped(finished)}")


def _answer(run: Run) -> None:
    """Print what the report begins with."""
    from ..compare.answer import answers
    from ..compare.verdict import verdicts

    for answer in answers(run.rows):
        typer.echo(f"batch {answer.batch}: {answer.sentence} {answer.more}".rstrip())
    for verdict in verdicts(run.rows, run.predictions):
        typer.echo(verdict.sentence)


def _skipped(run: Run) -> str:
    count = len(run.skipped_files)
    if count == 0:
        return ""
    return f" Skipped {count} file{'s' if count > 1 else ''} that could not be read."
