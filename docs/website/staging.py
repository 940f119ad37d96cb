"""Lay the pages of the site out in a folder, as Sphinx reads them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from . import ROOT
from .facts import Facts, all_methods
from .gallery import gallery_page
from .links import relinked
from .method_pages import method_page, methods_table
from .notebook import as_markdown
from .pictures import draw, drawing, sample_images
from .reference import command_page, reference_pages
from .sections import contents, documents

ROOT_PAGE = "generated.md"  # where links in generated pages start: the project's root


class Staging:
    """A folder of pages, and of files that they link to."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.pages = documents()

    def place(self, file: str) -> str:
        """Where the site has a file of the project, which is copied if it is no page; ValueError if there is none."""
        if file in self.pages.values() or file in self.pages:
            return self.pages.get(file, file)
        if file in ("results", "methods"):
            return {"results": "results.md", "methods": "all-methods.md"}[file]
        if (self.folder / file).is_file():
            return file
        if not (ROOT / file).is_file():
            raise ValueError(f"a page links to {file}, and neither the project nor the site has it.")
        return self.copy(file)

    def copy(self, file: str) -> str:
        """Copy a file of the project; its place on the site."""
        copy = self.folder / "files" / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, copy)
        return f"files/{file}"

    def write(self, page: str, text: str, document: str = ROOT_PAGE) -> None:
        """A page, its links as they stand in that document of the project."""
        path = self.folder / page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(relinked(text, document, page, self.place), encoding="utf-8")


def stage(folder: Path) -> None:
    """Write all pages into a new folder. Methods that are registered meanwhile get theirs."""
    folder.mkdir(parents=True)
    staging, found = Staging(folder), all_methods()
    staging.pages |= {page: page for page in ("results.md", "all-methods.md", "gallery.md", "command-line.md")}
    staging.pages |= {(page := f"methods/{facts.name}.md"): page for facts in found}
    stage_methods(staging, found)
    generated: Mapping[str, str] = reference_pages() | {
        "command-line.md": command_page(),
        "results.md": _results(),
    }
    for page, text in generated.items():
        staging.write(page, text)
    for document, page in staging.pages.items():
        if (ROOT / document).is_file():
            staging.write(page, _read(document, staging), document)


def stage_methods(staging: Staging, found: list[Facts]) -> None:
    """The page of each method, with its picture, the table of all, and the gallery."""
    (staging.folder / "methods").mkdir()
    images = sample_images(staging.folder / "images")
    for facts in found:
        picture = f"methods/{facts.name}.png"
        failed = draw(images, drawing(facts), staging.folder / picture)
        staging.write(f"methods/{facts.name}.md", method_page(facts, failed or picture))
    staging.write("all-methods.md", methods_table(found))
    staging.write("gallery.md", gallery_page(found, images, staging.folder))


def _read(document: str, staging: Staging) -> str:
    if document.endswith(".ipynb"):
        staging.copy(document)
        text = as_markdown(ROOT / document, staging.folder / "notebook")
        return f"{text}\nThis page is [a notebook](../files/{document}), with the outputs that are stored in it.\n"
    text = (ROOT / document).read_text(encoding="utf-8")
    return f"{text}\n{contents()}\n" if document == "README.md" else text


def _results() -> str:
    """A page of the recorded rows."""
    lines = [
        "# Measured rows\n",
        "The tables of speed, accuracy, training and export are computed from these rows. Rows are appended when "
        "they are measured and never rewritten. A file's name says what was measured, on what, with which torch, and "
        "when.\n",
        "| file | rows |",
        "|---|---|",
    ]
    for path in sorted((ROOT / "results").glob("*.csv")):
        lines.append(f"| [{path.name}](results/{path.name}) | {len(path.read_text().splitlines()) - 1} |")
    return "\n".join(lines) + "\n"
