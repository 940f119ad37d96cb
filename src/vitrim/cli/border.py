"""Where errors leave the command line: each in one line on standard error, with an exit code that says its kind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from .. import failures
from ..text import shortened, shown
from .noise import quietly

USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143
CLOSED_PIPE = 1  # as click and rich have it
LONGEST = 2000  # characters of an error's line
LONGEST_WORD = 400
DEBUG = "VITRIM_DEBUG"
UsageError: Any = typer.BadParameter.__base__  # typer has come with and without click; this is in both


class OneLineErrors(TyperGroup):
    """Every error takes one line; VITRIM_DEBUG=1 shows where it came from."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and exit: with 2 after an error, with 130 after Ctrl-C, with 143 after SIGTERM."""
        for stream in (sys.stdout, sys.stderr):  # names of files may hold what the terminal cannot show
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            with terminated_cleanly(), quietly():
                result = super().main(*args, **{**extra, "standalone_mode": False})
                if sys.stdout is not None:
                    sys.stdout.flush()
        except UsageError as error:
            say(error.format_message())
            sys.exit(USER_ERROR)
        except Exception as error:  # whatever torch, Python or a file has led to
            _leave_closed_pipe(error)
            if os.environ.get(DEBUG):
                raise
            say(message(error))
            sys.exit(USER_ERROR)
        sys.exit(result if isinstance(result, int) else 0)

    def invoke(self, *args: Any, **extra: Any) -> Any:
        """Run the command; Ctrl-C and SIGTERM end it with one line, after everything is cleaned up."""
        try:
            return super().invoke(*args, **extra)
        except KeyboardInterrupt as error:
            what, code = ("terminated", TERMINATED) if isinstance(error, Terminated) else ("interrupted", INTERRUPTED)
            typer.echo(f"{what}{f': {error}' if str(error) else '.'}", err=True)
            raise typer.Exit(code) from error


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: like Ctrl-C, so that all that cleans up after that does so now."""


@contextmanager
def terminated_cleanly() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise Terminated, where nobody else handles or ignores them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, _: object) -> None:
        if os.getpid() != owner:  # a process that was forked off; it ends as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)  # a second one must not stop the cleaning up
        raise Terminated

    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def keeping(what: str) -> Iterator[None]:
    """Ctrl-C and SIGTERM inside tell what is kept of the work."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise type(error)(what) from None


def say(text: str) -> None:
    """Tell an error in one line."""
    words = (shortened(word, LONGEST_WORD) for word in shown(text, 10 * LONGEST).split())
    typer.echo(f"error: {shortened(' '.join(words), LONGEST)}", err=True)


def message(error: Exception) -> str:
    """What an error tells a user; of one that nobody foresaw, how to see more."""
    if (known := failures.reason(error)) is not None:
        return known
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}."
    text = str(error).strip()
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    first = text.splitlines()[0].rstrip(".:") if text else ""
    return f"{type(error).__name__}{f': {first}' if first else ''} (nobody foresaw this; {DEBUG}=1 shows where it is)."


def _leave_closed_pipe(error: Exception) -> None:
    """Exit without a word where whoever reads our output has stopped reading, as `head` does."""
    if not isinstance(error, BrokenPipeError):
        return
    with suppress(OSError, ValueError):  # what is left in the buffer must not be tried again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(CLOSED_PIPE)
