"""Progress of `vitrim compare`: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..compare.job import Watcher
from ..compare.row import Key, Refusal, Row
from ..compare.run_folder import Run
from . import terminal

SPARE = ("images/s", "ratio", "GMACs")  # columns that a narrow terminal leaves out, in this order
AROUND = 7  # lines of the terminal without a row: header, rules, progress


@contextmanager
def watcher_for_terminal() -> Iterator[Watcher]:
    """Yield a live table if standard output is a terminal, else plain lines."""
    console = Console()
    if not console.is_terminal:
        yield PlainLines()
        return
    # Redraw only between steps of the work: a drawing thread would disturb the timing.
    live = Live(console=console, auto_refresh=False)
    try:
        yield LiveTable(live)
    finally:
        live.stop()


class PlainLines(Watcher):
    """Print one line per finished row."""

    def begins(self, keys: Sequence[Key], run: Run) -> None:
        """Print the number of rows."""
        finished = sum(run.row(key) is not None for key in keys)
        self._print(f"{len(keys)} rows, {finished} of them already finished" if finished else f"{len(keys)} rows")
        for refusal in run.refused:
            self.refuses(refusal)

    def finishes(self, row: Row) -> None:
        """Print the numbers of the row."""
        cells = _cells(row)
        name, change = " ".join(cells[:2]).strip(), cells[3] and f" ({cells[3]})"
        speedup = cells[7] and f", {cells[7]}"
        self._print(f"{name}: top-1 {cells[2]} %{change}, {cells[4]} GMACs, {cells[6]} images/s{speedup}")

    def refuses(self, refusal: Refusal) -> None:
        """Print why the row could not be measured."""
        self._print(_line(refusal))

    def _print(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class LiveTable(Watcher):
    """Show all rows, filled in as they finish, and the step, rate and time left of the current one."""

    def __init__(self, live: Live):
        self.live = live
        self.keys: Sequence[Key] = ()
        self.rows: dict[Key, Row] = {}
        self.refused: tuple[Refusal, ...] = ()
        self.current: tuple[Key, str] | None = None  # the row in progress, and its step
        self.progress = Text()
        self.step_start = self.last_drawn = 0.0

    def begins(self, keys: Sequence[Key], run: Run) -> None:
        """Draw the table with the rows that are already finished."""
        self.live.start()
        self.keys = keys
        self.rows = {row.key: row for row in run.rows}
        self.refused = tuple(run.refused)
        self._draw()

    def works(self, key: Key, step: str, done: int, total: int) -> None:
        """Show the progress of a step."""
        now = time.monotonic()
        if self.current != (key, step):
            self.current, self.step_start = (key, step), now
        row = f"row {self.keys.index(key) + 1} of {len(self.keys)}"
        self.progress = _progress(f"{row}, {' '.join(key).strip()}", step, done, total, now - self.step_start)
        if now - self.last_drawn >= terminal.REFRESH_SECONDS:
            self._draw()

    def finishes(self, row: Row) -> None:
        """Fill in the row."""
        self.rows[row.key] = row
        self.current, self.progress = None, Text()
        self._draw()

    def refuses(self, refusal: Refusal) -> None:
        """Show why the row could not be measured."""
        self.keys = [key for key in self.keys if key != refusal.key]
        self.refused += (refusal,)
        self.current, self.progress = None, Text()
        self._draw()

    def _draw(self) -> None:
        self.last_drawn = time.monotonic()
        self.live.update(self.shown(), refresh=True)

    def shown(self) -> Group:
        """The progress of the current row, the table, and the configurations that could not be measured."""
        return Group(self.progress, self._table(), *(Text(_line(each)) for each in self.refused))

    def _table(self) -> Table:
        numbers = ("top-1 %", "change", "GMACs", "ratio", "images/s", "speed-up")
        table = terminal.table("method", "setting", numbers=numbers)
        table.columns[1].no_wrap = False
        for key in self._visible():
            if key in self.rows:
                table.add_row(*_cells(self.rows[key]))
            else:
                working = self.current is not None and self.current[0] == key
                table.add_row(*key, *[""] * 5, "running" if working else "", style=None if working else "dim")
        return terminal.fitted(table, self.live.console, SPARE)

    def _visible(self) -> Sequence[Key]:
        """All rows if they fit the terminal or all are finished; else the rows up to just past the current one."""
        room = self.live.console.height - AROUND - len(self.refused)
        if len(self.keys) <= room or all(key in self.rows for key in self.keys):
            return self.keys
        at = next(i for i, key in enumerate(self.keys) if key not in self.rows)
        end = min(len(self.keys), max(at + 3, room))
        return (self.keys[0], *self.keys[max(1, end - room + 1) : end])


def _cells(row: Row) -> list[str]:
    """Method, setting, top-1, change, GMACs, MAC ratio, images/s, and speed-up with its range."""
    numbers = [f"{row.top1:.2f}", f"{-row.drop or 0.0:+.2f}", f"{row.gmacs:.4f}", f"{row.mac_ratio:.2f}x"]
    speed = f"{row.images_per_s:.4g}"
    method, setting = f"rival: {row.method}" if row.rival else row.method, row.key[1]
    if setting == "":
        return [method, "", numbers[0], "", numbers[2], "", speed, ""]
    spread = f"{row.speedup:.2f}x ({row.speedup.range})"
    return [method, setting, *numbers, speed, spread]


def _line(refusal: Refusal) -> str:
    return f"{' '.join(refusal.key)}: {refusal.not_measured}"


def _progress(row: str, step: str, done: int, total: int, seconds: float) -> Text:
    text = f"{row}: {step}, {done} of {total}"
    if done and seconds > 0.5:
        rate = done / seconds
        text += f", {rate:.3g} a second, {(total - done) / rate:.0f} s left"
    return Text(text, style="cyan")
