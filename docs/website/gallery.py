"""The gallery: what methods leave of the test images in the package. Each picture says the command that makes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

import vitrim

from .facts import Facts
from .pictures import draw, drawing, shown

EMBEDDED = "vitrim_fashion_tiny"  # which `vitrim draw` takes
A_PICTURE = 4  # methods side by side
RATES = ("0.7", "0.5", "0.3")
HEAD = """# Gallery

`vitrim draw` makes these pictures of four test images in the package, each time the site is built.
Rose: dropped. Other pale tints: fused into one token. One colour with an edge: merged into one token."""
SIDE_BY_SIDE = """## Side by side

The tokens after the last reducing block, at the same keep rate.
A method without a keep rate has the multiply-adds of EViT."""


def gallery_page(found: Sequence[Facts], images: Sequence[Path], folder: Path) -> str:
    """Draw, into gallery/ in that folder, and write the page."""
    (folder / "gallery").mkdir()
    solved = [facts.name for facts in found if facts.method.amount is not None and facts.method.amount.solved]
    sections, model = [HEAD, SIDE_BY_SIDE], vitrim.load_model(EMBEDDED)
    for rate in RATES:
        sections.append(f"### Keep rate {rate}")
        reaching = [name for name in solved if _reaches(model, name, float(rate))]
        if beyond := [f"`{name}`" for name in solved if name not in reaching]:
            sections.append(f"{', '.join(beyond)} cannot reduce that far.")
        for number, names in enumerate(_parted(reaching)):
            options = ["--methods", ",".join(names), "--keep-rates", rate, "--columns", "1"]
            picture = f"gallery/keep-{rate.replace('.', '-')}-{number}.png"
            if failed := draw(images, options, folder / picture):
                raise ValueError(failed)
            sections.append(shown(options, picture, f"What {', '.join(names)} leave of four images"))
    sections.append("## Block by block")
    for facts in found:
        sections.append(f"### [{facts.title}](methods/{facts.name}.md)")
        if (folder / f"methods/{facts.name}.png").is_file():
            sections.append(
                shown(drawing(facts), f"methods/{facts.name}.png", f"What {facts.title} leaves, block by block")
            )
    return "\n\n".join(sections) + "\n"


def _reaches(model: nn.Module, name: str, rate: float) -> bool:
    """Whether the method can meet what EViT costs at that keep rate."""
    try:
        vitrim.method_for_keep_rate(model, name, rate)
    except ValueError:
        return False
    return True


def _parted(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """As few parts as there must be, of like lengths."""
    pictures = -(-len(names) // A_PICTURE)
    size = -(-len(names) // max(1, pictures))
    yield from (names[start : start + size] for start in range(0, len(names), max(1, size)))
