"""Pictures of what happens to the patches: masked patches (EViT, Figure 3), or merged patches in one colour (TM).

Takes images and traces, never a model. Images are resized and cropped as for the model, but not normalised.
`masked` and `grouped` paint pixels; `panels` arranges the results.

Shape letters: Y X pixels (X all of them, P some), 3 colours, R C rows and columns of patches.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .kinds import is_whole
from .panels import SHORT_SIDE, Pixels, arrange, check_images, enlarged, per_pixel, picture_file
from .text import shown
from .tracing import LayerTrace, Trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Groups = NDArray[np.int64]
Painter = Callable[[Pixels, Groups], Pixels]

MAX_PANELS = 12  # in one row, as long as each method gets one
MAX_LAYERS = 4  # of one method

FADE = 0.8  # share of the new colour in a dropped or fused patch
WHITE = np.array((255, 255, 255))
DROPPED = np.array((246, 220, 218))  # not white, because gray images have white patches
FUSED = np.array(((186, 208, 232), (240, 214, 178), (196, 226, 196), (228, 198, 226)))  # first fused token, second...
TINT = 0.18  # share of the group's hue in its colour
EDGE = 0.4  # share of white, or black on bright images, in the edge of a group


def masked(pixels_YX3: Pixels, groups_RC: Groups) -> Pixels:
    """Fade dropped patches to rose and fused ones to another tint. Patches with their own token do not change.

    groups_RC: number of the token that holds each patch, -1 if dropped.
    """
    out, group_X = pixels_YX3.copy(), per_pixel(groups_RC, pixels_YX3).ravel()
    _blend(out, np.flatnonzero(group_X < 0), DROPPED, FADE)
    for i, group in enumerate(_shared_groups(groups_RC)):
        _blend(out, np.flatnonzero(group_X == group), FUSED[i % len(FUSED)], FADE)
    return out


def grouped(pixels_YX3: Pixels, groups_RC: Groups) -> Pixels:
    """Paint patches that share a token in their mean colour, with a tint per group and a thin edge.

    Dropped patches fade to rose. Patches with their own token do not change. groups_RC: as in `masked`.
    """
    out, group_X = pixels_YX3.copy(), per_pixel(groups_RC, pixels_YX3).ravel()
    _blend(out, np.flatnonzero(group_X < 0), DROPPED, FADE)
    rim_X = _rim(groups_RC, pixels_YX3).ravel()
    edge_3 = WHITE * (pixels_YX3.mean() < 170)
    for group in _shared_groups(groups_RC):
        at_P = np.flatnonzero(group_X == group)
        mean_3 = pixels_YX3.reshape(-1, 3)[at_P].mean(axis=0)
        out.reshape(-1, 3)[at_P] = mean_3
        row, column = np.argwhere(groups_RC == group)[0]
        _blend(out, at_P, _hue(row, column) * (0.4 + 0.6 * mean_3.mean() / 255), TINT)
        _blend(out, at_P[rim_X[at_P]], edge_3, EDGE)
    return out


CAPTIONS: Mapping[Painter, str] = {
    masked: "Rose: dropped.  Other pale tints: fused, one tint per token.",
    grouped: "One colour, their mean and a tint: patches that share one token.",
}
Style = Literal["auto", "masked", "grouped"]
STYLES: Mapping[str, Painter] = {"masked": masked, "grouped": grouped}


def layer_images(
    image: Image.Image, trace: Trace, index: int, *, style: Style = "auto", short_side: int = SHORT_SIDE
) -> tuple[Image.Image, ...]:
    """One picture per reducing block, for image number `index` of the traced batch.

    style: masked, grouped, or auto, which is masked if patches were dropped or all others fused into one token.
    short_side: the least number of pixels; images are enlarged by whole numbers, without smoothing.
    """
    paint, pixels_YX3 = painter(style, trace), enlarged(image, short_side)
    return tuple(Image.fromarray(paint(pixels_YX3, _groups(trace, layer, index))) for layer in trace.layers)


def painter(style: Style, trace: Trace) -> Painter:
    """The painter of a style. auto is `masked` if every block made at most one token that holds several patches."""
    if style in STYLES:
        return STYLES[style]
    if style != "auto":
        raise ValueError(f"style must be auto, {' or '.join(STYLES)}, not {style!r}.")
    num_shared = [int((layer.size_BN > 1).sum(dim=1).max()) for layer in trace.layers]
    return masked if all(num <= i + 1 for i, num in enumerate(num_shared)) else grouped


def draw_tokens(
    images: Sequence[Image.Image],
    traces: Mapping[str, Trace],
    path: Path | str,
    *,
    style: Style = "auto",
    max_layers: int | None = None,
) -> None:
    """Draw one row per image: the image, then what happens to its patches in each method, block by block.

    Args:
        images: the traced batch, in order.
        traces: results of `trace`, by the method's label.
        path: a PNG, SVG or PDF file, by its suffix.
        style: masked, grouped, or auto, which is masked if patches were dropped or all others fused into one token.
        max_layers: the number of reducing blocks to show per method, evenly spaced, with the last. None shows what
            fits.

    Raises:
        ValueError: If the suffix, the style or a trace does not fit.
    """
    with picture_file(path) as new:
        figure_for(images, traces, style=style, max_layers=max_layers).savefig(new)


def figure_for(
    images: Sequence[Image.Image],
    traces: Mapping[str, Trace],
    *,
    style: Style = "auto",
    max_layers: int | None = None,
) -> Figure:
    """The figure of `draw_tokens`, with the same arguments."""
    _check(images, traces, max_layers)
    max_layers = max_layers or min(MAX_LAYERS, max(1, MAX_PANELS // len(traces)))
    shown_layers = {method: _evenly(trace.layers, max_layers) for method, trace in traces.items()}
    painters = {method: painter(style, trace) for method, trace in traces.items()}
    rows = []
    for index, image in enumerate(images):
        row = [pixels_YX3 := enlarged(image, SHORT_SIDE)]
        for method, trace in traces.items():
            painted = [painters[method](pixels_YX3, _groups(trace, layer, index)) for layer in shown_layers[method]]
            row += painted or [pixels_YX3]
        rows.append(row)
    titles = {
        method: [f"block {layer.layer} · {layer.counted} tokens" for layer in layers] or ["nothing reduced"]
        for method, layers in shown_layers.items()
    }
    first = f"image · {next(iter(traces.values())).num_tokens} tokens"
    return arrange(rows, first, titles, "  ".join(CAPTIONS[paint] for paint in CAPTIONS if paint in painters.values()))


def _check(images: Sequence[Image.Image], traces: Mapping[str, Trace], max_layers: int | None) -> None:
    check_images(images)
    if not isinstance(traces, Mapping) or not traces or not all(isinstance(each, Trace) for each in traces.values()):
        raise ValueError("a picture needs at least one trace by its label: {'evit': trace}.")
    if max_layers is not None and not is_whole(max_layers, 1):
        raise ValueError(f"max_layers must be a whole number of at least 1, not {max_layers!r}.")
    for method, trace in traces.items():
        if trace.batch_size != len(images):
            raise ValueError(
                f"{shown(method)}: {trace.batch_size} images were traced, so {len(images)} cannot be drawn."
            )


def _evenly(layers: Sequence[LayerTrace], num: int) -> list[LayerTrace]:
    """At most `num` layers, evenly spaced, with the last one."""
    last = len(layers) - 1
    at = np.linspace(last, 0, min(num, len(layers))).round().astype(int)
    return [layers[i] for i in reversed(at.tolist())]


def _groups(trace: Trace, layer: LayerTrace, index: int) -> Groups:
    return layer.groups()[index].reshape(trace.grid).cpu().numpy()


def _shared_groups(groups_RC: Groups) -> list[int]:
    """The numbers of the tokens that hold several patches, increasing."""
    numbers, count = np.unique(groups_RC[groups_RC >= 0], return_counts=True)
    return [int(number) for number in numbers[count > 1]]


def _blend(pixels_YX3: Pixels, at_P: NDArray[np.intp], colour_3: NDArray[Any], share: float) -> None:
    """Mix a share of the colour into some pixels."""
    flat_X3 = pixels_YX3.reshape(-1, 3)
    flat_X3[at_P] = (flat_X3[at_P] * (1 - share) + colour_3 * share).round()


def _rim(groups_RC: Groups, pixels_YX3: Pixels) -> NDArray[np.bool_]:
    """The pixels next to another group. The line is thicker on larger pictures."""
    group_YX = per_pixel(groups_RC, pixels_YX3)
    rim_YX = np.zeros(group_YX.shape, dtype=bool)
    for step in range(1, max(1, min(group_YX.shape) // 200) + 1):
        across, down = group_YX[:, step:] != group_YX[:, :-step], group_YX[step:] != group_YX[:-step]
        rim_YX[:, step:] |= across
        rim_YX[:, :-step] |= across
        rim_YX[step:] |= down
        rim_YX[:-step] |= down
    return rim_YX


def _hue(row: int, column: int) -> NDArray[np.float64]:
    """A vivid colour for a patch, at least a sixth of the colour circle away from its neighbours."""
    return 255 * np.array(colorsys.hsv_to_rgb((0.755 * row + 0.57 * column) % 1, 0.8, 1.0))
