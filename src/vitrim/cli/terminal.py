"""Tables and progress bars in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

REFRESH_SECONDS = 0.25
PLAIN_WIDTH = 4000  # of tables printed into a file or a pipe


def table(*words: str, numbers: Sequence[str] = (), last: str | None = None) -> Table:
    """Make an empty table: columns of words, then of numbers, then maybe a last one of words."""
    empty = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in words:
        empty.add_column(title, no_wrap=True)
    for title in numbers:
        empty.add_column(title, justify="right", no_wrap=True)
    if last is not None:
        empty.add_column(last)
    return empty


def plain(text: str) -> Text:
    """Make a cell of foreign text, in which brackets are not markup."""
    return Text(text, style="dim")


def fitted(filled: Table, console: Console, spare: Sequence[str]) -> Table:
    """Remove columns from a table until it fits the console, the first of the spare ones first. Returns the table.

    What is then still too wide is folded in the columns that may be.
    """
    unbounded = console.options.update_width(PLAIN_WIDTH)
    for title in spare:
        if console.measure(filled, options=unbounded).maximum <= console.width:
            break
        filled.columns[:] = [column for column in filled.columns if column.header != title]
    return filled


def show(filled: Table, spare: Sequence[str] = ()) -> None:
    """Print a table: as wide as the terminal, or without line breaks into a file or a pipe.

    spare: columns that a narrow terminal leaves out, the least needed first.
    """
    if sys.stdout.isatty():
        console = Console()
        console.print(fitted(filled, console, spare))
        return
    console = Console(width=PLAIN_WIDTH)
    with console.capture() as text:
        console.print(filled)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in text.get().splitlines()))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Steps per second so far."""
        return Text(f"{task.completed / task.elapsed:.3g}/s" if task.elapsed and task.completed else "")


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with rate and time left, if standard error is a terminal. Yields progress(done, total)."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    # Redraw only between steps of the work: a drawing thread would disturb the timing.
    bar = Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal)
    drawn = 0.0

    def progress(done: int, total: int) -> None:
        nonlocal drawn
        bar.update(task, completed=done, total=total or None)
        if time.monotonic() - drawn >= REFRESH_SECONDS:
            drawn = time.monotonic()
            bar.refresh()

    with bar:
        task = bar.add_task(what, total=None)
        yield progress
