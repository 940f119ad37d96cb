"""curves.svg: what was logged, as lines."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from vitrim.train.curves import TITLES, curves_svg


def entry(step: int, **more: Any) -> dict[str, Any]:
    plain = {
        "step": step,
        "loss": 2 / step,
        "parts": {"class": 2 / step},
        "lr": 1e-3,
        "keep_rate": None,
        "accuracy": {},
    }
    return plain | more


def texts(svg: str) -> list[str]:
    """The words in a picture."""
    return ["".join(found.itertext()).strip() for found in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_every_logged_number_has_its_panel_and_its_name() -> None:
    rates = [(1.0, 1.0), (0.8, 0.7)]
    parts = [{"class": 1.0, "exits": 0.5}] * 2
    accuracy = [{}, {"top1": 40.0, "ema_top1": 38.0}]
    entries = [entry(i + 1, keep_rate=rates[i], parts=parts[i], accuracy=accuracy[i]) for i in range(2)]
    words = texts(curves_svg(entries))
    for name in (*TITLES.values(), "class", "exits", "top1", "ema_top1", "layer 1", "layer 2", "updates"):
        assert name in words, name


def test_layers_that_keep_the_same_share_are_one_line() -> None:
    words = texts(curves_svg([entry(i, keep_rate=[1 / i] * 3) for i in (1, 2, 3)]))
    assert "layer 1" not in words
    assert words.count("keep rate") == 1


@pytest.mark.parametrize("entries", [[entry(1)], []])
def test_a_single_entry_and_none_at_all_are_no_error(entries: list[dict[str, Any]]) -> None:
    words = texts(curves_svg(entries))
    assert (TITLES["loss"] in words) == bool(entries)
    assert TITLES["keep"] not in words
    assert TITLES["accuracy"] not in words


def test_a_single_entry_can_be_seen() -> None:
    assert "<use " in curves_svg([entry(1)])  # a marker at the point


def test_the_same_numbers_give_the_same_file() -> None:
    entries = [entry(i) for i in range(1, 5)]
    assert curves_svg(entries) == curves_svg(entries)
