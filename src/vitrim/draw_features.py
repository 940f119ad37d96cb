"""Pictures of dense features: the first three principal components of the patches as red, green and blue.

As in Figure 1 of DINOv2 (https://arxiv.org/abs/2304.07193), without its removal of the background. Takes images and
maps, never a model. All maps use the components of the first, so that colours mean the same in all.

Shape letters: B images, C channels, H W rows and columns of patches; Y X pixels, 3 colours, X all patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .panels import SHORT_SIDE, Pixels, arrange, check_images, enlarged, per_pixel, picture_file

Maps = NDArray[np.float32]
CAPTION = "Colours: first three principal components of the features, those of the first column of maps."


def draw_features(images: Sequence[Image.Image], maps: Mapping[str, Maps], path: Path | str) -> None:
    """Draw one row per image: the image, then its maps [B, C, H, W] by label. The suffix chooses PNG, SVG or PDF."""
    check_images(images)
    if not maps:
        raise ValueError("a picture needs at least one map of each image.")
    for label, maps_BCHW in maps.items():
        if len(maps_BCHW) != len(images):
            raise ValueError(f"{label}: {len(maps_BCHW)} maps for {len(images)} images.")
    coloured = colours(list(maps.values()))
    rows = []
    for index, image in enumerate(images):
        pixels_YX3 = enlarged(image, SHORT_SIDE)
        rows.append([pixels_YX3, *(per_pixel(each[index], pixels_YX3) for each in coloured)])
    with picture_file(path) as new:
        arrange(rows, "image", {label: [""] for label in maps}, CAPTION).savefig(new)


def colours(maps: Sequence[Maps]) -> list[Pixels]:
    """Turn maps [B, C, H, W] into colours [B, H, W, 3], with the components and the scale of the first maps."""
    basis_XC = _patches(maps[0])
    mean_C = basis_XC.mean(axis=0)
    _, _, components_KC = np.linalg.svd(basis_XC - mean_C, full_matrices=False)
    axes_3C = components_KC[:3] * np.sign(components_KC[:3].sum(axis=1, keepdims=True))  # an axis may have either sign
    low_3, high_3 = np.percentile((basis_XC - mean_C) @ axes_3C.T, (2, 98), axis=0)
    painted = []
    for maps_BCHW in maps:
        B, _, H, W = maps_BCHW.shape
        share_X3 = ((_patches(maps_BCHW) - mean_C) @ axes_3C.T - low_3) / (high_3 - low_3)
        painted.append((255 * share_X3.clip(0, 1)).round().astype(np.uint8).reshape(B, H, W, 3))
    return painted


def _patches(maps_BCHW: Maps) -> NDArray[Any]:
    """All patches of all images: [B * H * W, C]."""
    return maps_BCHW.transpose(0, 2, 3, 1).reshape(-1, maps_BCHW.shape[1]).astype(np.float64)
