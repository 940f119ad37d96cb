"""The setting that `vitrim tune` left in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .kinds import read_object

RESULT = "tuned.json"


def is_tuned(name: str) -> bool:
    """Whether the name is that of such a folder."""
    return (Path(name).expanduser() / RESULT).is_file()


def setting_in(name: str) -> tuple[str, dict[str, Any]]:
    """Method and settings; ValueError if the file names none."""
    path = Path(name).expanduser() / RESULT
    content = read_object(path)
    method, settings = content.get("method"), content.get("settings")
    if not isinstance(method, str) or not isinstance(settings, dict):
        raise ValueError(f"{path} names no method: it was not written by vitrim tune.")
    return method, settings
