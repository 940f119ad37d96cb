"""The notebook runs, offline and in one process, and what is stored in it is what its cells print."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import fresh
from website.notebook import as_markdown, read_cells

PATH = Path(__file__).parent.parent / "examples" / "quickstart.ipynb"
CELLS = [cell for cell in read_cells(PATH) if cell["cell_type"] == "code"]
RUN = """
import contextlib, io, json, sys
said, names = [], {"__name__": "__main__"}
for cell in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(cell, "a cell", "exec"), names)
    said.append(out.getvalue())
print(json.dumps(said))
"""


def printed(cell: dict) -> str:
    return "".join(text for output in cell["outputs"] for text in output.get("text", ()))


def test_the_cells_run_and_print_what_is_stored(tmp_path: Path) -> None:
    sources = [cell["source"].replace("limit=500", "limit=20").replace("rounds=40", "rounds=2") for cell in CELLS]
    done = fresh.run(["-c", RUN, json.dumps(sources)], tmp_path)
    assert done.returncode == 0, done.stderr
    for cell, said in zip(CELLS, json.loads(done.stdout), strict=True):
        stored = printed(cell)
        if "limit=" in cell["source"] or "rounds=" in cell["source"]:  # measured: other numbers, the same words
            stored, said = (re.sub(r"[\d. ]+", " ", text) for text in (stored, said))
        assert said == stored, cell["source"]


def test_the_stored_notebook_is_small_and_clean() -> None:
    assert PATH.stat().st_size < 300_000
    assert [cell["execution_count"] for cell in CELLS] == list(range(1, len(CELLS) + 1))
    for cell in CELLS:
        assert {output.get("name", "stdout") for output in cell["outputs"]} <= {"stdout"}
        assert not re.search(r"Warning|Traceback|/(?:home|root|tmp|usr|var)/", printed(cell))


def test_the_first_cell_installs_only_where_vitrim_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda command, **_: calls.append(command))
    exec(CELLS[0]["source"], {})
    assert calls == []
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    exec(CELLS[0]["source"], {})
    assert calls[0][1:5] == ["-m", "pip", "install", "--quiet"]


def test_the_page_shows_code_and_outputs(tmp_path: Path) -> None:
    page = as_markdown(PATH, tmp_path / "notebook")
    assert page.startswith("# Quickstart\n")
    assert "```python\nimport torch\n\nimport vitrim\n" in page
    assert "```text\nVisionTransformer 157.6 million" in page
    (picture,) = (tmp_path / "notebook").iterdir()
    assert f"(../notebook/{picture.name})" in page
    assert picture.read_bytes().startswith(b"\x89PNG")
