"""Image files to read."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def save(path: Path, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, 100).save(path)
    return path
