"""Token pictures: `vitrim draw` on the model and the test images that come with the package."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from vitrim.cli import app
from vitrim.models.embedded import demo_images

from .facts import Facts

KINDS = (9, 0, 5, 8)  # ankle boot, T-shirt, sandal, bag
RATE = 0.5


def sample_images(folder: Path, kinds: Sequence[int] = KINDS) -> list[Path]:
    """The first test image of each of these classes, unpacked into the folder."""
    unpacked = demo_images(folder)
    with (unpacked / "labels.csv").open(newline="") as table:
        first = {int(row["label"]): row["file"] for row in reversed(list(csv.DictReader(table)))}
    return [unpacked / "images" / first[kind] for kind in kinds]


def drawing(facts: Facts) -> list[str]:
    """The options of `vitrim draw` that show a method by itself."""
    amount = facts.method.amount
    rate = ["--keep-rates", f"{RATE:g}"] if amount is not None and amount.solved else []
    return ["--methods", facts.name, *rate, "--columns", "3"]


def shown(options: Sequence[str], picture: str, title: str) -> str:
    """A picture in Markdown, and the command that makes it."""
    command = " ".join(["vitrim draw IMAGES", *options, "--output", Path(picture).name])
    return f"![{title}]({picture})\n\n`{command}`"


def draw(images: Sequence[Path], options: Sequence[str], output: Path) -> str:
    """Draw; the reason, in one line, if that cannot be done, or nothing."""
    said = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            app(["draw", *map(str, images), *options, "--output", str(output)])
    except SystemExit as end:
        return said.getvalue().strip().removeprefix("error: ") if end.code else ""
    raise AssertionError("a command exits when it is done")
