"""Pictures show exactly the patches that a trace says, and are written whole or refused in one line."""

from __future__ import annotations

import errno
from xml.dom import minidom

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import vitrim
from vitrim.draw import draw_tokens, figure_for, grouped, layer_images, masked, painter
from vitrim.tracing import Trace, trace

GROUPS_RC = np.array([[0, 1, 2], [-1, 2, 2], [-1, 3, 3]])  # 0 and 1 alone, 2 and 3 shared, two patches dropped
PATCH = 20


def noise(height: int = 60, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def patch(pixels: np.ndarray, row: int, column: int, margin: int = 0) -> np.ndarray:
    """Pixels of one patch, without a margin."""
    rows, columns = (slice(i * PATCH + margin, (i + 1) * PATCH - margin) for i in (row, column))
    return pixels[rows, columns]


def traced(method: str = "evit", batch: int = 2, size: tuple[int, int] = (32, 32), **settings) -> Trace:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = VisionTransformer(img_size=size, patch_size=4, embed_dim=32, depth=4, num_heads=2, num_classes=5).eval()
    with trace(vitrim.reduce_tokens(model, method, **settings)) as t, torch.no_grad():
        model(torch.randn(batch, 3, *size))
    return t


def image(width: int = 32, height: int = 32) -> Image.Image:
    return Image.fromarray(noise(height, width))


@pytest.mark.parametrize("paint", [masked, grouped])
def test_patches_with_a_token_of_their_own_show_the_image(paint):
    pixels = noise()
    out = paint(pixels, GROUPS_RC)
    for row, column in ((0, 0), (0, 1)):
        assert np.array_equal(patch(out, row, column), patch(pixels, row, column))


@pytest.mark.parametrize("paint", [masked, grouped])
def test_painting_leaves_the_image_alone_and_keeps_its_shape(paint):
    pixels = noise()
    out = paint(pixels, GROUPS_RC)
    assert np.array_equal(pixels, noise())
    assert (out.shape, out.dtype) == (pixels.shape, np.uint8)


@pytest.mark.parametrize("paint", [masked, grouped])
def test_dropped_patches_are_pale_and_alike_but_not_white(paint):
    out = paint(noise(), GROUPS_RC).astype(float)
    assert patch(out, 1, 0).min() > 170
    red, _, blue = patch(out, 1, 0).mean(axis=(0, 1))
    assert red > blue + 10


def test_masked_tells_fused_patches_from_dropped_ones_and_fused_tokens_apart():
    out = masked(noise(), GROUPS_RC).astype(float)
    dropped, first, second = (patch(out, *at).mean(axis=(0, 1)) for at in ((1, 0), (1, 1), (2, 1)))
    assert np.abs(dropped - first).max() > 20
    assert np.abs(first - second).max() > 20
    assert np.abs(first - patch(out, 0, 2).mean(axis=(0, 1))).max() < 10


def test_grouped_gives_all_patches_of_a_token_one_colour_near_their_mean():
    pixels = noise()
    out = grouped(pixels, GROUPS_RC)
    inside = [patch(out, *at, margin=3).reshape(-1, 3) for at in ((0, 2), (1, 1), (1, 2))]
    colours = np.unique(np.concatenate(inside), axis=0)
    assert len(colours) == 1
    mean = np.concatenate([patch(pixels, *at).reshape(-1, 3) for at in ((0, 2), (1, 1), (1, 2))]).mean(axis=0)
    assert np.abs(colours[0] - mean).max() < 45


@pytest.mark.parametrize("neighbour", [(0, 1), (1, 0), (1, 1), (1, -1)])
def test_grouped_tells_neighbouring_groups_of_the_same_mean_colour_apart(neighbour):
    first, second = (0, 1), (neighbour[0], 1 + neighbour[1])
    groups_RC = np.arange(9).reshape(3, 3)
    groups_RC[2, 1:] = groups_RC[first], groups_RC[second]
    out = grouped(np.full((60, 60, 3), 128, np.uint8), groups_RC).astype(int)
    one, other = (patch(out, *at)[PATCH // 2, PATCH // 2] for at in (first, second))
    assert np.abs(one - other).max() > 9


def test_grouped_draws_edges_between_groups_and_none_inside_one():
    out = grouped(np.full((60, 60, 3), 40, np.uint8), GROUPS_RC).astype(int)
    inside = out[30, 30]
    assert (out[30, PATCH + 1 :] == inside).all()
    assert (out[30, PATCH] > inside).all()
    assert (out[2 * PATCH - 1, PATCH:] > inside).all()


@pytest.mark.parametrize("paint", [masked, grouped])
def test_images_that_are_no_multiple_of_the_grid_are_painted_whole(paint):
    pixels = noise(61, 97)
    groups_RC = np.arange(15).reshape(3, 5)
    groups_RC[2], groups_RC[:, 4] = -1, -1
    changed = (paint(pixels, groups_RC) != pixels).any(axis=2)
    assert changed[-1].mean() > 0.95
    assert changed[:, -1].mean() > 0.95
    assert not changed[:40, :77].any()


def test_layer_images_are_one_per_reducing_block_enlarged_by_whole_numbers():
    pictures = layer_images(image(), traced(), 1)
    assert [picture.size for picture in pictures] == [(416, 416)] * 3
    assert layer_images(image(), traced(), 0, short_side=30)[0].size == (32, 32)


def test_layer_images_are_of_the_image_asked_for():
    t = traced("random")
    t.layers[0].source_BP[1, :32] = -1
    first, second = (np.asarray(layer_images(image(), t, i, short_side=32)[0]) for i in (0, 1))
    assert first[:16].min() < 100
    assert second[:16].min() > 170


def test_gray_images_are_enlarged_by_repeating_pixels():
    gray = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8))
    figure = figure_for([gray, gray], {"nothing": traced(keep_rate=1.0)})
    shown = figure.axes[0].get_images()[0].get_array()
    assert np.array_equal(shown[::13, ::13, 0], np.asarray(gray))
    assert np.array_equal(shown[6::13, 6::13, 2], np.asarray(gray))


@pytest.mark.parametrize(
    ("method", "paint"),
    [("evit", masked), ("evit-nofuse", masked), ("random", masked), ("token_mergence", grouped)],
)
def test_the_style_follows_what_the_method_did(method, paint):
    assert painter("auto", traced(method)) is paint
    assert painter("grouped", traced(method)) is grouped
    assert painter("masked", traced(method)) is masked


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def test_a_figure_has_one_row_per_image_and_one_column_per_method_and_block():
    figure = figure_for([image(), image()], {"EViT": traced(), "TM": traced("token_mergence")})
    assert len(figure.axes) == 2 * (1 + 3 + 3)
    written = texts(figure)
    for text in ("image · 65 tokens", "EViT", "TM", "block 1 · 47 tokens", "block 1 · 46 tokens"):
        assert written.count(text) == 1, text
    assert [text for text in written if "dropped" in text and "share one token" in text]


def test_the_caption_explains_only_what_is_shown():
    assert not [text for text in texts(figure_for([image()], {"EViT": traced(batch=1)})) if "share" in text]


def test_panels_show_the_image_then_the_layers_in_order():
    t = traced("evit-nofuse", batch=1)
    shown = [axes.get_images()[0].get_array() for axes in figure_for([image()], {"EViT": t}).axes]
    assert np.array_equal(shown[0][::13, ::13], np.asarray(image()))
    for panel, picture in zip(shown[1:], layer_images(image(), t, 0), strict=True):
        assert np.array_equal(panel, np.asarray(picture))


def test_few_layers_are_spread_evenly_and_the_last_one_is_among_them():
    t = traced("tome", r=3, batch=1)
    assert [layer.layer for layer in t.layers] == [0, 1, 2, 3]
    for max_layers, blocks in ((1, (3,)), (2, (0, 3)), (9, (0, 1, 2, 3))):
        written = texts(figure_for([image()], {"ToMe": t}, max_layers=max_layers))
        assert [text.split()[1] for text in written if text.startswith("block")] == [str(i) for i in blocks]


def test_many_methods_share_the_width_and_none_is_left_out():
    t = traced(batch=1)
    for num_methods, num_panels in ((3, 9), (5, 10), (14, 14)):
        figure = figure_for([image()], {f"method {i}": t for i in range(num_methods)})
        assert len(figure.axes) == 1 + num_panels


def test_no_text_runs_into_its_neighbour_or_out_of_the_figure():
    t = traced("token_mergence", batch=1)
    labels = [f"beyond_attentive keep_rate=0.{i} scorer=received" for i in range(8)]
    for traces in ({"TM": t}, dict.fromkeys(labels, t)):
        figure = figure_for([image()], traces, max_layers=1)
        for text in figure.texts:
            box = text.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= figure.bbox.width, text
            assert text.get_text() not in labels or box.width <= 2 * figure.dpi, text


def test_a_method_that_reduced_nothing_says_so():
    figure = figure_for([image()], {"EViT": traced(batch=1, keep_rate=1.0)})
    assert "nothing reduced" in texts(figure)
    assert len(figure.axes) == 2


@pytest.mark.parametrize(("width", "height"), [(32, 64), (64, 32)])
def test_panels_keep_the_shape_of_the_image_dot_by_dot(width, height):
    figure = figure_for([image(width, height)], {"EViT": traced(batch=1, size=(height, width))})
    pixels = figure.axes[1].get_images()[0].get_array()
    box = figure.axes[1].get_window_extent()
    assert (round(box.height), round(box.width)) == pixels.shape[:2]


@pytest.mark.parametrize(("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")])
def test_the_suffix_chooses_the_format(tmp_path, name, start):
    draw_tokens([image()], {"EViT": traced(batch=1)}, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(start)


def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path):
    one, t = image(), traced(batch=1)
    with pytest.raises(ValueError, match=r"\.png.*\.svg.*\.pdf.*'a\.jpg'"):
        draw_tokens([one], {"EViT": t}, tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        draw_tokens([one], {"EViT": t}, tmp_path / "nowhere" / "a.png")
    for images, traces, reason in (
        ([], {"EViT": t}, "at least one image"),
        ([one], {}, "at least one trace"),
        ([one, one], {"EViT": t}, "EViT: 1 .* 2 "),
        ([one, image(40, 40)], {"EViT": traced()}, "one size"),
    ):
        with pytest.raises(ValueError, match=reason):
            figure_for(images, traces)
    with pytest.raises(ValueError, match=r"auto, masked or grouped.*'pretty'"):
        figure_for([one], {"EViT": t}, style="pretty")
    with pytest.raises(ValueError, match=r"at least 1.* 0"):
        figure_for([one], {"EViT": t}, max_layers=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"images": "ab"}, "at least one image"),
        ({"images": [Image.new("RGB", (0, 0))]}, "without pixels"),
        ({"traces": ["EViT"]}, "at least one trace"),
        ({"traces": {"EViT": None}}, "at least one trace"),
        ({"max_layers": 1.5}, "max_layers.*whole number"),
    ],
)
def test_arguments_of_other_kinds_are_refused(changes, reason):
    with pytest.raises(ValueError, match=reason):
        figure_for(**{"images": [image()], "traces": {"EViT": traced(batch=1)}} | changes)


def test_a_label_may_hold_anything_and_the_page_is_whole(tmp_path):
    draw_tokens([image()], {"$\\frac{1$ <b>\x1b[31m\n": traced(batch=1)}, tmp_path / "page.svg")
    minidom.parse(str(tmp_path / "page.svg"))


def test_a_page_that_cannot_be_finished_leaves_the_one_before(tmp_path, monkeypatch):
    page = tmp_path / "page.png"
    draw_tokens([image()], {"EViT": traced(batch=1)}, page)
    before = page.read_bytes()

    def half(_, path):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", half)
    with pytest.raises(OSError, match=r"No space left.*make room"):
        draw_tokens([image()], {"EViT": traced(batch=1)}, page)
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("page.png", before)]
