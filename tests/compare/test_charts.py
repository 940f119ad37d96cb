"""Charts mark what is on the Pareto front, tell each point's numbers, and take the page's colours."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rows import make_row
from vitrim.compare.charts import AXES, accuracy_chart, method_colors, pareto_front, sampling_error

UNREDUCED = make_row("unreduced")
ROWS = [
    UNREDUCED,
    make_row("evit", "keep 0.7", top1=79.0, drop=1.0, gmacs=0.7, speedup=1.4),
    make_row("evit", "keep 0.5", top1=76.0, drop=4.0, gmacs=0.5, speedup=1.9),
    make_row("tome", "keep 0.7", top1=78.0, drop=2.0, gmacs=0.7, speedup=1.3),
]

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8)


@given(POINTS)
@pytest.mark.parametrize("cost", AXES)
def test_the_front_holds_what_no_row_beats(cost, points):
    rows = [make_row("m", str(i), top1=p[0], gmacs=p[1], speedup=p[2]) for i, p in enumerate(points)]

    def beats(a, b):
        cheaper = a.gmacs - b.gmacs if cost == "gmacs" else b.speedup - a.speedup
        return a.top1 >= b.top1 and cheaper <= 0 and (a.top1 > b.top1 or cheaper < 0)

    best = {(row.top1, getattr(row, cost)) for row in rows if not any(beats(other, row) for other in rows)}
    front = pareto_front(rows, cost)
    assert {(row.top1, getattr(row, cost)) for row in front} == best
    assert len(front) == len(best)


@pytest.mark.parametrize("cost", AXES)
def test_every_point_tells_its_numbers(cost):
    tree = ElementTree.fromstring(accuracy_chart(ROWS, cost))
    told = [title.text for title in tree.iter() if title.tag.endswith("title")]
    assert len(told) == len(ROWS)
    assert "evit keep 0.7: top-1 79.00 %, 0.7 GMACs, 1.40x" in told


def test_names_are_escaped():
    svg = accuracy_chart([UNREDUCED, make_row("a<b>&c", "keep 0.7", gmacs=0.7)], "gmacs")
    assert "a&lt;b&gt;&amp;c keep 0.7" in svg
    ElementTree.fromstring(svg)


def test_lines_and_text_take_the_pages_colours():
    svg = accuracy_chart(ROWS, "speedup")
    assert "currentColor" in svg
    assert "#0102" not in svg
    assert "DejaVu" not in svg


def test_the_unreduced_model_alone_can_be_drawn():
    ElementTree.fromstring(accuracy_chart([UNREDUCED], "gmacs"))


def test_the_same_rows_give_the_same_chart():
    assert accuracy_chart(ROWS, "gmacs") == accuracy_chart(ROWS, "gmacs")


def test_each_method_has_its_colour():
    colors = method_colors(ROWS)
    assert list(colors) == ["unreduced", "evit", "tome"]
    assert len(set(colors.values())) == 3


def test_sampling_error_of_a_share():
    assert sampling_error(make_row("unreduced", top1=50.0, num_images=400)) == pytest.approx(4.9)
