"""A command as the terminal runs it."""

from __future__ import annotations

import pytest

from vitrim.cli import app


def vitrim(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        app([str(argument) for argument in arguments])
    return int(stopped.value.code or 0)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says as it refuses: one line."""
    capsys.readouterr()
    assert vitrim(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said
