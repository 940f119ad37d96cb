"""A page for each registered method, and the table of all. Links in here start at the project's root."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

from .costs import costs
from .facts import NO_CODE, SOURCE, Facts
from .pictures import drawing, shown

UNSTARTED = "There are no rows of it in [results](results) yet."


def method_page(facts: Facts, picture: str) -> str:
    """The page in Markdown. picture: its file on the site, or why there is none."""
    parts = [
        f"# {facts.title}",
        prose(facts.does[:1]),
        _names(facts),
        f"## What happens to the patches\n\n{_picture(facts, picture)}",
        f"## How it works\n\n{prose([*facts.does[1:], *_explanation(facts)])}",
        _formula(facts),
        f"## Source\n\n{_source(facts)}",
        f"## Settings\n\n{_settings(facts)}",
        "## Measured cost\n\n" + ("\n\n".join(costs(facts)) or UNSTARTED),
    ]
    return "\n\n".join(part for part in parts if part.strip()) + "\n"


def methods_table(found: Sequence[Facts]) -> str:
    """The page of all methods."""
    lines = [
        "# All methods\n",
        "The page of a method shows what it does, its source, its settings, a picture, and its measured cost if there "
        "are rows of it. `vitrim methods` prints the same names in a terminal. "
        "[Methods and their settings](docs/methods.md) explains how to write settings on the command line.\n",
        "| method | names | what it does | from |",
        "|---|---|---|---|",
    ]
    for facts in found:
        names = ", ".join(f"`{name}`" for name in (facts.name, *facts.others))
        does = prose(facts.does[:1]).replace("\n", " ")
        lines.append(f"| [{facts.title}](methods/{facts.name}.md) | {names} | {does} | {_origin(facts)} |")
    listed = "\n".join(f"methods/{facts.name}" for facts in found)
    return "\n".join(lines) + f"\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"


def prose(parts: Sequence[str]) -> str:
    """Paragraphs of docstrings as Markdown."""
    return "\n\n".join(map(_paragraph, parts))


def is_formula(paragraph: str) -> bool:
    """Whether it is indented as a whole, as formulas stand in docstrings."""
    return all(line.startswith("    ") for line in paragraph.splitlines())


def _paragraph(text: str) -> str:
    text = re.sub(r"^- ", "\n- ", text, count=1, flags=re.M).strip()  # a list may follow a line of prose
    parts = re.split(r"(`[^`]*`|https?://\S*[^\s.,;:)])", text)
    parts[::2] = [re.sub(r"([*_<|\\\[])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [part if part.startswith("`") else f"<{part}>" for part in parts[1::2]]
    return "".join(parts)


def _explanation(facts: Facts) -> list[str]:
    """The docstring of its file without title and formulas, and without what the section Source says."""
    found = [NO_CODE.sub("", SOURCE.sub("", part)).strip() for part in facts.source if not is_formula(part)]
    return [part for part in found if part]


def _formula(facts: Facts) -> str:
    formulas = [textwrap.dedent(part) for part in facts.source if is_formula(part)]
    return "## Formula\n\n```text\n" + "\n\n".join(formulas) + "\n```" if formulas else ""


def _names(facts: Facts) -> str:
    where = f"`vitrim.{facts.public[0]}`" if facts.public else f"`{facts.home.__module__}.{facts.home.__qualname__}`"
    lines = ["| name | in Python |", "|---|---|", f"| `{facts.name}` | {where} |"]
    for name, settings in facts.others.items():
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        lines.append(f"| `{name}` | " + (f"the same with `{given}` |" if given else "the same |"))
    return "\n".join(lines)


def _picture(facts: Facts, picture: str) -> str:
    amount = facts.method.amount
    at = f", {amount.setting}={amount.usual:g}" if amount else ""
    use = f'```python\nvitrim.reduce_tokens(model, "{facts.name}"{at})\n```'
    if not picture.endswith(".png"):
        return f"{use}\n\nIt is not drawn here: {picture}"
    return f"{use}\n\n{shown(drawing(facts), picture, f'What {facts.title} leaves of four images')}"


def _source(facts: Facts) -> str:
    text = " ".join(" ".join(facts.source).split())
    lines = [f"- {prose([facts.paper])}"] if facts.paper else []
    for what, address, *more in SOURCE.findall(text):
        lines.append(f"- {what}: {', '.join(filter(None, (f'<{address}>', *more)))}")
    if match := NO_CODE.search(text):
        lines.append(f"- {match[0]}")
    return "\n".join([*lines, f"- This implementation: `{facts.home.__module__}`"])


def _origin(facts: Facts) -> str:
    title = re.findall(r"\(([^()]*\d{4}[^()]*)\)", facts.paper)
    address = next((address for what, address, *_ in SOURCE.findall(" ".join(facts.source)) if what == "Paper"), "")
    label = title[-1].replace("|", "\\|") if title else ""
    return f"[{label or 'paper'}]({address})" if address else label


def _settings(facts: Facts) -> str:
    lines = ["| setting | kind | default | meaning |", "|---|---|---|---|"]
    for setting in facts.settings:
        meaning = prose([setting.meaning]).replace("\n", " ").replace("\\|", "|").replace("|", "\\|")
        default = f"`{setting.default}`" if setting.default else ""
        lines.append(f"| `{setting.name}` | {setting.kind} | {default} | {meaning} |")
    amount = facts.method.amount
    if amount is not None:
        lines.append(
            f"\nThe strength is set by `{amount.setting}`; {amount.neutral:g} reduces nothing."
            + ("" if amount.solved else " The cost of a value depends on the images, so no budget can be solved for.")
        )
    if facts.method.varies:
        lines.append("\nImages keep different numbers of tokens, so it is neither compiled nor exported.")
    return "\n".join(lines)
