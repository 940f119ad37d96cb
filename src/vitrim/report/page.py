"""One self-contained page: base.html.jinja with styles and script inside, and the template that fills it.

The page is read without scripts, points to nothing outside itself, and takes nothing from outside as markup.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

from ..method_looks import COLORS, DARK, Look

HERE = Path(__file__).parent
MOST_BYTES = 3_000_000  # of a page
CONTROL = re.compile(  # characters that a file name may hold, but a page must not
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ud800-\udfff]"
)


def render(template: Path, **values: Any) -> str:
    """Fill a template that extends base.html.jinja."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    jinja = Environment(
        loader=FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.globals["mark"] = mark_svg
    page = jinja.get_template(template.name).render(style=Markup(_style()), script=Markup(_text("script.js")), **values)
    return CONTROL.sub(lambda found: ascii(found[0])[1:-1], page)


def data_uri(content: str | bytes, kind: str) -> str:
    """A link that holds its content. kind: "image/svg+xml"."""
    raw = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    return f"data:{kind};base64,{base64.b64encode(raw).decode()}"


def mark_svg(look: Look, hollow: bool = False) -> Any:
    """A method's mark, for a line of text: markup for a template."""
    from markupsafe import Markup

    paint = f'fill="none" stroke="{look.color}" stroke-width="1.6"' if hollow else f'fill="{look.color}"'
    path = f'<path d="{mark_path(look.mark)}" {paint}/>'
    return Markup(f'<svg class="mark" viewBox="-5 -5 10 10" aria-hidden="true">{path}</svg>')


def mark_path(mark: str) -> str:
    """The outline of a mark of matplotlib, as SVG, 8 units wide."""
    from matplotlib.markers import MarkerStyle

    style = MarkerStyle(mark)
    outline: Any = style.get_path().transformed(style.get_transform()).to_polygons()[0]
    size = 4 / abs(outline).max()
    return "M" + "L".join(f"{size * x:.2f} {-size * y:.2f}" for x, y in outline[:-1]) + "Z"


def _style() -> str:
    """The styles, with the colours of methods in light and dark."""
    light, dark = ("".join(f"--m{i}: {color}; " for i, color in enumerate(colors)) for colors in (COLORS, DARK))
    return _text("style.css").replace("/* light methods */", light).replace("/* dark methods */", dark)


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
