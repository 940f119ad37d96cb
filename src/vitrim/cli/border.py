"""Errors of the command line: one line on standard error, and an exit code for each kind."""

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

from ..failures import reason
from ..text import shortened, shown
from .noise import quietly

USER_ERROR, INTERRUPTED, TERMINATED = 2, 130, 143
CLOSED_PIPE = 1  # as in click and rich
LONGEST = 2000  # characters of an error message
LONGEST_WORD = 400
DEBUG = "VITRIM_DEBUG"
UsageError: Any = typer.BadParameter.__base__  # typer ships with click or without it; this class exists in both


class OneLineErrors(TyperGroup):
    """Print every error in one line. VITRIM_DEBUG=1 shows the traceback."""

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run and exit: with 2 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
        for stream in (sys.stdout, sys.stderr):  # the terminal may not be able to show a file name
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        try:
            with terminated_cleanly(), quietly():
                result = super().main(*args, **{**extra, "standalone_mode": False})
                if sys.stdout is not None:
                    sys.stdout.flush()
        except UsageError as error:
            print_error(error.format_message())
            sys.exit(USER_ERROR)
        except Exception as error:  # any error of torch, Python or a file
            _leave_closed_pipe(error)
            if debugging():
                raise
            print_error(message(error))
            sys.exit(USER_ERROR)
        sys.exit(result if isinstance(result, int) else 0)

    def invoke(self, *args: Any, **extra: Any) -> Any:
        """Run the command. After Ctrl-C or SIGTERM, clean up and print one line."""
        try:
            return super().invoke(*args, **extra)
        except KeyboardInterrupt as error:
            what, code = ("terminated", TERMINATED) if isinstance(error, Terminated) else ("interrupted", INTERRUPTED)
            typer.echo(f"{what}{f': {error}' if str(error) else '.'}", err=True)
            raise typer.Exit(code) from error


def debugging() -> bool:
    """Whether tracebacks are wanted. VITRIM_DEBUG=0 says no."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, as a KeyboardInterrupt: the same clean-up runs as after Ctrl-C."""


@contextmanager
def terminated_cleanly() -> Iterator[None]:
    """Raise Terminated on SIGTERM and SIGHUP, unless they are handled or ignored already."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, _: object) -> None:
        if os.getpid() != owner:  # a forked process ends as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        signal.signal(number, signal.SIG_IGN)  # a second signal must not stop the clean-up
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
    """Add to Ctrl-C and SIGTERM a message about the work that is kept."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise type(error)(what) from None


def print_error(text: str) -> None:
    """Print an error in one line."""
    words = (shortened(word, LONGEST_WORD) for word in shown(text, 10 * LONGEST).split())
    typer.echo(f"error: {shortened(' '.join(words), LONGEST)}", err=True)


def message(error: Exception) -> str:
    """Return the message of an error. For an unexpected one, add how to see its traceback."""
    if (known := reason(error)) is not None:
        return known
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}."
    text = str(error).strip()
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    first = text.splitlines()[0].rstrip(".:") if text else ""
    return f"{type(error).__name__}{f': {first}' if first else ''} (unexpected error; {DEBUG}=1 shows the traceback)."


def _leave_closed_pipe(error: Exception) -> None:
    """Exit silently if the reader of our output has stopped reading, as `head` does."""
    if not isinstance(error, BrokenPipeError):
        return
    with suppress(OSError, ValueError):  # do not write the rest of the buffer at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(CLOSED_PIPE)
