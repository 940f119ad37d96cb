"""Make text from outside, such as names in a file, fit for one line of a message or table."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

MOST = 200  # characters of a value in a message


def shown(value: object, most: int = MOST) -> str:
    """The value as one line: single blanks, escaped control characters, and a long middle left out.

    >>> shown("red \\x1b[31m\\nfish"), shown("9" * 400, 11)
    ('red \\\\x1b[31m fish', '9999...9999')
    """
    try:
        text = value if isinstance(value, str) else str(value)
    except ValueError:  # Python prints no whole number with more than 4,300 digits
        text = "a number of thousands of digits"
    line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split()))
    return shortened(line, most)


def shortened(line: str, most: int) -> str:
    """The line, or the beginning and end of one that is too long."""
    if len(line) <= most:
        return line
    end = (most - 3) // 2
    return f"{line[: most - 3 - end]}...{line[len(line) - end :]}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its full stop; its class if there is no message."""
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".:") if text else type(error).__name__


def grouped(counts: Iterable[int]) -> str:
    """Write counts, repeats grouped: '197 x3, 140 x3, 72'."""
    groups = [(count, len(list(group))) for count, group in groupby(counts)]
    return ", ".join(f"{count} x{times}" if times > 1 else str(count) for count, times in groups)
