"""A notebook as a page: its text, its code, and the outputs that are stored in it. Nothing is run."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any


def read_cells(path: Path) -> list[dict[str, Any]]:
    """The notebook's cells, with their source in one piece."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def text_of(path: Path) -> str:
    """The text of a document, of a notebook without code and outputs."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell["source"] for cell in read_cells(path) if cell["cell_type"] == "markdown")


def as_markdown(path: Path, folder: Path) -> str:
    """The page's text. Pictures are written into the folder, which stands beside the page."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for i, cell in enumerate(read_cells(path)):
        if cell["cell_type"] == "markdown":
            parts.append(cell["source"])
        else:
            parts.append(f"```python\n{cell['source']}\n```")
            parts += [_output(output, folder, f"{i}-{j}.png") for j, output in enumerate(cell["outputs"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _output(output: dict[str, Any], folder: Path, name: str) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        (folder / name).write_bytes(base64.b64decode("".join(data["image/png"])))
        return f"![Output of the cell above](../{folder.name}/{name})"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```" if text.strip() else ""
