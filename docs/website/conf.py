"""How Sphinx builds the site."""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import vitrim
from website.docstrings import comments, google

project, author = "vitrim", "The vitrim authors"
version = release = vitrim.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["files/**", "images/**"]
default_role = "py:obj"  # a word in single quotes is a link where it is a public name, and code elsewhere

myst_heading_anchors = 4
suppress_warnings = ["misc.highlighting_failure"]
add_module_names = False
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_custom_sections = ["Source"]
napoleon_use_rtype = False
napoleon_preprocess_types = True

highlight_language = "none"  # of code that says none

html_theme = "furo"
pygments_dark_style = "monokai"
html_title = "vitrim"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]


def with_sections(_: Any, what: str, __: str, thing: Any, ___: Any, lines: list[str]) -> None:
    """Docstrings of this project, in which "name: text" describes a parameter, in the form that Sphinx knows."""
    names: set[str] = set(getattr(thing, "__dataclass_fields__", ()))
    if what in ("function", "method", "class", "exception"):
        with contextlib.suppress(TypeError, ValueError):
            names |= set(inspect.signature(thing).parameters)
    lines[:] = google("\n".join(lines), names, comments(thing) if what == "class" else None)


def unseen(*event: Any) -> bool | None:
    """Whether a member is left out: what says no more than its name."""
    thing = event[3]
    doc = getattr(thing, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", with_sections, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", unseen)
