"""Links in Markdown: found, followed to a file and a heading, and written for a page that stands elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\]\()([^()\s]+)(\))")
ELSEWHERE = re.compile(r"[a-z]+:")
FENCE = re.compile(r"^(```.*?^```\s*?$)", re.S | re.M)


def links(text: str) -> Iterator[str]:
    """Where the links of a document lead that stay in the project, code left out."""
    for part in FENCE.split(text)[::2]:
        yield from (match[2] for match in LINK.finditer(part) if not ELSEWHERE.match(match[2]))


def headings(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub and the site make them."""
    titles = [title for part in FENCE.split(text)[::2] for title in re.findall(r"^#+ (.+)$", part, re.M)]
    anchors: set[str] = set()
    for title in titles:
        plain = re.sub(r"[^\w\- ]", "", LINK.sub(lambda match: match[1][1:-2], title).lower()).replace(" ", "-")
        number = next(i for i in range(len(titles)) if (f"{plain}-{i}" if i else plain) not in anchors)
        anchors.add(f"{plain}-{number}" if number else plain)
    return anchors


def followed(link: str, document: str) -> tuple[str, str]:
    """The file that a link in a document leads to, from the project's root, and the anchor in it."""
    path, _, anchor = link.partition("#")
    return os.path.normpath(PurePosixPath(document).parent / path) if path else document, anchor


def relinked(text: str, document: str, page: str, place: Callable[[str], str]) -> str:
    """The document's text for a page of the site. place: where the site has a file of the project."""

    def new(match: re.Match[str]) -> str:
        if ELSEWHERE.match(match[2]) or match[2].startswith("#"):
            return match[0]
        file, anchor = followed(match[2], document)
        there = os.path.relpath(place(file), PurePosixPath(page).parent)
        return f"{match[1]}{there}{'#' * bool(anchor)}{anchor}{match[3]}"

    parts = FENCE.split(text)
    parts[::2] = [LINK.sub(new, part) for part in parts[::2]]
    return "".join(parts)
