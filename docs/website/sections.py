"""Which pages the site has, and where each stands."""

from __future__ import annotations

from . import ROOT

# Documents by their place on the site; those of docs/ keep their names.
ELSEWHERE = {
    "README.md": "index.md",
    "examples/quickstart.ipynb": "quickstart.md",
    "recipes/README.md": "recipes.md",
    "src/vitrim/models/embedded/README.md": "embedded-model.md",
    "findings/README.md": "findings.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
GENERATED = ("results", "all-methods", "gallery", "command-line", "reference/index")
SECTIONS = {
    "Get started": ["quickstart", "models", "embedded-model"],
    "Methods": ["all-methods", "methods", "gallery"],
    "Guides": [
        "tuning",
        "comparing",
        "looking-inside",
        "training",
        "recipes",
        "export",
        "dense-features",
        "attribution",
    ],
    "Reference": ["reference/index", "command-line", "league", "speed", "results"],
    "Project": [
        *("contributing", "design", "style", "adding-a-method", "adding-a-backbone"),
        *("log", "findings", "changelog"),
    ],
}


def documents() -> dict[str, str]:
    """Every document that is there, with its page."""
    found = {path: page for path, page in ELSEWHERE.items() if (ROOT / path).is_file()}
    return found | {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}


def contents() -> str:
    """The tables of contents of the front page; a document that no section names is a guide."""
    there = {page.rpartition(".")[0] for page in documents().values()} | set(GENERATED)
    named = {page for pages in SECTIONS.values() for page in pages}
    sections = {title: [page for page in pages if page in there] for title, pages in SECTIONS.items()}
    sections["Guides"] += sorted(there - named - {"index"})
    trees = [
        "\n".join(["```{toctree}", ":hidden:", f":caption: {title}", "", *pages, "```"])
        for title, pages in sections.items()
    ]
    return "\n\n".join(trees)
